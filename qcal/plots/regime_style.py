"""How regimes look: one colour and one marker each, the same in every picture of a report.

The colours are Okabe and Ito's, told apart with every common colour blindness; with more regimes than colours the
markers tell them apart. Cross-entropy, which all are compared with, is ink.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH

__all__ = ["RegimeStyle", "regime_legend", "regime_styles", "setting_panels"]

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800")
_MARKERS = "os^Dv<>Ph8"
_LEGEND_ENTRY = 1.9  # inches, about as wide as the longest usual name
_LEGEND_ROW = 0.25
_PANEL_WIDTH, _MOST_BESIDE = 3.5, 3


@dataclass(frozen=True)
class RegimeStyle:
    """Of one regime.

    Attributes:
        colour: As `#rrggbb`.
        marker: Matplotlib's marker.
    """

    colour: str
    marker: str


def regime_styles(regimes: Sequence[str], *, baseline: str | None = None) -> dict[str, RegimeStyle]:
    """A style for each regime, in turn.

    Args:
        regimes: Names, in the order of the legend.
        baseline: The one that is drawn in ink.

    Returns:
        By name.

    Example:
        >>> styles = regime_styles(["cross-entropy", "focal 3"], baseline="cross-entropy")
        >>> styles["cross-entropy"].colour, styles["focal 3"].colour
        ('#222222', '#0072b2')
    """
    others = [regime for regime in regimes if regime != baseline]
    styles = {
        regime: RegimeStyle(_COLOURS[place % len(_COLOURS)], _MARKERS[(place + 1) % len(_MARKERS)])
        for place, regime in enumerate(others)
    }
    return {regime: styles.get(regime, RegimeStyle(INK, "o")) for regime in regimes}


def setting_panels(number: int, *, num_regimes: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each setting, three beside each other, and room for the legend of the regimes.

    Args:
        number: Of settings, at least 1.
        num_regimes: In the legend.
        height: Of a panel, in inches.

    Returns:
        A figure of its own, known to no pyplot, and as many axes.

    Raises:
        ValueError: No setting.
    """
    if number < 1:
        raise ValueError("`panels` must hold at least one setting, got none. Pass {'w4a4': {'focal': ...}}.")
    columns = min(_MOST_BESIDE, number)
    rows = -(-number // columns)
    width = max(columns, 1.3) * _PANEL_WIDTH
    legend = _LEGEND_ROW * -(-num_regimes // max(1, int(width / _LEGEND_ENTRY)))
    fig = Figure(figsize=(width, rows * height + legend), layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[number:]:
        ax.set_axis_off()
    return fig, axes[:number]


def regime_legend(fig: Figure, styles: Mapping[str, RegimeStyle], *, line: bool = False) -> None:
    """One legend for all axes of a figure, below them; the figure's layout makes room."""
    handles = [
        Line2D(
            [],
            [],
            linestyle="-" if line else "none",
            marker=style.marker,
            color=style.colour,
            markeredgecolor=INK,
            markeredgewidth=0.6 * LINE_WIDTH,
            markersize=6,
            label=regime,
        )
        for regime, style in styles.items()
    ]
    columns = max(1, min(len(handles), int(fig.get_figwidth() / _LEGEND_ENTRY)))
    fig.legend(handles=handles, fontsize=FONT_SIZE, ncols=columns, frameon=False, loc="outside lower center")
