"""Accuracy when the least confident predictions of a quantized network are answered by the float one."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qcal.plots.lines import LINE, check_curve, check_some, line_styles, outside_legend
from qcal.plots.style import INK, LINE_WIDTH, MUTED, dress, percent_axis, setting_colour

Curve = tuple[Sequence[float], Sequence[float]]


def selective_fallback_panel(
    curves: Mapping[str, Curve],
    *,
    ax: Axes,
    float_accuracy: float,
    chosen: Mapping[str, tuple[float, float]] | None = None,
) -> Axes:
    """Draw accuracy against the share handed over, a line a setting, and where the chosen shares landed.

    Args:
        curves: Setting to `(share, accuracy)`: shares in [0, 1] that go to the float network, least confident first,
            and the accuracy of both together.
        ax: Where to draw.
        float_accuracy: The float network's, as a fraction; drawn as a line across.
        chosen: Setting to `(share, accuracy)` that the share chosen on held-out images gave; a ring each.

    Returns:
        `ax`.

    Raises:
        ValueError: No setting, shares and accuracies of different numbers, or values that are not finite.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = selective_fallback_panel({"w4a8": ([0, 0.5, 1], [0.58, 0.66, 0.68])}, ax=Figure().add_subplot(),
        ...     float_accuracy=0.68, chosen={"w4a8": (0.6, 0.67)})
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['float network', 'w4a8', 'chosen on held-out images']
    """
    check_some("curves", curves)
    dress(
        ax,
        title="Selective fallback to the float network",
        xlabel="least confident images handed over",
        ylabel="accuracy of both together",
    )
    ax.axhline(float_accuracy, color=MUTED, linewidth=1.5 * LINE_WIDTH, label="float network", zorder=1)
    for setting, style in line_styles(list(curves)).items():
        share, accuracy = curves[setting]
        check_curve("curves", setting, share, accuracy)
        ax.plot(share, accuracy, color=setting_colour(setting), linestyle=style.dash, linewidth=LINE, label=setting)
    rings = list((chosen or {}).items())
    for place, (setting, (share_there, accuracy_there)) in enumerate(rings):
        ax.plot(
            share_there,
            accuracy_there,
            marker="o",
            markersize=7,
            markerfacecolor=setting_colour(setting),
            markeredgecolor=INK,
            linestyle="none",
            label="chosen on held-out images" if place == 0 else None,
            clip_on=False,
            zorder=3,
        )
    ax.set_xlim(0, 1)
    percent_axis(ax)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    outside_legend(ax)
    return ax
