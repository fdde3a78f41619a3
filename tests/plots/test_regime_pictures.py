import math

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from qcal.plots.dilemma import RegimePoints, RunPoint, dilemma_figure, dilemma_panel
from qcal.plots.regime_curves import RegimeCurve, regime_curves_figure, regime_curves_panel
from qcal.plots.regime_repair import regime_repair_figure, regime_repair_panel
from qcal.plots.regime_style import regime_styles
from qcal.plots.style import INK

REGIMES = ["cross-entropy", "focal 3", "dial +1"]
STYLES = regime_styles(REGIMES, baseline="cross-entropy")


def _points(x: float, number: int) -> RegimePoints:
    runs = [RunPoint(x + 0.01 * place, 0.02 * place, f"point-{x}-{place}") for place in range(number)]
    mean = (sum(run.x for run in runs) / number, sum(run.y for run in runs) / number)
    return RegimePoints(runs, mean, (x - 0.02, x + 0.04), (-0.01, 0.05) if number > 2 else None)


def test_twenty_regimes_are_told_apart() -> None:
    styles = regime_styles([f"regime {number}" for number in range(21)], baseline="regime 0")
    assert styles["regime 0"].colour == INK
    assert len({(style.colour, style.marker) for style in styles.values()}) == 21


def test_each_run_is_a_point_that_can_be_found_and_each_mean_has_its_intervals() -> None:
    ax = dilemma_panel(
        {"cross-entropy": _points(0.1, 3), "focal 3": _points(-0.1, 1)},
        ax=Figure().add_subplot(),
        styles=STYLES,
        title="w4a4",
        subtitle="rank correlation",
    )
    found = [line.get_gid() for line in ax.lines if str(line.get_gid()).startswith("point")]
    assert found == ["point-0.1-0", "point-0.1-1", "point-0.1-2", "point--0.1-0"]
    spans = sorted(tuple(segment.ravel().round(3)) for lines in ax.collections for segment in lines.get_segments())  # type: ignore[attr-defined]  # of LineCollection
    # Horizontal over overconfidence at the mean error change, vertical over error change at the mean overconfidence.
    assert spans == [(0.08, 0.02, 0.14, 0.02), (0.11, -0.01, 0.11, 0.05)]


def test_a_figure_has_a_panel_a_setting_and_one_legend() -> None:
    points = {regime: _points(0.1, 3) for regime in REGIMES}
    fig = dilemma_figure(
        {f"w{bits}a8": points for bits in (8, 6, 5, 4)},
        styles=STYLES,
        subtitles={f"w{bits}a8": "some" for bits in (8, 6, 5, 4)},
    )
    titles = [ax.get_title(loc="left") for ax in fig.axes if ax.axison]
    assert titles == ["w8a8", "w6a8", "w5a8", "w4a8"]
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == REGIMES


def test_a_curve_is_drawn_within_shares_and_a_band_where_it_is_known() -> None:
    curve = RegimeCurve([0.3, 0.6, 0.9], [0.9, 0.5, 0.1], [0.2, math.nan, 0.0], [1.6, math.nan, 0.2])
    fig = regime_curves_figure({"w4a4": {"focal 3": curve}}, styles=STYLES)
    (ax,) = fig.axes
    assert ax.get_ylim() == (0, 1.02)
    assert ax.lines[0].get_ydata().tolist() == [0.9, 0.5, 0.1]  # type: ignore[union-attr]  # an array


def test_the_repair_picture_names_regimes_and_methods() -> None:
    means = [(0.1, 0.05, 0.15), (0.2, None, None)]
    fig = regime_repair_figure(
        ["cross-entropy", "focal 3"], {"as quantized": means, "refitted": means}, means, title="w4a4"
    )
    texts = {text.get_text() for text in fig.findobj(Text)}
    assert {"w4a4", "cross-entropy", "focal 3"} <= texts
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        "float network, recalibrated",
        "as quantized",
        "refitted",
    ]


def test_nothing_to_draw_and_what_is_not_finite_are_refused() -> None:
    ax = Figure().add_subplot()
    bad = RegimePoints([RunPoint(math.nan, 0.0, "a")], (0.0, 0.0), None, None)
    with pytest.raises(ValueError, match="all finite, got 1 with 1 numbers that are not"):
        dilemma_panel({"focal 3": bad}, ax=ax, styles=STYLES, title="", subtitle="")
    with pytest.raises(ValueError, match="at least one run"):
        dilemma_panel({}, ax=ax, styles=STYLES, title="", subtitle="")
    with pytest.raises(ValueError, match="at least one setting"):
        dilemma_figure({}, styles=STYLES, subtitles={})
    with pytest.raises(ValueError, match="at least one regime, each with at least one bin"):
        regime_curves_panel({"focal 3": RegimeCurve([], [], [], [])}, ax=ax, styles=STYLES, title="")
    with pytest.raises(ValueError, match="at least one setting"):
        regime_curves_figure({}, styles=STYLES)
    with pytest.raises(ValueError, match="one mean for each of at least one regime"):
        regime_repair_panel(["a", "b"], {"none": [(0.1, None, None)]}, [(0.1, None, None)], ax=ax, title="")
