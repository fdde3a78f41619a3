"""Margins or noise: why a regime swaps more, or fewer, predictions than cross-entropy; means over pairs of runs."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from qcal.atomic import replacing
from qcal.functional.paired_t import MeanTest, mean_test
from qcal.report.comparisons import pairs_with_baseline
from qcal.report.logit_figures import LOGITS, cache_key, quantized_runs
from qcal.report.runs import Chapter, Run
from qcal.robustness import margins_or_noise, read_logits

__all__ = ["MeanMargins", "mean_margins"]

# Only the values are used: their spread over pairs makes the intervals.
_RESAMPLES = 1
_PARTS = ("difference", "margins", "noise")
Parts = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class MeanMargins:
    """The swap rate of a regime less that of cross-entropy, as forecast, and the parts that margins and noise owe.

    Attributes:
        regime: Not cross-entropy.
        setting: Such as `w4a4`.
        difference: Mean over pairs of runs, with Student's 95 % interval from three pairs on.
        margins: The part owed to margins.
        noise: The part owed to noise.
        measured: The measured difference.
    """

    regime: str
    setting: str
    difference: MeanTest
    margins: MeanTest
    noise: MeanTest
    measured: MeanTest


def mean_margins(chapter: Chapter, cache: Path, *, readable: Collection[str]) -> list[MeanMargins]:
    """Share out the difference of every regime from cross-entropy at every setting.

    Args:
        chapter: Runs that may be compared.
        cache: Where the figures of pairs are kept; made when missing.
        readable: Names of the runs whose logits can be read.

    Returns:
        By regime, then setting; nothing without pairs that have logits, of held-out images too.
    """
    found = []
    for regime in chapter.regimes:
        pairs = [(base[0], own[0]) for own, base in pairs_with_baseline(chapter, regime)]
        parts = [_parts(base, own, cache) for base, own in pairs if {base.name, own.name} <= set(readable)]
        for setting in chapter.settings:
            rows = [each[setting] for each in parts if setting in each]
            if rows:
                tests = {name: mean_test([row[name] for row in rows]) for name in (*_PARTS, "measured")}
                found.append(MeanMargins(regime, setting, **tests))
    return found


def _parts(base: Run, own: Run, cache: Path) -> Parts:
    paths = base.folder / LOGITS, own.folder / LOGITS
    kept = cache / f"{cache_key(*paths)}.json"
    if kept.is_file():
        content: Parts = json.loads(kept.read_text(encoding="utf-8"))
        return content
    logits = [read_logits(path) for path in paths]
    if not torch.equal(logits[0].target, logits[1].target):
        return {}  # other images, or another order: nothing can be exchanged
    before, after = (quantized_runs(path, each) for path, each in zip(paths, logits, strict=True))
    parts = {}
    for setting in before:
        if setting in after and before[setting].float_logits.shape == after[setting].float_logits.shape:
            found = margins_or_noise(before[setting], after[setting], resamples=_RESAMPLES)
            measured = own.settings[setting].swap_rate - base.settings[setting].swap_rate
            parts[setting] = {name: getattr(found, name).value for name in _PARTS} | {"measured": measured}
    with replacing(kept) as temporary:
        temporary.write_text(json.dumps(parts), encoding="utf-8")
    return parts
