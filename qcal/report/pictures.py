"""The pictures of one record, drawn and saved."""

from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure

from qcal.functional.calibration import ReliabilityBins, reliability_bins
from qcal.functional.confidence import confidence_from_logits
from qcal.functional.swaps import lowest_argmax
from qcal.plots import reliability_figure, save_figure, swap_figure
from qcal.robustness import Record, Study


def draw_pictures(record: Record, study: Study) -> dict[str, Figure]:
    """Draw what a record shows.

    Args:
        record: The figures.
        study: The logits they were made of.

    Returns:
        `reliability` (float and every setting, with confidence histograms) and `swaps` (the paper's three panels), by
        name.
    """
    compared = study.compared
    logits = {"float": compared.float, **compared.settings}
    bins: dict[str, ReliabilityBins] = {}
    for name, each in logits.items():
        confidence, _ = confidence_from_logits(each)
        bins[name] = reliability_bins(confidence, lowest_argmax(each) == compared.target)
    float_confidence, _ = confidence_from_logits(compared.float)
    float_prediction = lowest_argmax(compared.float)
    swapped_confidence = [
        float_confidence[float_prediction != lowest_argmax(each)].numpy() for each in compared.settings.values()
    ]
    rows = [asdict(comparison) for comparison in record.settings.values()]
    return {
        "reliability": reliability_figure(bins),
        "swaps": swap_figure(
            list(record.settings),
            swap_rate=[row["swap_rate"] for row in rows],
            error_change=[row["error_change"] for row in rows],
            damage_per_swap=[row["damage_per_swap"] for row in rows],
            swapped_confidence=swapped_confidence,
            num_images=len(compared),
        ),
    }


def save_pictures(record: Record, study: Study, folder: Path) -> dict[str, Figure]:
    """Draw a record's pictures and save each in `folder`; returns them by name."""
    figures = draw_pictures(record, study)
    for name, figure in figures.items():
        save_figure(figure, folder, name)
    return figures
