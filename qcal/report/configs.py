"""The configs of many runs told once: what all share, and what each has of its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcal.report.runs import Run
from qcal.report.tables import Cell, Table
from qcal.sweep.config_hash import without_places

__all__ = ["Configs", "compare_configs"]

Path = tuple[str, ...]


@dataclass(frozen=True)
class Configs:
    """The configs of runs, taken apart.

    Attributes:
        shared: What all have alike, nested as in a config and without what is null; empty where nothing is.
            (Any: the plain values of a YAML file.)
        own: One row a run: the keys whose values are not the same in all, with that run's. No rows for a single run.
        without: Names of the runs whose record holds no config.
    """

    shared: dict[str, Any]
    own: Table
    without: tuple[str, ...]


def compare_configs(runs: Sequence[Run]) -> Configs:
    """Take the configs of runs apart; folders, tracking and progress bars are left out.

    Args:
        runs: In the order of the rows.

    Returns:
        What is shared, and what is not.

    Example:
        >>> compare_configs([]).shared
        {}
    """
    flat = {run.name: _flatten(without_places(run.context["config"])) for run in runs if run.context.get("config")}
    shared = _shared(list(flat.values()))
    rows = [
        [Cell(name, name, name), Cell(text := _told(values, shared), text)]
        for name, values in flat.items()
        if len(flat) > 1
    ]
    caption = "Keys of the config that are not the same in all runs; folders and tracking are left out."
    table = Table("What each run has of its own", caption, ["run", "own"], rows)
    without = tuple(run.name for run in runs if run.name not in flat)
    return Configs(_nested({path: value for path, value in shared.items() if value is not None}), table, without)


def _flatten(value: dict[str, Any], above: Path = ()) -> dict[Path, Any]:  # Any: the plain values of a YAML file
    """The leaves by their paths; a list is a leaf, and so is an empty mapping."""
    leaves: dict[Path, Any] = {}
    for key, each in value.items():
        path = (*above, str(key))
        if isinstance(each, dict) and each:
            leaves |= _flatten(each, path)
        else:
            leaves[path] = each
    return leaves


def _shared(configs: Sequence[dict[Path, Any]]) -> dict[Path, Any]:
    if not configs:
        return {}
    first, *others = configs
    return {
        path: value
        for path, value in first.items()
        if all(path in other and other[path] == value and type(other[path]) is type(value) for other in others)
    }


def _nested(leaves: dict[Path, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in leaves.items():
        place = tree
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = value
    return tree


def _told(values: dict[Path, Any], shared: dict[Path, Any]) -> str:
    own = {path: value for path, value in values.items() if path not in shared}
    return "; ".join(
        f"{'.'.join(path)} {value if isinstance(value, str) else json.dumps(value)}" for path, value in own.items()
    )
