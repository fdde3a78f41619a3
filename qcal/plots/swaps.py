"""Which predictions quantization swapped, what that did to the error, and how confident they had been.

References:
    Xia, Ha, Azevedo, Maji: An Underexplored Dilemma between Confidence and Calibration in Quantized Neural Networks,
    2021, arXiv 2111.08163: the three quantities beside each other.
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from torch import Tensor

from qcal.functional.intervals import wilson_interval
from qcal.plots.setting_axis import MOST_UPRIGHT, check_rows, fit_height, mark_no_swaps, name_settings, write_beyond
from qcal.plots.style import (
    FONT_SIZE,
    INK,
    LINE_WIDTH,
    MUTED,
    dress,
    minus,
    percent,
    percent_axis,
    setting_colour,
)

Values = Tensor | npt.NDArray[np.floating] | Sequence[float]

_BAR = 0.44  # of the distance between two settings
_ERROR_HATCH = "/////"
_ERROR_SHADE = 0.3  # opacity of a setting's colour under the hatch
_MOST_ANNOTATED = 8  # settings; more, and the figures above the bars would touch
_FEWEST_FOR_VIOLIN = 20  # values; fewer are drawn one by one, as no density can be estimated from them
_JITTER = 0.12

# Inches: a panel grows with the number of settings, and beyond `_WIDEST` the panels go below each other.
_PANEL_HEIGHT, _NARROWEST, _WIDEST = 3.1, 4.2, 5.0
_PER_SETTING, _PER_TURNED_SETTING = 0.68, 0.3
_TURNED_NAME = 0.8
_BETWEEN_PANELS = 0.1


def swap_and_error_panel(
    settings: Sequence[str],
    swap_rate: Sequence[float],
    error_change: Sequence[float],
    *,
    ax: Axes,
    num_images: int | None = None,
) -> Axes:
    """Draw, per setting, the share of predictions swapped (filled) and the change of the error (hatched), in percent.

    Args:
        settings: S names, such as `w4a8`.
        swap_rate: S shares in [0, 1] of predictions whose argmax differs from the float network's.
        error_change: S differences in [-1, 1], error(quantized) - error(float).
        ax: Where to draw.
        num_images: Number of predictions; if given, the swapped shares get their 95 % Wilson intervals.

    Returns:
        `ax`, with a bar of each kind a setting, `swap_rate` first.

    Raises:
        ValueError: The lengths differ, there is no setting, or a value is not finite.

    Example:
        >>> ax = swap_and_error_panel(["w8a8", "w4a8"], [0.04, 0.3], [0.001, 0.09], ax=Figure().add_subplot())
        >>> [round(float(bar.get_height()), 3) for bar in ax.patches]
        [0.04, 0.3, 0.001, 0.09]
    """
    check_rows(settings, swap_rate=swap_rate, error_change=error_change)
    dress(ax, title="Swaps and their cost", subtitle=" ", ylabel="share of all predictions")
    place, colours = np.arange(len(settings)), [setting_colour(setting) for setting in settings]
    left, right = place - _BAR / 2, place + _BAR / 2
    ax.bar(left, swap_rate, _BAR, color=colours, edgecolor=INK, linewidth=LINE_WIDTH)
    shades = [(colour, _ERROR_SHADE) for colour in colours]
    ax.bar(right, error_change, _BAR, color=shades, edgecolor=INK, linewidth=LINE_WIDTH, hatch=_ERROR_HATCH)
    ends = np.asarray(swap_rate, dtype=np.float64)
    if num_images is not None:
        ends = _draw_share_intervals(left, ends, num_images, ax)
    if len(settings) <= _MOST_ANNOTATED:
        for x, share, end in zip((*left, *right), (*swap_rate, *error_change), (*ends, *error_change), strict=True):
            write_beyond(ax, float(x), float(end), percent(share))
    fit_height(ax, (*ends, *error_change), least=0.01)
    percent_axis(ax)
    _explain_bars(ax, with_interval=num_images is not None)
    return name_settings(ax, settings)


def damage_per_swap_panel(settings: Sequence[str], damage_per_swap: Sequence[float | None], *, ax: Axes) -> Axes:
    """Draw, per setting, how much error a swap brought: error change / swap rate, in [-1, 1].

    1 would mean that every swap turned a right prediction wrong, 0 that as many were repaired as broken.

    Args:
        settings: S names.
        damage_per_swap: S ratios; None or NaN where nothing was swapped, which is drawn as a marked gap.
        ax: Where to draw.

    Returns:
        `ax`, with a bar for each setting that has a ratio.

    Raises:
        ValueError: The lengths differ, or there is no setting.

    Example:
        >>> ax = damage_per_swap_panel(["w8a8", "w4a8"], [None, 0.3], ax=Figure().add_subplot())
        >>> [float(bar.get_height()) for bar in ax.patches], [text.get_text() for text in ax.texts]
        ([0.3], ['1 if each swap breaks a right prediction', '0.30', 'no swaps'])
    """
    ratios = [None if ratio is None or math.isnan(ratio) else ratio for ratio in damage_per_swap]
    check_rows(settings, damage_per_swap=[ratio or 0 for ratio in ratios])
    drawn = [(place, ratio) for place, ratio in enumerate(ratios) if ratio is not None]
    dress(
        ax, title="Damage per swap", subtitle="1 if each swap breaks a right prediction", ylabel="error change per swap"
    )
    for place, ratio in drawn:
        colour = setting_colour(settings[place])
        ax.bar(place, ratio, 1.5 * _BAR, color=colour, edgecolor=INK, linewidth=LINE_WIDTH)
        if len(settings) <= _MOST_ANNOTATED:
            write_beyond(ax, place, ratio, minus(f"{ratio:.2f}"))
    for place in set(range(len(settings))) - {place for place, _ in drawn}:
        mark_no_swaps(ax, place)
    fit_height(ax, [ratio for _, ratio in drawn], least=0.1)
    return name_settings(ax, settings)


def swapped_confidence_panel(settings: Sequence[str], swapped_confidence: Sequence[Values], *, ax: Axes) -> Axes:
    r"""Draw, per setting, how confident the float network had been of the predictions that were swapped.

    A violin with median and quartiles from 20 swaps on, single points below that, a marked gap where there is none;
    the number of swaps stands under each.

    Args:
        settings: S names.
        swapped_confidence: S one-dimensional sets of float confidences in [0, 1], of any lengths.
        ax: Where to draw.

    Returns:
        `ax`, its vertical axis 0 to 1.

    Raises:
        ValueError: The lengths differ, there is no setting, or a confidence is not in [0, 1].

    Example:
        >>> ax = swapped_confidence_panel(["w8a8", "w4a8"], [[], [0.2, 0.4]], ax=Figure().add_subplot())
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['w8a8\n0', 'w4a8\n2']
    """
    check_rows(settings, swapped_confidence=[0.0] * len(swapped_confidence))
    sets = [_as_array(values) for values in swapped_confidence]
    if any(not ((values >= 0) & (values <= 1)).all() for values in sets):
        raise ValueError("`swapped_confidence` must be confidences in [0, 1], got others. Pass the top probability.")
    title, subtitle = "Confidence of what was swapped", "median and quartiles; points if fewer than 20"
    dress(ax, title=title, subtitle=subtitle, ylabel="confidence of the float network")
    ax.set_ylim(0, 1)
    for place, (setting, values) in enumerate(zip(settings, sets, strict=True)):
        if values.size == 0:
            mark_no_swaps(ax, place)
        elif values.size < _FEWEST_FOR_VIOLIN:
            _draw_points(place, values, setting_colour(setting), ax)
        else:
            _draw_violin(place, values, setting_colour(setting), ax)
    return name_settings(ax, settings, counts=[values.size for values in sets])


def swap_figure(
    settings: Sequence[str],
    swap_rate: Sequence[float],
    error_change: Sequence[float],
    damage_per_swap: Sequence[float | None],
    swapped_confidence: Sequence[Values],
    *,
    num_images: int | None = None,
) -> Figure:
    """Draw the three panels of Xia et al. (2021) beside each other, or below each other when there are many settings.

    Args:
        settings: S names, in the order to draw them.
        swap_rate: See `swap_and_error_panel`.
        error_change: See `swap_and_error_panel`.
        damage_per_swap: See `damage_per_swap_panel`.
        swapped_confidence: See `swapped_confidence_panel`.
        num_images: Number of predictions, for the intervals of the swapped shares.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: The lengths differ, there is no setting, or a value is not allowed.

    Example:
        >>> fig = swap_figure(["w8a8", "w4a8"], [0, 0.3], [0, 0.09], [None, 0.3], [[], [0.2, 0.4]], num_images=10)
        >>> [ax.get_title(loc="left") for ax in fig.axes]
        ['Swaps and their cost', 'Damage per swap', 'Confidence of what was swapped']
    """
    upright = len(settings) <= MOST_UPRIGHT
    width = max(_NARROWEST, 0.8 + (_PER_SETTING if upright else _PER_TURNED_SETTING) * len(settings))
    height = _PANEL_HEIGHT if upright else _PANEL_HEIGHT + _TURNED_NAME
    beside = width <= _WIDEST
    fig = Figure(figsize=(3 * width, height) if beside else (width, 3 * height), layout="constrained")
    cast(ConstrainedLayoutEngine, fig.get_layout_engine()).set(w_pad=_BETWEEN_PANELS, h_pad=_BETWEEN_PANELS)
    left, middle, right = fig.subplots(1, 3) if beside else fig.subplots(3, 1)
    swap_and_error_panel(settings, swap_rate, error_change, ax=left, num_images=num_images)
    damage_per_swap_panel(settings, damage_per_swap, ax=middle)
    swapped_confidence_panel(settings, swapped_confidence, ax=right)
    return fig


def _as_array(values: Values) -> npt.NDArray[np.float64]:
    if isinstance(values, Tensor):
        values = values.detach().to(device="cpu", dtype=torch.float64).numpy()
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _explain_bars(ax: Axes, *, with_interval: bool) -> None:
    handles = [
        Patch(facecolor=MUTED, edgecolor=INK, label="swapped, 95 % Wilson interval" if with_interval else "swapped"),
        Patch(facecolor=(MUTED, _ERROR_SHADE), edgecolor=INK, hatch=_ERROR_HATCH, label="change of error"),
    ]
    # In the line that `dress` keeps free under the title, where no bar can reach it.
    ax.legend(
        handles=handles,
        fontsize=FONT_SIZE,
        ncols=2,
        frameon=False,
        borderpad=0,
        borderaxespad=0.3,
        columnspacing=1.2,
        handlelength=1.5,
        loc="lower left",
        bbox_to_anchor=(0, 1),
    )


def _draw_share_intervals(
    place: npt.NDArray[np.floating], share: npt.NDArray[np.float64], num_images: int, ax: Axes
) -> npt.NDArray[np.float64]:
    """Draw the intervals of shares of `num_images`; returns their upper ends."""
    lower, upper = wilson_interval(torch.from_numpy(share * num_images).round(), torch.tensor(num_images))
    ends = upper.numpy()
    # Rounding may put an end 1e-17 on the wrong side of the share, which errorbar refuses.
    reach = np.clip(np.stack([share - lower.numpy(), ends - share]), 0, None)
    ax.errorbar(place, share, yerr=reach, fmt="none", ecolor=INK, elinewidth=LINE_WIDTH, capsize=2)
    return ends


def _draw_points(place: int, values: npt.NDArray[np.float64], colour: str, ax: Axes) -> None:
    # Spread by rank, not at random: the same numbers give the same picture.
    spread = _JITTER * (np.arange(values.size) % 3 - 1) if values.size > 1 else np.zeros(1)
    ax.scatter(place + spread, np.sort(values), s=16, color=colour, edgecolors=INK, linewidths=0.6 * LINE_WIDTH)


def _draw_violin(place: int, values: npt.NDArray[np.float64], colour: str, ax: Axes) -> None:
    parts = ax.violinplot(values, positions=[place], widths=0.8, showextrema=False)
    for body in cast(list[PolyCollection], parts["bodies"]):  # matplotlib annotates the other, single parts
        body.set(facecolor=colour, edgecolor=INK, linewidth=LINE_WIDTH, alpha=0.75)
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    ax.vlines(place, low, high, color=INK, linewidth=4)
    ax.scatter([place], [median], s=18, color="white", edgecolors=INK, linewidths=LINE_WIDTH, zorder=3)
