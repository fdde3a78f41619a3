"""The recalibration table as a picture: what each repair leaves of a score, per setting, beside the float network."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, NEUTRAL, OVERCONFIDENT, dress, minus

Rows = Sequence[Sequence[float]]
Ends = Sequence[Sequence[float | None]]
Unit = Literal["percent", "nats"]

_SHADES = LinearSegmentedColormap.from_list("white to vermilion", ["#ffffff", OVERCONFIDENT])
_DARKEST_SHADE = 0.75  # so that ink on it can be read
_SAME = "\N{ALMOST EQUAL TO}"


def repair_table_panel(
    settings: Sequence[str],
    methods: Sequence[str],
    values: Rows,
    *,
    ax: Axes,
    title: str,
    reference: float,
    gap_low: Ends | None = None,
    gap_high: Ends | None = None,
    unit: Unit = "percent",
) -> Axes:
    """Draw a table of settings (rows) by repairs (columns), each cell with its score, the shade its distance.

    A cell is the darker the further its score lies above that of the recalibrated float network. With the ends of the
    gap's interval, these stand under the score, and a sign of almost equal before it where the interval holds 0.

    Args:
        settings: S names of rows, such as `w4a8`.
        methods: M names of columns, such as `refitted temperature`.
        values: S rows of M scores, as fractions (percent) or in nats; lower is better.
        ax: Where to draw.
        title: What the scores are, such as `ECE, %`.
        reference: The score of the recalibrated float network; named under the title.
        gap_low: S rows of M lower ends of the interval of `score - reference`; None where there is none.
        gap_high: Likewise the upper ends.
        unit: `percent` writes fractions as percent with one decimal, `nats` writes three decimals.

    Returns:
        `ax`.

    Raises:
        ValueError: Rows of other lengths, no row or column, or scores that are not finite.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = repair_table_panel(
        ...     ["w4a8"], ["as quantized", "refitted"], [[0.181, 0.014]], ax=Figure().add_subplot(), title="ECE, %",
        ...     reference=0.018, gap_low=[[0.148, -0.016]], gap_high=[[0.178, 0.006]])
        >>> [text.get_text().split(chr(10))[0] for text in ax.texts[1:]]
        ['18.1', '≈ 1.4']
    """
    scores = _table(values, settings, methods)
    goal = f"recalibrated float network: {_write(reference, unit)}"
    has_ends = gap_low is not None and gap_high is not None
    dress(ax, title=title, subtitle=f"{goal}; beneath: 95 % interval above it" if has_ends else goal)
    gap = np.clip(scores - reference, 0, None)
    largest = float(gap.max()) or 1.0
    for (row, column), score in np.ndenumerate(scores):
        shade = _SHADES(_DARKEST_SHADE * gap[row, column] / largest)
        ax.fill_between([column - 0.5, column + 0.5], row - 0.5, row + 0.5, color=shade, linewidth=0)
        ends = _ends(gap_low, gap_high, row, column)
        ax.text(
            column,
            row,
            _cell(score, ends, unit),
            ha="center",
            va="center",
            fontsize=FONT_SIZE,
            color=INK,
            linespacing=1.3,
        )
    ax.set(xlim=(-0.5, len(methods) - 0.5), ylim=(len(settings) - 0.5, -0.5))
    ax.set_xticks(range(len(methods)), [method.replace(" ", "\n", 1) for method in methods], fontsize=FONT_SIZE)
    ax.set_yticks(range(len(settings)), settings, fontsize=FONT_SIZE)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for line in range(1, len(settings)):
        ax.axhline(line - 0.5, color=NEUTRAL, linewidth=LINE_WIDTH)
    return ax


def _table(values: Rows, settings: Sequence[str], methods: Sequence[str]) -> npt.NDArray[np.float64]:
    lengths = {len(row) for row in values}
    if not settings or not methods or len(values) != len(settings) or lengths != {len(methods)}:
        raise ValueError(
            f"`values` must have one row for each of at least one setting and one column for each method, got "
            f"{len(values)} rows of {sorted(lengths)} for {len(settings)} settings and {len(methods)} methods. "
            "Pass the same rows of the record to all."
        )
    scores = np.asarray(values, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("`values` must be finite, got NaN or infinity. Leave out settings that were not measured.")
    return scores


def _ends(low: Ends | None, high: Ends | None, row: int, column: int) -> tuple[float, float] | None:
    if low is None or high is None:
        return None
    lower, upper = low[row][column], high[row][column]
    return None if lower is None or upper is None else (lower, upper)


def _cell(score: float, ends: tuple[float, float] | None, unit: Unit) -> str:
    if ends is None:
        return _write(score, unit)
    sign = f"{_SAME} " if ends[0] <= 0 <= ends[1] else ""
    low, high = (_write(end, unit, signed=True) for end in ends)
    return f"{sign}{_write(score, unit)}\n{low} to {high}"


def _write(value: float, unit: Unit, *, signed: bool = False) -> str:
    plus = "+" if signed else ""
    return minus(f"{100 * value:{plus}.1f}" if unit == "percent" else f"{value:{plus}.3f}")
