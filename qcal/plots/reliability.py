"""Reliability diagrams: how often predictions of each confidence are right.

References:
    M. H. DeGroot, S. E. Fienberg: The Comparison and Evaluation of Forecasters, The Statistician 1983.
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: On Calibration of Modern Neural Networks, ICML 2017, figure 1.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from qcal.functional.calibration import ReliabilityBins
from qcal.functional.intervals import wilson_interval
from qcal.plots.style import (
    FLOAT,
    FONT_SIZE,
    INK,
    LINE_WIDTH,
    MUTED,
    NEUTRAL,
    OVERCONFIDENT,
    OVERCONFIDENT_HATCH,
    UNDERCONFIDENT,
    UNDERCONFIDENT_HATCH,
    dress,
    minus,
    percent_axis,
    setting_colour,
)

_GAP_STYLES = {
    "overconfident gap": (OVERCONFIDENT, OVERCONFIDENT_HATCH),
    "underconfident gap": (UNDERCONFIDENT, UNDERCONFIDENT_HATCH),
}
_HISTOGRAM_SHADE = 0.65  # opacity of the bars, for the lines across them
_DIAGONAL = (0, (4, 2))
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

# The layout of `reliability_figure`, in inches: squares stay squares and text keeps its size however many there are.
_SQUARE, _HISTOGRAM = 2.35, 0.7
_LEFT, _BOTTOM, _RIGHT, _TOP = 0.62, 0.45, 0.15, 0.45
_BETWEEN_COLUMNS, _BETWEEN_PARTS = 0.28, 0.12
_LEGEND_LINE, _LEGEND_ENTRY = 0.175, 1.95


def reliability_diagram(
    bins: ReliabilityBins,
    *,
    ax: Axes,
    label: str = FLOAT,
    ece: float | None = None,
    overconfidence: float | None = None,
    legend: bool = True,
) -> Axes:
    r"""Draw accuracy against confidence, with the gap between the two shaded.

    A bar is a bin's accuracy, with its 95 % Wilson interval. From there to the bin's mean confidence reaches the gap,
    vermilion and hatched `/` where the network is overconfident, blue and hatched `\` where it is underconfident: the
    areas that the ECE adds up, weighted by the histogram beneath. Empty bins are left blank.

    Args:
        bins: From `qcal.functional.calibration.reliability_bins`.
        ax: Where to draw; made square, both axes 0 to 1.
        label: Whose predictions these are: `float` or a setting. The title.
        ece: Expected calibration error as a fraction, written under the title if given.
        overconfidence: Mean confidence minus accuracy as a fraction, likewise.
        legend: Whether to explain the shading inside the axes.

    Returns:
        `ax`.

    Raises:
        ValueError: There is no prediction in the bins.

    Example:
        >>> import torch
        >>> from qcal.functional.calibration import reliability_bins
        >>> bins = reliability_bins(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]), num_bins=10)
        >>> ax = reliability_diagram(bins, ax=Figure().add_subplot(), ece=0.4)
        >>> ax.get_title(loc="left"), ax.texts[0].get_text()
        ('float', 'ECE 40.0 %')
    """
    bins = _on_cpu(bins)
    dress(ax, title=label, subtitle=_scores(ece, overconfidence), xlabel="confidence", ylabel="accuracy")
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=_TICKS, yticks=_TICKS)
    ax.set_box_aspect(1)
    filled = (bins.count > 0).numpy()
    left, width = bins.edges[:-1].numpy()[filled], bins.edges.diff().numpy()[filled]
    accuracy, gap = bins.accuracy.numpy()[filled], bins.gap.numpy()[filled]
    ax.bar(left, accuracy, width, align="edge", color=NEUTRAL, edgecolor=INK, linewidth=LINE_WIDTH, label="accuracy")
    for (name, (colour, hatch)), part in zip(_GAP_STYLES.items(), (gap > 0, gap < 0), strict=True):
        drawn = ax.bar(left[part], gap[part], width[part], bottom=accuracy[part], align="edge", label=name)
        for patch in drawn:
            patch.set(facecolor=(colour, 0.35), edgecolor=colour, hatch=hatch, linewidth=LINE_WIDTH)
    _draw_intervals(bins, ax)
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=_DIAGONAL, linewidth=1.2 * LINE_WIDTH, label="perfect calibration")
    if legend:
        # The corner where the gaps are not.
        free: Literal["upper left", "lower right"] = "upper left" if _overconfidence(bins) >= 0 else "lower right"
        ax.legend(handles=_legend_handles(lines=False), fontsize=FONT_SIZE, loc=free, framealpha=0.9)
    return ax


def confidence_histogram(
    bins: ReliabilityBins, *, ax: Axes, label: str = FLOAT, max_share: float | None = None
) -> Axes:
    """Draw the share of predictions in each bin, with mean confidence (dashed) and accuracy (solid) as lines.

    Where the dashed line is to the right of the solid one, the network is overconfident by the distance.

    Args:
        bins: From `qcal.functional.calibration.reliability_bins`.
        ax: Where to draw.
        label: Whose predictions these are: `float` or a setting. The colour.
        max_share: Upper end of the vertical axis as a fraction, to give several histograms one scale; None takes the
            highest bar, with some air.

    Returns:
        `ax`.

    Raises:
        ValueError: There is no prediction in the bins.

    Example:
        >>> import torch
        >>> from qcal.functional.calibration import reliability_bins
        >>> bins = reliability_bins(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]), num_bins=2)
        >>> ax = confidence_histogram(bins, ax=Figure().add_subplot())
        >>> [float(patch.get_height()) for patch in ax.patches]
        [0.0, 1.0]
    """
    bins = _on_cpu(bins)
    dress(ax, xlabel="confidence", ylabel="share")
    share = _share(bins)
    left, width = bins.edges[:-1].numpy(), bins.edges.diff().numpy()
    ax.bar(left, share, width, align="edge", color=(setting_colour(label), _HISTOGRAM_SHADE), linewidth=0)
    # NaN of an empty bin times its share 0 has to count as 0.
    accuracy = float(np.sum(share * np.nan_to_num(bins.accuracy.numpy())))
    for place, line in ((accuracy, "-"), (accuracy + _overconfidence(bins), "--")):
        ax.axvline(place, color=INK, linewidth=1.6 * LINE_WIDTH, linestyle=line)
    highest = max_share if max_share is not None else float(share.max())
    ax.set(xlim=(0, 1), ylim=(0, 1.05 * highest), xticks=_TICKS)
    percent_axis(ax)
    return ax


def reliability_figure(bins: Mapping[str, ReliabilityBins], *, max_columns: int = 4) -> Figure:
    """Draw the reliability diagrams and histograms of the float network and of each setting side by side.

    All have the same limits and colours. ECE and overconfidence under each title are those of the bins drawn.

    Args:
        bins: Label (`float` or a setting) to bins, in the order to draw them.
        max_columns: Diagrams in one row, at least 1; more go below.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: There is nothing to draw, no column to draw it in, or no prediction in some bins.

    Example:
        >>> import torch
        >>> from qcal.functional.calibration import reliability_bins
        >>> bins = reliability_bins(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))
        >>> len(reliability_figure({"float": bins, "w4a8": bins}).axes)
        4
    """
    if not bins or max_columns < 1:
        raise ValueError(
            "`bins` must hold at least one label with its bins, and `max_columns` be at least 1, "
            f"got {len(bins)} and {max_columns}. Pass {{'float': reliability_bins(confidence, correct)}}."
        )
    rows = math.ceil(len(bins) / max_columns)
    columns = math.ceil(len(bins) / rows)  # six in rows of at most four are three and three
    bins = {label: _on_cpu(part) for label, part in bins.items()}
    max_share = max(float(_share(part).max()) for part in bins.values())
    width = _LEFT + columns * _SQUARE + (columns - 1) * _BETWEEN_COLUMNS + _RIGHT
    handles = _legend_handles(lines=True)
    legend_columns = min(len(handles), max(1, int(width / _LEGEND_ENTRY)))
    foot = _LEGEND_LINE * math.ceil(len(handles) / legend_columns) + 0.1
    row_height = _TOP + _SQUARE + _BETWEEN_PARTS + _HISTOGRAM + _BOTTOM
    fig = Figure(figsize=(width, rows * row_height + foot))
    for place, (label, part) in enumerate(bins.items()):
        row, column = divmod(place, columns)
        left, bottom = _LEFT + column * (_SQUARE + _BETWEEN_COLUMNS), foot + (rows - 1 - row) * row_height + _BOTTOM
        below = _axes_at(fig, left, bottom, _HISTOGRAM)
        above = _axes_at(fig, left, bottom + _HISTOGRAM + _BETWEEN_PARTS, _SQUARE)
        _draw_pair(part, label, above, below, max_share, first=column == 0)
    fig.legend(
        handles=handles, fontsize=FONT_SIZE, ncols=legend_columns, frameon=False, loc="lower center", borderpad=0.2
    )
    return fig


def _draw_pair(bins: ReliabilityBins, label: str, above: Axes, below: Axes, max_share: float, *, first: bool) -> None:
    """One diagram and its histogram, labelled on the outside only."""
    ece, overconfidence = float((bins.gap.abs().numpy() * _share(bins)).sum()), _overconfidence(bins)
    reliability_diagram(bins, ax=above, label=label, ece=ece, overconfidence=overconfidence, legend=False)
    confidence_histogram(bins, ax=below, label=label, max_share=max_share)
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    if not first:
        for ax in (above, below):
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)


def _axes_at(fig: Figure, left: float, bottom: float, height: float) -> Axes:
    """Axes of the width of a square, placed in inches."""
    width, total = fig.get_size_inches()
    return fig.add_axes((left / width, bottom / total, _SQUARE / width, height / total))


def _draw_intervals(bins: ReliabilityBins, ax: Axes) -> None:
    filled = bins.count > 0
    count, accuracy = bins.count[filled], bins.accuracy[filled]
    lower, upper = wilson_interval((accuracy * count).round(), count)
    centre = ((bins.edges[:-1] + bins.edges[1:]) / 2)[filled]
    # Rounding may put an end 1e-17 on the wrong side of the share, which errorbar refuses.
    reach = np.clip(np.stack([accuracy - lower, upper - accuracy]), 0, None)
    ax.errorbar(
        centre.numpy(), accuracy.numpy(), yerr=reach, fmt="none", ecolor=INK, elinewidth=LINE_WIDTH, capsize=1.5
    )


def _legend_handles(*, lines: bool) -> list[Artist]:
    """What the signs mean; `lines` adds those of the histogram."""
    bar = Patch(facecolor=NEUTRAL, edgecolor=INK, label="accuracy, 95 % Wilson interval")
    gaps = [
        Patch(facecolor=(colour, 0.35), edgecolor=colour, hatch=hatch, label=name)
        for name, (colour, hatch) in _GAP_STYLES.items()
    ]
    diagonal = Line2D([], [], color=MUTED, linestyle=_DIAGONAL, label="perfect calibration")
    of_histogram = [
        Line2D([], [], color=INK, label="overall accuracy"),
        Line2D([], [], color=INK, linestyle="--", label="mean confidence"),
    ]
    return [bar, diagonal, *gaps, *(of_histogram if lines else [])]


def _scores(ece: float | None, overconfidence: float | None) -> str:
    parts = [] if ece is None else [f"ECE {100 * ece:.1f} %"]
    parts += [] if overconfidence is None else [minus(f"overconfidence {100 * overconfidence:+.1f} %")]
    return ", ".join(parts)


def _on_cpu(bins: ReliabilityBins) -> ReliabilityBins:
    if not bins.count.any():
        raise ValueError(
            "A reliability diagram needs at least one prediction, got bins whose counts are all 0. "
            "Leave out what was not measured."
        )
    parts = {name: value.cpu() for name, value in vars(bins).items()}
    return replace(bins, **parts)


def _share(bins: ReliabilityBins) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Share of all predictions in each bin."""
    return np.asarray(bins.share.numpy())


def _overconfidence(bins: ReliabilityBins) -> float:
    return float((bins.gap.numpy() * _share(bins)).sum())
