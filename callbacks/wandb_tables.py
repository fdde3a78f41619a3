"""What a study says in rows and columns, for the tables of Weights & Biases; plain values, without its package."""

from dataclasses import asdict, fields

from qcal.functional.confidence import confidence_from_logits
from qcal.functional.swap_curves import SwapCurve, score_bins, swap_curve
from qcal.functional.swaps import lowest_argmax
from qcal.quantization import Setting
from qcal.robustness import Comparison, Logits, Record

Cell = str | float | int | None
Rows = list[list[Cell]]

SWAP_CURVE_BINS = 10
_SETTING = ("setting", "weight_bits", "activation_bits")
_CURVE = tuple(column.name for column in fields(SwapCurve) if column.name not in ("binning", "edges"))


def settings_table(record: Record) -> tuple[list[str], Rows]:
    """One row a setting, in the order of the grid, with everything its comparison with float holds.

    Args:
        record: What was measured.

    Returns:
        Columns `setting`, `weight_bits`, `activation_bits` (None for float) and those of
        `qcal.robustness.Comparison`; and the rows, where what is undefined is None.

    Example:
        >>> import torch
        >>> from qcal.robustness import Study, build_record
        >>> before, after = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.1]])
        >>> compared = Logits(torch.tensor([0, 0]), before, {"w4a8": after})
        >>> columns, rows = settings_table(build_record(Study(compared)))
        >>> rows[0][:3], rows[0][columns.index("error_change")]
        (['w4a8', 4, 8], 0.5)
    """
    columns = [*_SETTING, *(column.name for column in fields(Comparison))]
    return columns, [[*_bits(name), *asdict(comparison).values()] for name, comparison in record.settings.items()]


def swap_curve_table(logits: Logits, num_bins: int = SWAP_CURVE_BINS) -> tuple[list[str], Rows]:
    """Where along float confidence the swaps lie: one row a setting and bin.

    Bins hold equally many images and are the same for all settings, so that settings can be laid over each other.

    Args:
        logits: N images, of the float network and of every setting.
        num_bins: At most; there are no more than images.

    Returns:
        Columns `setting`, `weight_bits`, `activation_bits`, `bin` (from 0), `confidence_from`, `confidence_to` (the bin
        is what lies between, with its upper end) and those of `qcal.functional.swap_curves.SwapCurve`; and the rows.

    Raises:
        ValueError: There are no images, or logits are not finite.

    Example:
        >>> import torch
        >>> before, after = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.1]])
        >>> columns, rows = swap_curve_table(Logits(torch.tensor([0, 0]), before, {"w4a8": after}), num_bins=2)
        >>> [(row[columns.index("count")], row[columns.index("swap_rate")]) for row in rows]
        [(1, 1.0), (1, 0.0)]
    """
    confidence, _ = confidence_from_logits(logits.float)
    bins = score_bins(confidence, binning="equal_count", num_bins=num_bins)
    before = lowest_argmax(logits.float)
    rows: Rows = []
    for name, each in logits.settings.items():
        after = lowest_argmax(each)
        curve = swap_curve(bins, before != after, before == logits.target, after == logits.target)
        columns = [getattr(curve, column) for column in _CURVE]
        for place, values in enumerate(zip(curve.edges, curve.edges[1:], *columns, strict=False)):
            rows.append([*_bits(name), place, *values])
    return [*_SETTING, "bin", "confidence_from", "confidence_to", *_CURVE], rows


def _bits(name: str) -> list[Cell]:
    setting = Setting.parse(name)
    return [name, setting.weight_bits, setting.activation_bits]
