"""The dilemma over many runs: the error that quantization added, against the float network's overconfidence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qcal.plots.regime_style import RegimeStyle, regime_legend, setting_panels
from qcal.plots.style import INK, LINE_WIDTH, MUTED, dress, minus, percent_axis

__all__ = ["RegimePoints", "RunPoint", "dilemma_figure", "dilemma_panel"]

Range = tuple[float, float]
_PANEL_HEIGHT = 3.0  # inches


@dataclass(frozen=True)
class RunPoint:
    """One run.

    Attributes:
        x: Overconfidence or ECE of the float network, a fraction.
        y: Error change, a fraction.
        gid: Identifier of the point in an SVG.
    """

    x: float
    y: float
    gid: str


@dataclass(frozen=True)
class RegimePoints:
    """The runs of one regime, and their means.

    Attributes:
        runs: At least one.
        mean: Of `x` and of `y`.
        x_range: Interval of the mean; None if unknown.
        y_range: Likewise.
    """

    runs: Sequence[RunPoint]
    mean: tuple[float, float]
    x_range: Range | None
    y_range: Range | None


def dilemma_panel(
    points: Mapping[str, RegimePoints],
    *,
    ax: Axes,
    styles: Mapping[str, RegimeStyle],
    title: str,
    subtitle: str,
    xlabel: str = "overconfidence of the float network",
) -> Axes:
    """Draw a small point a run, and the mean of each regime with its intervals in both directions.

    Args:
        points: By regime, at least one.
        ax: Where to draw.
        styles: Of every regime.
        title: Such as the setting.
        subtitle: Such as the correlation.
        xlabel: What `x` is.

    Returns:
        `ax`.

    Raises:
        ValueError: There is no point, or one that is not finite.

    Example:
        >>> from qcal.plots.regime_style import regime_styles
        >>> point = RegimePoints([RunPoint(0.1, 0.02, "run-0")], (0.1, 0.02), None, None)
        >>> ax = dilemma_panel({"focal": point}, ax=Figure().add_subplot(), styles=regime_styles(["focal"]),
        ...     title="w4a4", subtitle="one run")
        >>> [line.get_gid() for line in ax.lines if line.get_gid()]
        ['run-0']
    """
    values = [(run.x, run.y) for each in points.values() for run in each.runs]
    if not values or not np.isfinite(values).all():
        raise ValueError(
            f"`points` must hold at least one run, all finite, got {len(values)} with "
            f"{int((~np.isfinite(values)).sum())} numbers that are not. Leave out what was not measured."
        )
    dress(ax, title=title, subtitle=subtitle, xlabel=xlabel, ylabel="error change")
    for zero in (ax.axhline, ax.axvline):
        zero(0, color=MUTED, linewidth=LINE_WIDTH, zorder=0.5)
    for regime, each in points.items():
        style = styles[regime]
        for run in each.runs:
            (mark,) = ax.plot(run.x, run.y, style.marker, color=style.colour, markersize=4.5, alpha=0.6, zorder=3)
            mark.set(gid=run.gid, markeredgewidth=0)
        if len(each.runs) > 1:
            _draw_mean(each, style, ax)
    percent_axis(ax)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: minus(f"{100 * share:g} %")))
    ax.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    return ax


def dilemma_figure(
    panels: Mapping[str, Mapping[str, RegimePoints]],
    *,
    styles: Mapping[str, RegimeStyle],
    subtitles: Mapping[str, str],
    xlabel: str = "overconfidence of the float network",
) -> Figure:
    """Draw one panel a setting, with one legend.

    Args:
        panels: By setting, in the order to draw them, then by regime.
        styles: Of every regime.
        subtitles: By setting.
        xlabel: What `x` is.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: As `dilemma_panel`; or no panel.
    """
    fig, axes = setting_panels(len(panels), num_regimes=len(styles), height=_PANEL_HEIGHT)
    for ax, (setting, points) in zip(axes, panels.items(), strict=True):
        dilemma_panel(points, ax=ax, styles=styles, title=setting, subtitle=subtitles[setting], xlabel=xlabel)
    regime_legend(fig, styles)
    return fig


def _draw_mean(each: RegimePoints, style: RegimeStyle, ax: Axes) -> None:
    x, y = each.mean
    for ends, draw in ((each.x_range, ax.hlines), (each.y_range, ax.vlines)):
        if ends is not None:
            draw(y if draw == ax.hlines else x, *ends, color=style.colour, linewidth=1.6 * LINE_WIDTH, zorder=2)
    edge = {"markeredgecolor": INK, "markeredgewidth": LINE_WIDTH}
    ax.plot(x, y, style.marker, color=style.colour, markersize=8.5, zorder=4, **edge)  # type: ignore[arg-type]  # of mixed types
