"""Where the swaps lie: their share against a score of the float network, with the float network's accuracy beneath.

References:
    Xia, Ha, Azevedo, Maji: An Underexplored Dilemma between Confidence and Calibration in Quantized Neural Networks,
    2021, arXiv 2111.08163, figure 2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcal.functional.swap_curves import SwapCurve
from qcal.plots.style import FLOAT, FONT_SIZE, INK, LINE_WIDTH, dress, percent_axis, setting_colour

_MARKERS = "osD^vPX*"  # beside colour, for print in grey
_WIDTH, _HEIGHT = 4.4, 4.6


def swap_curve_panel(curves: Mapping[str, SwapCurve], *, ax: Axes, score: str = "float confidence") -> Axes:
    """Draw the share swapped in each bin of a score, one line a setting, with 95 % Wilson intervals.

    Each point stands at the mean score of its bin; bins without images have none.

    Args:
        curves: By setting, in the order to draw them, at least one.
        ax: Where to draw.
        score: Name of the score, for the axis.

    Returns:
        `ax`, with one line a setting, and a legend.

    Raises:
        ValueError: There is no curve.

    Example:
        >>> import torch
        >>> from qcal.functional.swap_curves import score_bins, swap_curve
        >>> yes, no = torch.tensor([True, True]), torch.tensor([True, False])
        >>> bins = score_bins(torch.tensor([0.3, 0.9]), binning="equal_count", num_bins=2)
        >>> ax = swap_curve_panel({"w4a8": swap_curve(bins, no, yes, yes)}, ax=Figure().add_subplot())
        >>> [float(share) for share in ax.lines[0].get_ydata()]
        [1.0, 0.0]
    """
    check_curves(curves)
    dress(ax, title="Where predictions swap", subtitle="95 % Wilson intervals", xlabel=score, ylabel="swapped")
    draw_curves(curves, ax=ax)
    ax.set_ylim(bottom=0)
    percent_axis(ax)
    ax.legend(fontsize=FONT_SIZE, frameon=False, handlelength=1.8)
    return ax


def draw_curves(curves: Mapping[str, SwapCurve], *, ax: Axes, fewest: int = 1) -> None:
    """Draw the share swapped against the mean score of each bin with `fewest` images or more, one line a setting."""
    for place, (setting, curve) in enumerate(curves.items()):
        drawn = ax.errorbar(
            _kept(curve, curve.mean_score, fewest),
            _kept(curve, curve.swap_rate, fewest),
            yerr=_reach(curve, curve.swap_rate, curve.swap_low, curve.swap_high, fewest),
            color=setting_colour(setting),
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=4,
            markeredgecolor=INK,
            markeredgewidth=0.5 * LINE_WIDTH,
            linewidth=1.6 * LINE_WIDTH,
            elinewidth=LINE_WIDTH,
            capsize=1.5,
            label=setting,
        )
        drawn.lines[0].set_zorder(3)


def float_accuracy_panel(curve: SwapCurve, *, ax: Axes, score: str = "float confidence") -> Axes:
    """Draw the float network's accuracy in each bin of a score, with 95 % Wilson intervals.

    Args:
        curve: Of any setting; the float network's share is the same in all.
        ax: Where to draw.
        score: Name of the score, for the axis.

    Returns:
        `ax`, its vertical axis 0 to 1.

    Raises:
        ValueError: The curve has no images.

    Example:
        >>> import torch
        >>> from qcal.functional.swap_curves import score_bins, swap_curve
        >>> no, yes = torch.tensor([False, False]), torch.tensor([True, False])
        >>> bins = score_bins(torch.tensor([0.3, 0.9]), binning="equal_count", num_bins=2)
        >>> ax = float_accuracy_panel(swap_curve(bins, no, yes, yes), ax=Figure().add_subplot())
        >>> [float(share) for share in ax.lines[0].get_ydata()]
        [1.0, 0.0]
    """
    check_curves({FLOAT: curve})
    dress(ax, xlabel=score, ylabel="float accuracy")
    ax.errorbar(
        _kept(curve, curve.mean_score),
        _kept(curve, curve.float_accuracy),
        yerr=_reach(curve, curve.float_accuracy, curve.float_accuracy_low, curve.float_accuracy_high),
        color=setting_colour(FLOAT),
        marker="o",
        markersize=4,
        linewidth=1.6 * LINE_WIDTH,
        elinewidth=LINE_WIDTH,
        capsize=1.5,
    )
    ax.set_ylim(0, 1.02)
    percent_axis(ax)
    return ax


def swap_curve_figure(curves: Mapping[str, SwapCurve], *, score: str = "float confidence") -> Figure:
    """Draw the swap curves with the float network's accuracy beneath, over one horizontal axis.

    Args:
        curves: By setting, of one score in one set of bins.
        score: Name of the score.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: There is no curve.

    Example:
        >>> import torch
        >>> from qcal.functional.swap_curves import score_bins, swap_curve
        >>> flags = torch.tensor([True, False])
        >>> bins = score_bins(torch.tensor([0.3, 0.9]), binning="equal_count", num_bins=2)
        >>> len(swap_curve_figure({"w4a8": swap_curve(bins, flags, flags, flags)}).axes)
        2
    """
    check_curves(curves)
    fig = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    above, below = fig.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    swap_curve_panel(curves, ax=above, score=score)
    float_accuracy_panel(next(iter(curves.values())), ax=below, score=score)
    above.set_xlabel("")
    return fig


def check_curves(curves: Mapping[str, SwapCurve]) -> None:
    """Raise unless there is a curve, and each has images."""
    if not curves or any(sum(curve.count) == 0 for curve in curves.values()):
        raise ValueError(
            f"`curves` must be at least one swap curve with images, got {len(curves)}. Pass {{'w4a8': "
            "analysis.curves['confidence'][1]}}."
        )


def _kept(curve: SwapCurve, numbers: Sequence[float | None], fewest: int = 1) -> list[float]:
    """The numbers of the bins that have `fewest` images or more."""
    pairs = zip(numbers, curve.count, strict=True)
    return [number for number, count in pairs if count >= fewest and number is not None]


def _reach(
    curve: SwapCurve,
    share: Sequence[float | None],
    low: Sequence[float | None],
    high: Sequence[float | None],
    fewest: int = 1,
) -> npt.NDArray[np.float64]:
    middle, bottom, top = (np.array(_kept(curve, numbers, fewest), dtype=np.float64) for numbers in (share, low, high))
    # Rounding may put an end 1e-17 on the wrong side of the share, which errorbar refuses.
    return np.maximum(np.stack([middle - bottom, top - middle]), 0.0)
