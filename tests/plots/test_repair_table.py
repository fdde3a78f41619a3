import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from qcal.plots import repair_table_panel
from tests.plots.texts import cut_off, overlapping, smallest

SETTINGS = ["w8a8", "w4a8"]
METHODS = ["as quantized", "float temperature", "refitted temperature", "noise temperature"]
ECE = [[0.137, 0.021, 0.017, 0.017], [0.181, 0.012, 0.014, 0.013]]
LOW = [[0.101, -0.007, -0.01, -0.011], [0.148, -0.024, -0.019, -0.02]]
HIGH = [[0.147, 0.014, 0.008, 0.008], [0.191, 0.005, 0.006, None]]


def panel(**changed: object) -> Figure:
    fig = Figure(figsize=(5.5, 2.5), layout="constrained")
    arguments = {
        "settings": SETTINGS,
        "methods": METHODS,
        "values": ECE,
        "title": "ECE, %",
        "reference": 0.018,
        "gap_low": LOW,
        "gap_high": HIGH,
        **changed,
    }
    repair_table_panel(ax=fig.add_subplot(), **arguments)  # type: ignore[arg-type]  # wrong ones among them
    return fig


def cells(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.axes[0].texts[1:]]  # the first is the subtitle


def test_a_cell_holds_the_score_its_interval_and_whether_that_holds_0() -> None:
    drawn = cells(panel())
    assert drawn[0] == "13.7\n+10.1 to +14.7"
    assert drawn[1] == "≈ 2.1\n\N{MINUS SIGN}0.7 to +1.4"
    assert drawn[-1] == "1.3"  # no upper end
    assert len(drawn) == 8


def test_without_intervals_there_are_scores_alone() -> None:
    fig = panel(gap_low=None, gap_high=None)
    assert cells(fig) == ["13.7", "2.1", "1.7", "1.7", "18.1", "1.2", "1.4", "1.3"]
    assert fig.axes[0].texts[0].get_text() == "recalibrated float network: 1.8"


def test_nats_have_three_decimals() -> None:
    fig = panel(values=[[1.386, 1.16, 1.16, 1.1599], [1.798, 1.503, 1.503, 1.5024]], reference=1.155, unit="nats")
    assert [text.partition("\n")[0] for text in cells(fig)][-1] == "1.502"
    assert "1.155" in fig.axes[0].texts[0].get_text()


def test_the_shade_follows_the_distance_and_what_is_better_has_none() -> None:
    shades = [np.asarray(part.get_facecolor()).ravel() for part in panel().axes[0].collections]
    lightness = [float(shade[:3].sum()) for shade in shades]
    assert min(lightness) == lightness[4]  # w4a8 as quantized is furthest above
    assert lightness[5] == lightness[6] == lightness[7] == pytest.approx(3)  # below the float network's 0.018
    assert lightness[0] < lightness[1] < lightness[5]


def test_rows_are_settings_from_above_and_columns_methods() -> None:
    ax = panel().axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == SETTINGS
    assert [label.get_text().replace("\n", " ") for label in ax.get_xticklabels()] == METHODS
    assert ax.get_ylim() == (1.5, -0.5)


def test_all_text_is_large_enough_inside_and_apart() -> None:
    fig = panel()
    assert smallest(fig) >= 8
    assert cut_off(fig) == []
    assert overlapping(fig) == []


@pytest.mark.parametrize("values", [[], [[0.1] * 4], [[0.1] * 4, [0.1] * 3], [[0.1] * 3] * 2])
def test_rows_of_other_lengths_are_refused(values: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"`values` must have one row for each .* Pass the same rows of the record"):
        panel(values=values)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="`values` must be finite"):
        panel(values=[[math.nan] * 4] * 2)
