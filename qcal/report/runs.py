"""One run of a report, and the runs that may be compared with each other."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from qcal.report.find_records import RUN_STATE, Found
from qcal.report.regime import BASELINE, data_of, model_of, recipe_of, regime_of
from qcal.robustness import Comparison, Scores

__all__ = ["Chapter", "Run", "chapters", "read_run"]


@dataclass(frozen=True)
class Run:
    """A trained network, and what quantization did to it.

    Attributes:
        name: Told from all others of the report.
        folder: Of its record.
        regime: How its confidence was moved; its own name if the record has no config.
        seed: Of its training; None if unknown.
        model: Its network.
        data: Its data set.
        recipe: Hash of what else makes its figures; None if unknown.
        images: Which images it was compared on, as far as the record tells.
        num_images: Their number.
        scores: Of the float network.
        settings: Per setting, its comparison with float.
        context: The record's. (Any: plain JSON.)
        errors: What could not be measured.
        seconds: From the start of the run to its end, by its sweep; None if unknown.
    """

    name: str
    folder: Path
    regime: str
    seed: int | None
    model: str
    data: str
    recipe: str | None
    images: str
    num_images: int
    scores: Scores
    settings: dict[str, Comparison]
    context: dict[str, Any]
    errors: dict[str, str]
    seconds: float | None


@dataclass(frozen=True)
class Chapter:
    """Runs of one network on the same images of one data set: what may be compared.

    Attributes:
        title: Network and data.
        runs: By regime, then seed.
        regimes: Cross-entropy first, then from under- to overconfident.
        settings: In the order of the grids.
        num_images: Compared in each run.
    """

    title: str
    runs: tuple[Run, ...]
    regimes: tuple[str, ...]
    settings: tuple[str, ...]
    num_images: int

    def of(self, regime: str) -> tuple[Run, ...]:
        """The runs of one regime."""
        return tuple(run for run in self.runs if run.regime == regime)


def read_run(found: Found) -> Run:
    """Name what a record speaks of.

    Args:
        found: With a float network and at least one setting.

    Returns:
        The run.
    """
    record = found.record
    assert record.float_scores is not None
    context = record.context
    config = context.get("config") or None
    comparisons = list(record.settings.values())
    data = context.get("data") or {}
    return Run(
        name=found.name,
        folder=found.folder,
        regime=regime_of(config) if config else found.name,
        seed=context.get("seed"),
        model=model_of(config) if config else str(context.get("network", "network")),
        data=data_of(config) if config else "data not named",
        recipe=recipe_of(config) if config else None,
        images=_images(data),
        num_images=comparisons[0].num_images,
        scores=record.float_scores,
        settings=record.settings,
        context=context,
        errors=record.errors,
        seconds=_seconds(found.run_folder),
    )


def chapters(runs: Sequence[Run]) -> list[Chapter]:
    """Group runs by what may be compared: one network, one data set, the same images.

    Args:
        runs: At least one.

    Returns:
        The groups, the one with the most runs first.

    Example:
        >>> chapters([])
        []
    """
    groups: dict[tuple[str, str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.model, run.data, run.images, run.num_images), []).append(run)
    titles = [f"{model} on {data}" for model, data, _, _ in groups]
    made = []
    for (model, data, _, num_images), members in groups.items():
        title = f"{model} on {data}"
        if titles.count(title) > 1:
            title += f", {num_images:,} images as in {members[0].name}"
        made.append(_chapter(title, members, num_images))
    return sorted(made, key=lambda chapter: -len(chapter.runs))


def _chapter(title: str, runs: Sequence[Run], num_images: int) -> Chapter:
    mean: dict[str, float] = {}
    for regime in dict.fromkeys(run.regime for run in runs):
        values = [run.scores.overconfidence for run in runs if run.regime == regime]
        mean[regime] = sum(values) / len(values)
    regimes = sorted(mean, key=lambda regime: (regime != BASELINE, mean[regime]))
    ordered = sorted(runs, key=lambda run: (regimes.index(run.regime), run.seed is None, run.seed or 0, run.name))
    settings = tuple(dict.fromkeys(setting for run in runs for setting in run.settings))
    return Chapter(title, tuple(ordered), tuple(regimes), settings, num_images)


def _images(data: dict[str, Any]) -> str:
    """What tells the compared images from others: the hash of their split, or its name."""
    split = data.get("split") or ""
    role = (data.get("roles") or {}).get(split) or {}
    return "/".join(str(role[key]) for key in ("sha256", "pool_sha256") if key in role) or str(split)


def _seconds(folder: Path) -> float | None:
    try:
        state = json.loads((folder / RUN_STATE).read_text(encoding="utf-8"))
        span = datetime.fromisoformat(state["finished"]) - datetime.fromisoformat(state["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not a run of a sweep, or one that goes on
    return span.total_seconds()
