"""The control: confidence moved after training leaves swaps where they are, confidence from training does not."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qcal.plots.lines import LINE, LineStyle, check_curve, check_some, line_styles, outside_legend
from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, NEUTRAL, dress, percent_axis, setting_colour

Curve = tuple[Sequence[float], Sequence[float]]

_TRAINED_MARKERS = "X*<>"
_HEADROOM = 1.2  # of the height, for the temperatures
_LABEL_WIDTH = 0.1  # of the axis of confidence: what `0.25` takes, and some air


def temperature_control_panel(
    applied: Mapping[str, Curve],
    *,
    ax: Axes,
    temperatures: Sequence[float],
    trained: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Axes:
    """Draw swap rate against mean confidence: a line a setting for temperatures after training, marks for training.

    A level line says that moving confidence moved no swap. Each mark of a network that was trained otherwise is tied to
    its setting's point at T = 1 by a thin line.

    Args:
        applied: Setting to `(confidence, swap_rate)`, one entry a temperature; fractions. Confidence is the quantized
            network's mean.
        ax: Where to draw.
        temperatures: What each entry's last layer was divided by; written above the points of the
            first setting. 1 is among them if there are `trained` networks.
        trained: Name of a network that was trained otherwise to setting to its `(confidence, swap_rate)`.

    Returns:
        `ax`.

    Raises:
        ValueError: No setting, entries of different numbers, or values that are not finite.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = temperature_control_panel({"w4a8": ([0.9, 0.7, 0.5], [0.3] * 3)}, ax=Figure().add_subplot(),
        ...     temperatures=[0.5, 1, 2], trained={"label smoothing": {"w4a8": (0.75, 0.4)}})
        >>> [text.get_text() for text in ax.texts]
        ['T = 2', '1', '0.5']
    """
    check_some("applied", applied)
    dress(
        ax, title="Swaps, with confidence moved after training", xlabel="mean confidence, quantized", ylabel="swapped"
    )
    styles = line_styles(list(applied))
    for setting, style in styles.items():
        confidence, swap_rate = applied[setting]
        check_curve("applied", setting, confidence, swap_rate)
        check_curve("temperatures", setting, temperatures, confidence)
        ax.plot(
            confidence,
            swap_rate,
            color=setting_colour(setting),
            linestyle=style.dash,
            marker=style.marker,
            markersize=6,
            markeredgecolor=INK,
            markeredgewidth=0.6 * LINE_WIDTH,
            linewidth=LINE,
            label=setting,
        )
    highest = max(max(swap_rate) for _, swap_rate in applied.values())
    for place, (name, points) in enumerate((trained or {}).items()):
        marker = _TRAINED_MARKERS[place % len(_TRAINED_MARKERS)]
        for setting, point in points.items():
            check_curve("trained", f"{name}, {setting}", point[:1], point[1:])
            _tie_to_base(applied[setting], temperatures, point, setting_colour(setting), styles[setting], ax)
            ax.plot(*point, marker, markersize=9, color=setting_colour(setting), markeredgecolor=INK, zorder=3)
            highest = max(highest, point[1])
        ax.plot([], [], marker, markersize=9, color=NEUTRAL, markeredgecolor=INK, label=name)
    ax.set(xlim=(0, 1), ylim=(0, _HEADROOM * highest if highest > 0 else 0.01))
    _name_temperatures(next(iter(applied.values()))[0], temperatures, ax)
    percent_axis(ax)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    outside_legend(ax)
    return ax


def _tie_to_base(
    curve: Curve,
    temperatures: Sequence[float],
    point: tuple[float, float],
    colour: str,
    style: LineStyle,
    ax: Axes,
) -> None:
    """A thin line from a setting's point at T = 1 to the mark of a network that was trained otherwise."""
    if 1 not in temperatures:
        raise ValueError(
            f"`temperatures` must hold 1 where there are `trained` networks, got {list(temperatures)}. Add T = 1."
        )
    at = list(temperatures).index(1)
    ends = [curve[0][at], point[0]], [curve[1][at], point[1]]
    ax.plot(*ends, color=colour, linestyle=style.dash, linewidth=LINE_WIDTH, zorder=1)


def _name_temperatures(confidence: Sequence[float], temperatures: Sequence[float], ax: Axes) -> None:
    """Each temperature at the top, over its point; left out where it would touch the one before.

    `T = ` stands before the first alone, or of five temperatures two would have no room.
    """
    drawn = -np.inf
    for place, temperature in sorted(zip(confidence, temperatures, strict=True)):
        if place - drawn < _LABEL_WIDTH:
            continue
        prefix = "T = " if drawn == -np.inf else ""
        drawn = place
        ax.text(
            place,
            0.99,
            f"{prefix}{temperature:g}",
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=FONT_SIZE,
            color=INK,
        )
