"""What recalibration leaves of each regime's calibration error, beside the float network recalibrated likewise."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, NEUTRAL, OVERCONFIDENT, UNDERCONFIDENT, dress

__all__ = ["regime_repair_figure", "regime_repair_panel"]

Mean = tuple[float, float | None, float | None]
"""A mean with the ends of its interval, None where unknown."""

_LOOKS = (("s", OVERCONFIDENT), ("v", NEUTRAL), ("o", UNDERCONFIDENT), ("D", "#009e73"))
_SPREAD = 0.13  # of the distance between two regimes
_WIDTH, _PER_REGIME = 7.6, 0.42


def regime_repair_panel(
    regimes: Sequence[str],
    methods: Mapping[str, Sequence[Mean]],
    goal: Sequence[Mean],
    *,
    ax: Axes,
    title: str,
) -> Axes:
    """Draw, per regime, the ECE after each repair, and a bar where the recalibrated float network stands.

    Args:
        regimes: R names, from top to bottom.
        methods: Name of a repair to R means, as fractions.
        goal: R means of the recalibrated float network.
        ax: Where to draw.
        title: Of the panel.

    Returns:
        `ax`.

    Raises:
        ValueError: The lengths differ, or there is no regime.

    Example:
        >>> ax = regime_repair_panel(["focal"], {"as quantized": [(0.1, None, None)]}, [(0.02, None, None)],
        ...     ax=Figure().add_subplot(), title="w4a4")
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['focal']
    """
    lengths = {len(goal), *(len(means) for means in methods.values())}
    if not regimes or lengths != {len(regimes)}:
        raise ValueError(
            f"`methods` and `goal` must have one mean for each of at least one regime, got {sorted(lengths)} for "
            f"{len(regimes)}. Leave out regimes without repairs."
        )
    dress(ax, title=title, xlabel="ECE")
    place = np.arange(len(regimes), dtype=float)
    reach = _SPREAD * (len(methods) / 2 + 0.5)
    ax.vlines(
        [mean for mean, _, _ in goal],
        place - reach,
        place + reach,
        color=INK,
        linewidth=3 * LINE_WIDTH,
        label="float network, recalibrated",
    )
    for order, (name, means) in enumerate(methods.items()):
        marker, colour = _LOOKS[order % len(_LOOKS)]
        height = place + _SPREAD * (order - (len(methods) - 1) / 2)
        for y, (_, low, high) in zip(height, means, strict=True):
            if low is not None and high is not None:
                ax.hlines(y, low, high, color=INK, linewidth=LINE_WIDTH)
        ax.scatter(
            [mean for mean, _, _ in means],
            height,
            s=26,
            marker=marker,
            color=colour,
            edgecolors=INK,
            linewidths=0.7 * LINE_WIDTH,
            zorder=3,
            label=name,
        )
    ax.set_yticks(place, regimes, fontsize=FONT_SIZE)
    ax.set(ylim=(len(regimes) - 0.4, -0.6))
    ax.set_xlim(left=0)
    ax.grid(visible=False, axis="y")
    ax.grid(visible=True, axis="x", color="#e3e3e3", linewidth=LINE_WIDTH)
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    return ax


def regime_repair_figure(
    regimes: Sequence[str], methods: Mapping[str, Sequence[Mean]], goal: Sequence[Mean], *, title: str
) -> Figure:
    """The same as a figure of its own, known to no pyplot; see `regime_repair_panel`."""
    fig = Figure(figsize=(_WIDTH, 1.2 + _PER_REGIME * len(regimes)), layout="constrained")
    ax = regime_repair_panel(regimes, methods, goal, ax=fig.add_subplot(), title=title)
    fig.legend(*ax.get_legend_handles_labels(), fontsize=FONT_SIZE, frameon=False, loc="outside right upper")
    return fig
