"""Was the forecast right: the share that swapped against the probability that was forecast."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcal.functional.swap_curves import SwapCurve
from qcal.plots.style import FONT_SIZE, MUTED, dress, percent_axis
from qcal.plots.swap_curve import check_curves, draw_curves

_SIZE = 4.4


def forecast_panel(reliability: Mapping[str, SwapCurve], *, ax: Axes, fewest: int = 20) -> Axes:
    """Draw, per setting, the share swapped in each bin of P(swap), with 95 % Wilson intervals, and the diagonal.

    Above the diagonal more swapped than was forecast.

    Args:
        reliability: By setting, swap curves over bins of P(swap) (`SwapForecast.reliability`), at least one.
        ax: Where to draw.
        fewest: Bins with fewer images are left out; their share says next to nothing.

    Returns:
        `ax`, square, both axes 0 to 1.

    Raises:
        ValueError: There is no curve.

    Example:
        >>> import torch
        >>> from qcal.functional.swap_curves import score_bins, swap_curve
        >>> flags = torch.tensor([False, True])
        >>> bins = score_bins(torch.tensor([0.2, 0.7]), binning="equal_width")
        >>> ax = forecast_panel({"w4a8": swap_curve(bins, flags, flags, flags)}, ax=Figure().add_subplot(), fewest=1)
        >>> [float(share) for share in ax.lines[0].get_ydata()]
        [0.0, 1.0]
    """
    check_curves(reliability)
    subtitle = f"95 % Wilson intervals; bins of {fewest} images or more"
    dress(ax, title="Swaps, forecast and measured", subtitle=subtitle, xlabel="forecast P(swap)", ylabel="swapped")
    draw_curves(reliability, ax=ax, fewest=fewest)
    ax.plot([0, 1], [0, 1], color=MUTED, linestyle=(0, (4, 2)), linewidth=1, zorder=1, label="perfect forecast")
    ax.legend(fontsize=FONT_SIZE, frameon=False, loc="upper left", handlelength=1.8)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    percent_axis(ax)
    ax.xaxis.set_major_formatter(ax.yaxis.get_major_formatter())
    return ax


def forecast_figure(reliability: Mapping[str, SwapCurve]) -> Figure:
    """Draw the forecasts of all settings as a figure of its own; see `forecast_panel`.

    Args:
        reliability: By setting, swap curves over bins of P(swap).

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: There is no curve.

    Example:
        >>> import torch
        >>> from qcal.functional.swap_curves import score_bins, swap_curve
        >>> flags = torch.tensor([False, True])
        >>> bins = score_bins(torch.tensor([0.2, 0.7]), binning="equal_width")
        >>> len(forecast_figure({"w4a8": swap_curve(bins, flags, flags, flags)}).axes)
        1
    """
    fig = Figure(figsize=(_SIZE, _SIZE), layout="constrained")
    forecast_panel(reliability, ax=fig.add_subplot())
    return fig
