"""The record of a study: what is written beside the checkpoints, and read again by reports.

Three files in one folder: `records.json` (everything but the logits), `records.csv` (one row a setting, for
spreadsheets) and `logits.npz` (`target`, `float` and one array a setting, and the same again under `recalibration/`:
enough to analyse the run again without the model).
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qcal.atomic import replacing
from qcal.robustness.comparison import Comparison, Scores, compare, score
from qcal.robustness.logits import FLOAT, FLOAT32, Logits
from qcal.robustness.study import Study

SCHEMA_VERSION = 2
"""Raised when a reader of the old files would misunderstand the new ones."""
RECALIBRATION = "recalibration/"
"""Before the names of arrays in `logits.npz` that are of images kept aside for recalibration."""
NOISE_IMAGES = "range_estimation/"
"""The same of range estimation images, where there is no recalibration split."""


@dataclass(frozen=True)
class Record:
    """A study in figures, and where it comes from.

    Attributes:
        float_scores: Scores of the float network; None if nothing could be measured.
        settings: Per setting's short form (`w4a8`), its `Comparison` with float; in the order of the grid.
        context: Plain values that say what was measured: config, versions, seed, data roles and hashes, placement,
            seconds.
        errors: What could not be measured and why, by setting or by what was being done; empty when all went well.
        schema_version: Of the files.
    """

    float_scores: Scores | None
    settings: dict[str, Comparison]
    # Any: whatever plain JSON the caller's config holds.
    context: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def build_record(study: Study, context: Mapping[str, Any] | None = None) -> Record:
    """Turn a study's logits into figures.

    Args:
        study: From `run_study`.
        context: Plain JSON values to keep beside the figures; placement, number of images and seconds are added.

    Returns:
        The record.

    Raises:
        ValueError: Logits that are not finite, or labels out of range.
    """
    compared = study.compared
    gathered: dict[str, Any] = {
        "num_images": len(compared),
        "range_estimation_images": study.range_images,
        "recalibration_images": 0 if study.recalibration is None else len(study.recalibration),
        "placement": study.placement,
        "seconds": study.seconds,
    }
    if compared.float32 is not None:
        gathered["precision_gap"] = _precision_gap(compared)
    settings = {name: compare(compared.float, logits, compared.target) for name, logits in compared.settings.items()}
    scores = score(compared.float, compared.target)
    return Record(scores, settings, {**(context or {}), **gathered}, dict(study.errors))


def _precision_gap(compared: Logits) -> dict[str, float]:
    """What float32 alone changes against the precision the network was trained and is compared in."""
    assert compared.float32 is not None
    gap = compare(compared.float, compared.float32, compared.target)
    largest = (compared.float - compared.float32).abs().max().item()
    return {"swap_rate": gap.swap_rate, "error_change": gap.error_change, "largest_logit_difference": largest}


def write_record(record: Record, folder: str | Path, *, study: Study | None = None) -> list[Path]:
    """Write the record's files, each whole or not at all.

    The logits go first, so that a `records.json` never lacks its arrays.

    Args:
        record: What to write.
        folder: Where; made when missing, older files of the same names are replaced.
        study: The logits; None leaves `logits.npz` out.

    Returns:
        The files written.

    Raises:
        OSError: The folder cannot be written.
        ValueError: The context holds something JSON cannot.
    """
    folder = Path(folder)
    text = json.dumps(_as_json(record), indent=2, allow_nan=False)
    written = []
    if study is not None:
        written.append(write_logits(study, folder / "logits.npz"))
    written.append(_write_csv(record, folder / "records.csv"))
    with replacing(folder / "records.json") as path:
        path.write_text(text + "\n", encoding="utf-8")
    return [*written, folder / "records.json"]


def read_record(folder: str | Path) -> Record:
    """Read what `write_record` wrote.

    Args:
        folder: The folder that holds `records.json`.

    Returns:
        The record, equal to the one written.

    Raises:
        FileNotFoundError: There is no record.
        ValueError: It is not whole, or of another schema version.
    """
    path = Path(folder) / "records.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no record {path}. Pass the folder a run wrote its `records.json` to.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not whole JSON ({error}). Run the study again: `test --ckpt_path ...`.") from error
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this qcal reads {SCHEMA_VERSION}. Use the qcal that wrote it, "
            "or run the study again."
        )
    settings = {row.pop("setting"): Comparison(**row) for row in content["settings"]}
    scores = None if content["float"] is None else Scores(**content["float"])
    return Record(scores, settings, content["context"], content["errors"])


def write_logits(study: Study, path: str | Path) -> Path:
    """Write a study's logits as one compressed `.npz`, whole or not at all."""
    arrays = _arrays(study.compared, "")
    for prefix, held_out in ((RECALIBRATION, study.recalibration), (NOISE_IMAGES, study.noise_images)):
        if held_out is not None:
            arrays |= _arrays(held_out, prefix)
    # A file object, because `savez` adds a suffix to names it does not like.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy takes the names for its own arguments
    return Path(path)


def read_logits(path: str | Path) -> Logits:
    """The logits on the compared images that `write_logits` wrote, as tensors."""
    return _read(path, "")


def read_recalibration_logits(path: str | Path) -> Logits | None:
    """The same on the images kept aside for recalibration; None if the study had none."""
    return _read_part(path, RECALIBRATION)


def read_noise_logits(path: str | Path) -> Logits | None:
    """The same on the range estimation images, kept where there was no recalibration split; else None."""
    return _read_part(path, NOISE_IMAGES)


def _read_part(path: str | Path, prefix: str) -> Logits | None:
    with np.load(Path(path), allow_pickle=False) as arrays:
        has_any = f"{prefix}target" in arrays.files
    return _read(path, prefix) if has_any else None


def _arrays(logits: Logits, prefix: str) -> dict[str, np.ndarray]:
    arrays = {"target": logits.target, FLOAT: logits.float, **logits.settings}
    if logits.float32 is not None:
        arrays[FLOAT32] = logits.float32
    return {prefix + name: array.numpy() for name, array in arrays.items()}


def _read(path: str | Path, prefix: str) -> Logits:
    with np.load(Path(path), allow_pickle=False) as arrays:
        names = [name for name in arrays.files if name.startswith(prefix) and "/" not in name.removeprefix(prefix)]
        tensors = {name.removeprefix(prefix): torch.from_numpy(arrays[name]) for name in names}
    target, plain, full = tensors.pop("target"), tensors.pop(FLOAT), tensors.pop(FLOAT32, None)
    return Logits(target, plain, tensors, full)


def _as_json(record: Record) -> dict[str, Any]:
    """The layout of `records.json`. Any: a nesting of plain JSON values."""
    return {
        "schema_version": record.schema_version,
        "float": None if record.float_scores is None else asdict(record.float_scores),
        "settings": [{"setting": name, **asdict(comparison)} for name, comparison in record.settings.items()],
        "context": record.context,
        "errors": record.errors,
    }


def _write_csv(record: Record, path: Path) -> Path:
    columns = ["setting", *(f.name for f in fields(Comparison))]
    rows = [] if record.float_scores is None else [{"setting": "float", **asdict(record.float_scores)}]
    rows += [{"setting": name, **asdict(comparison)} for name, comparison in record.settings.items()]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path
