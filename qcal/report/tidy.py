"""The tidy table: one row a run and network (float, or a setting), with all that tells runs apart; CSV and Parquet."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qcal.atomic import replacing
from qcal.report.runs import Run
from qcal.robustness import Comparison

__all__ = ["tidy_rows", "write_tidy"]

Row = dict[str, Any]  # Any: str, int, float or None, by column

_TEXT = ("run", "folder", "model", "data", "regime", "recipe", "created", "weights_sha256", "qcal", "torch", "setting")
_WHOLE = ("seed", "epochs", "num_images")
_FLOAT_SCORES = ("accuracy", "overconfidence", "ece", "nll")
_FIGURES = tuple(each.name for each in fields(Comparison) if each.name != "num_images")
_COLUMNS = (
    *_TEXT[:-1],
    *_WHOLE,
    "run_seconds",
    "study_seconds",
    *(f"float_{name}" for name in _FLOAT_SCORES),
    "setting",
    *_FIGURES,
)


def tidy_rows(runs: Sequence[Run]) -> list[Row]:
    """One row for the float network of each run (setting `float`), and one for each of its settings.

    Args:
        runs: In the order of the rows.

    Returns:
        Rows of the same keys; fractions, not percent; None where a figure is undefined.

    Example:
        >>> tidy_rows([])
        []
    """
    rows = []
    for run in runs:
        common = _of_run(run)
        rows.append({**dict.fromkeys(_COLUMNS), **common, "setting": "float", **asdict(run.scores)})
        rows += [{**common, "setting": setting, **asdict(each)} for setting, each in run.settings.items()]
    return rows


def write_tidy(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write `runs.csv` and `runs.parquet`, each whole or not at all.

    Args:
        runs: At least one.
        folder: Where to; made when missing.

    Returns:
        The two paths.

    Raises:
        OSError: The folder cannot be written.
    """
    rows, names = tidy_rows(runs), ("runs.csv", "runs.parquet")
    with replacing(folder / names[0]) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    types = {name: pa.string() for name in _TEXT} | {name: pa.int64() for name in _WHOLE}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in _COLUMNS])
    with replacing(folder / names[1]) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
    return [folder / name for name in names]


def _of_run(run: Run) -> Row:
    context = run.context
    versions = context.get("versions") or {}
    return {
        "run": run.name,
        "folder": str(run.folder),
        "model": run.model,
        "data": run.data,
        "regime": run.regime,
        "recipe": run.recipe,
        "created": context.get("created"),
        "weights_sha256": context.get("weights_sha256"),
        "qcal": versions.get("qcal"),
        "torch": versions.get("torch"),
        "seed": run.seed,
        "epochs": context.get("epochs"),
        "num_images": run.num_images,
        "run_seconds": run.seconds,
        "study_seconds": sum((context.get("seconds") or {}).values()) or None,
        **{f"float_{name}": getattr(run.scores, name) for name in _FLOAT_SCORES},
    }
