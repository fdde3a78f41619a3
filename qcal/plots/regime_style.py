"""How regimes look: one colour and one marker each, the same in every picture of a report.

The colours are Okabe and Ito's, told apart with every common colour blindness; with more regimes than colours the
markers tell them apart. Cross-entropy, which all are compared with, is ink.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH

__all__ = ["RegimeStyle", "regime_legend", "regime_styles"]

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800")
_MARKERS = "os^Dv<>Ph8"
_LEGEND_ENTRY = 1.9  # inches, about as wide as the longest usual name


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
