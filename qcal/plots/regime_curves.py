"""Swap curves of several regimes over each other: where along float confidence each one's swaps lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from qcal.plots.regime_style import RegimeStyle, regime_legend, setting_panels
from qcal.plots.style import INK, LINE_WIDTH, dress, percent_axis

__all__ = ["RegimeCurve", "regime_curves_figure", "regime_curves_panel"]

_PANEL_HEIGHT = 2.8  # inches
_BAND = 0.13  # opacity


@dataclass(frozen=True)
class RegimeCurve:
    """Swap rates in bins of float confidence, of one regime at one setting; B bins with images.

    Attributes:
        confidence: Mean float confidence in each bin.
        swap_rate: Share swapped, mean over runs.
        low: Lower end of its interval; NaN where unknown.
        high: Upper end.
    """

    confidence: Sequence[float]
    swap_rate: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def regime_curves_panel(
    curves: Mapping[str, RegimeCurve], *, ax: Axes, styles: Mapping[str, RegimeStyle], title: str
) -> Axes:
    """Draw one line a regime, with a band for its interval.

    Args:
        curves: By regime, at least one.
        ax: Where to draw.
        styles: Of every regime.
        title: Such as the setting.

    Returns:
        `ax`.

    Raises:
        ValueError: There is no curve, or one without bins.

    Example:
        >>> from qcal.plots.regime_style import regime_styles
        >>> curve = RegimeCurve([0.3, 0.9], [0.4, 0.1], [0.3, 0.0], [0.5, 0.2])
        >>> ax = regime_curves_panel({"focal": curve}, ax=Figure().add_subplot(), styles=regime_styles(["focal"]),
        ...     title="w4a4")
        >>> ax.lines[0].get_ydata().tolist()
        [0.4, 0.1]
    """
    if not curves or any(len(curve.confidence) == 0 for curve in curves.values()):
        raise ValueError(
            f"`curves` must hold at least one regime, each with at least one bin, got {list(curves)}. Leave out what "
            "was not measured."
        )
    dress(ax, title=title, xlabel="confidence of the float network", ylabel="swapped")
    for regime, curve in curves.items():
        style = styles[regime]
        known = np.isfinite(curve.low)
        ax.fill_between(
            curve.confidence, curve.low, curve.high, where=known, color=style.colour, alpha=_BAND, linewidth=0
        )
        ax.plot(
            curve.confidence,
            curve.swap_rate,
            marker=style.marker,
            color=style.colour,
            markeredgecolor=INK,
            linewidth=2 * LINE_WIDTH,
            markersize=4,
            markeredgewidth=0.5 * LINE_WIDTH,
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, min(1.02, ax.get_ylim()[1]))  # a share, whatever Student's interval of it says
    percent_axis(ax)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    return ax


def regime_curves_figure(
    panels: Mapping[str, Mapping[str, RegimeCurve]], *, styles: Mapping[str, RegimeStyle]
) -> Figure:
    """Draw one panel a setting, with one legend.

    Args:
        panels: By setting, in the order to draw them, then by regime.
        styles: Of every regime.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: As `regime_curves_panel`; or no panel.
    """
    fig, axes = setting_panels(len(panels), num_regimes=len(styles), height=_PANEL_HEIGHT)
    for ax, (setting, curves) in zip(axes, panels.items(), strict=True):
        regime_curves_panel(curves, ax=ax, styles=styles, title=setting)
    regime_legend(fig, styles, line=True)
    return fig
