"""Risk against coverage: the errors that remain when the least confident predictions are withheld.

References:
    Geifman, El-Yaniv: Selective Classification for Deep Neural Networks, NeurIPS 2017.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from qcal.plots.lines import LINE, check_curve, check_some, line_styles, outside_legend
from qcal.plots.style import FLOAT, dress, percent_axis, setting_colour

Curve = tuple[Sequence[float], Sequence[float]]


def risk_coverage_panel(curves: Mapping[str, Curve], *, ax: Axes, areas: Mapping[str, float] | None = None) -> Axes:
    """Draw the share of errors among the most confident predictions, a line for float and for each setting.

    Args:
        curves: `float` or a setting to `(coverage, risk)`, both in [0, 1].
        ax: Where to draw.
        areas: The areas under the curves, written into the legend if given.

    Returns:
        `ax`, both axes from 0.

    Raises:
        ValueError: No curve, coverages and risks of different numbers, or values that are not finite.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = risk_coverage_panel({"float": ([0.5, 1], [0.1, 0.3])}, ax=Figure().add_subplot(), areas={"float": 0.1})
        >>> ax.get_legend().get_texts()[0].get_text()
        'float (AURC 0.100)'
    """
    check_some("curves", curves)
    dress(ax, title="Risk and coverage", xlabel="coverage, most confident first", ylabel="errors among them")
    for label, style in line_styles(list(curves)).items():
        coverage, risk = curves[label]
        check_curve("curves", label, coverage, risk)
        area = "" if areas is None or label not in areas else f" (AURC {areas[label]:.3f})"
        ax.plot(
            coverage,
            risk,
            color=setting_colour(label),
            linestyle=style.dash,
            linewidth=1.4 * LINE if label == FLOAT else LINE,
            label=f"{label}{area}",
        )
    ax.set(xlim=(0, 1), ylim=(0, None))
    percent_axis(ax)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    outside_legend(ax)
    return ax
