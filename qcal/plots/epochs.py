"""Robustness over training: what quantization would have broken after each epoch that was studied."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, dress, percent_axis, setting_colour

_MARKERS = "osD^vP*X"
_SIZE = (7.6, 3.0)  # inches


def epoch_panel(
    epochs: Mapping[str, Sequence[int]], values: Mapping[str, Sequence[float]], *, ax: Axes, title: str, ylabel: str
) -> Axes:
    """Draw one line a setting: a share of all predictions against the number of epochs trained.

    Args:
        epochs: Per setting, E epochs in rising order, counted from 1.
        values: Per setting, E shares in [-1, 1].
        ax: Where to draw.
        title: Of the panel.
        ylabel: Of the vertical axis.

    Returns:
        `ax`, with a line for each setting.

    Raises:
        ValueError: No setting, lengths that differ, or a value that is not finite.

    Example:
        >>> ax = Figure().add_subplot()
        >>> ax = epoch_panel({"w4a8": [1, 2]}, {"w4a8": [0.2, 0.1]}, ax=ax, title="Swaps", ylabel="share")
        >>> ax.get_lines()[0].get_ydata().tolist()
        [0.2, 0.1]
    """
    if not epochs or any(len(values.get(setting, ())) != len(each) or not each for setting, each in epochs.items()):
        raise ValueError(
            f"`values` must have one entry for each epoch of each of at least one setting, got "
            f"{ {setting: len(each) for setting, each in values.items()} } for "
            f"{ {setting: len(each) for setting, each in epochs.items()} }. Pass the same studies to both."
        )
    if not all(np.isfinite(np.asarray(each, dtype=float)).all() for each in values.values()):
        raise ValueError("`values` must be finite, got NaN or infinity. Leave out settings that were not measured.")
    dress(ax, title=title, xlabel="epochs trained", ylabel=ylabel)
    for index, (setting, each) in enumerate(epochs.items()):
        marker, colour = _MARKERS[index % len(_MARKERS)], setting_colour(setting)
        style = {"markersize": 4, "markeredgecolor": INK, "markeredgewidth": LINE_WIDTH / 2, "linewidth": 1.5}
        ax.plot(each, values[setting], marker=marker, color=colour, label=setting, **style)  # type: ignore[arg-type]  # of mixed types
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    percent_axis(ax)
    return ax


def epoch_figure(
    epochs: Mapping[str, Sequence[int]],
    *,
    swap_rate: Mapping[str, Sequence[float]],
    error_change: Mapping[str, Sequence[float]],
) -> Figure:
    """Swap rate and error change over training, beside each other.

    Args:
        epochs: Per setting, E epochs in rising order, counted from 1.
        swap_rate: Per setting, E shares in [0, 1].
        error_change: Per setting, E differences in [-1, 1].

    Returns:
        A figure with two axes.

    Raises:
        ValueError: As `epoch_panel`.
    """
    figure = Figure(figsize=_SIZE, layout="constrained")
    left, right = figure.subplots(1, 2)
    epoch_panel(epochs, swap_rate, ax=left, title="Swaps over training", ylabel="share of all predictions")
    epoch_panel(epochs, error_change, ax=right, title="Error change over training", ylabel="points of error")
    right.axhline(0, color=INK, linewidth=LINE_WIDTH)
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper", fontsize=FONT_SIZE, frameon=False)
    return figure
