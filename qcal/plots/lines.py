"""Lines of several settings in one picture: told apart by colour, and in grey by their dashes and markers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from qcal.plots.style import FONT_SIZE, LINE_WIDTH

__all__ = ["LINE", "LineStyle", "check_curve", "check_some", "line_styles", "outside_legend"]

LINE = 2 * LINE_WIDTH
"""Width of a line that is the matter of a picture, in points."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)), (0, (8, 2)))
_MARKERS = "osD^vP"


@dataclass(frozen=True)
class LineStyle:
    """How one line is drawn beside its colour.

    Attributes:
        dash: Matplotlib's line style.
        marker: Matplotlib's marker.
    """

    dash: str | tuple[float, tuple[float, ...]]
    marker: str


def line_styles(labels: Sequence[str]) -> dict[str, LineStyle]:
    """A style for each label, in turn.

    Example:
        >>> line_styles(["float", "w4a8"])["w4a8"].marker
        's'
    """
    return {
        label: LineStyle(_DASHES[place % len(_DASHES)], _MARKERS[place % len(_MARKERS)])
        for place, label in enumerate(labels)
    }


def check_curve(name: str, label: str, horizontal: Sequence[float], vertical: Sequence[float]) -> None:
    """Raise ValueError unless the two have one length, at least 1, and are finite."""
    if len(horizontal) == 0 or len(horizontal) != len(vertical):
        raise ValueError(
            f"`{name}` must hold as many places as values, at least one, got {len(horizontal)} and {len(vertical)} for "
            f"{label!r}. Pass the same rows of the record to both."
        )
    if not (np.isfinite(np.asarray(horizontal, float)).all() and np.isfinite(np.asarray(vertical, float)).all()):
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity for {label!r}. Leave out what was not measured."
        )


def check_some(name: str, curves: Mapping[str, object]) -> None:
    """Raise ValueError if there is nothing to draw."""
    if not curves:
        raise ValueError(f"`{name}` must hold at least one setting, got none. Pass {{'w4a8': (places, values)}}.")


def outside_legend(ax: Axes, *, title: str | None = None) -> None:
    """Put the legend to the right of the axes, where no line can reach it; the figure's layout makes room."""
    ax.legend(
        fontsize=FONT_SIZE,
        title=title,
        title_fontsize=FONT_SIZE,
        loc="upper left",
        bbox_to_anchor=(1.01, 1),
        frameon=False,
        borderaxespad=0,
        handlelength=3.2,
        alignment="left",
    )
