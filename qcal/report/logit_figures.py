"""What a report needs of a run's logits, small enough to hold for a hundred runs; and the run's analysis."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qcal.atomic import replacing
from qcal.functional.calibration import BinSums, bin_sums
from qcal.functional.confidence import confidence_from_logits
from qcal.functional.swaps import lowest_argmax
from qcal.robustness import (
    Analysis,
    Logits,
    QuantizedRun,
    analyse,
    read_analysis,
    read_logits,
    read_noise_logits,
    read_recalibration_logits,
)

__all__ = [
    "CURVE_BINS",
    "RELIABILITY_BINS",
    "LogitFigures",
    "add_bins",
    "cache_key",
    "logit_figures",
    "open_logits",
    "quantized_runs",
    "run_analysis",
]

LOGITS = "logits.npz"
RELIABILITY_BINS = 15
CURVE_BINS = 10
FLOAT = "float"


@dataclass(frozen=True, eq=False)  # eq: tensors have no truth value
class LogitFigures:
    """Sums over the images of one run.

    Attributes:
        reliability: `float` and each setting, its 15 bins of confidence.
        swaps: Each setting, 10 equal-width bins of float confidence, with the swaps counted where `correct` is said.
        swapped_confidence: Each setting, the float confidence of its swapped predictions, `(S,)`.
    """

    reliability: dict[str, BinSums]
    swaps: dict[str, BinSums]
    swapped_confidence: dict[str, Tensor]


def logit_figures(logits: Logits) -> LogitFigures:
    """Count what a report draws.

    Args:
        logits: On the compared images.

    Returns:
        The sums.

    Example:
        >>> before, after = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.1]])
        >>> logit_figures(Logits(torch.tensor([0, 0]), before, {"w4a4": after})).swaps["w4a4"].correct.sum().item()
        1
    """
    confidence, _ = confidence_from_logits(logits.float)
    prediction = lowest_argmax(logits.float)
    reliability, swaps, swapped_confidence = {}, {}, {}
    for name, each in {FLOAT: logits.float, **logits.settings}.items():
        own, _ = confidence_from_logits(each)
        chosen = lowest_argmax(each)
        reliability[name] = bin_sums(own, chosen == logits.target, num_bins=RELIABILITY_BINS)
        if name != FLOAT:
            swaps[name] = bin_sums(confidence, chosen != prediction, num_bins=CURVE_BINS)
            swapped_confidence[name] = confidence[chosen != prediction]
    return LogitFigures(reliability, swaps, swapped_confidence)


def add_bins(parts: list[BinSums]) -> BinSums:
    """Bins of several runs put together; at least one.

    Example:
        >>> one = bin_sums(torch.tensor([0.3]), torch.tensor([True]), num_bins=2)
        >>> add_bins([one, one]).count.tolist()
        [2, 0]
    """
    return BinSums(
        count=torch.stack([part.count for part in parts]).sum(dim=0),
        confidence=torch.stack([part.confidence for part in parts]).sum(dim=0),
        correct=torch.stack([part.correct for part in parts]).sum(dim=0),
    )


def open_logits(folder: Path) -> Logits | str:
    """The logits of a record, or why there are none.

    Args:
        folder: Of the record.

    Returns:
        The logits on the compared images, or a sentence that says how to go on.
    """
    path = folder / LOGITS
    if not path.is_file():
        return f"There is no {LOGITS} beside the record. Run the study again to have it."
    try:
        # First, because numpy leaves a file open in which it finds no archive.
        if not zipfile.is_zipfile(path):
            raise ValueError("it is cut short, or no archive")
        return read_logits(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        return f"{LOGITS} beside the record cannot be read ({error}). Run the study again."


def run_analysis(folder: Path, logits: Logits | str, cache: Path) -> Mapping[str, Any] | str:
    """The analysis of a run's logits: as its study wrote it, as an earlier report made it, or made now and kept.

    Args:
        folder: Of the record.
        logits: From `open_logits`.
        cache: Where reports keep analyses; made when missing.

    Returns:
        Plain values (Any: JSON) laid out as `qcal.robustness.Analysis`, or why there are none.
    """
    try:
        written = read_analysis(folder)
    except (FileNotFoundError, ValueError):  # of an older study, or cut short: the logits tell
        written = {}
    if {"probabilities", "answers"} <= set(written):
        return written
    if isinstance(logits, str):
        return logits
    path = folder / LOGITS
    kept = cache / f"{cache_key(path)}.json"
    if kept.is_file():
        content: Mapping[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return content
    analysis: Analysis = analyse(logits, read_recalibration_logits(path), read_noise_logits(path))
    text = json.dumps(asdict(analysis), allow_nan=False)
    with replacing(kept) as temporary:
        temporary.write_text(text, encoding="utf-8")
    plain: Mapping[str, Any] = json.loads(text)
    return plain


def quantized_runs(path: Path, logits: Logits) -> dict[str, QuantizedRun]:
    """Each setting as `margins_or_noise` takes it; a setting without held-out logits is left out."""
    held_out = read_recalibration_logits(path) or read_noise_logits(path)
    if held_out is None:
        return {}
    return {
        name: QuantizedRun(logits.float, (held_out.float, held_out.settings[name]), each)
        for name, each in logits.settings.items()
        if name in held_out.settings
    }


def cache_key(*paths: Path) -> str:
    """A name for what follows from some files, as they are now."""
    parts = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]
