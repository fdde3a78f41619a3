"""The three pictures that are made of lines: selective fallback, risk and coverage, and the control."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qcal.plots import risk_coverage_panel, selective_fallback_panel, setting_colour, temperature_control_panel
from tests.plots.texts import cut_off, overlapping, smallest

SHARES = [step / 50 for step in range(51)]
SETTINGS = ["w8a8", "w6a8", "w4a8"]
Curves = dict[str, tuple[list[float], list[float]]]


def axes() -> Axes:
    return Figure(figsize=(6, 3.3), layout="constrained").add_subplot()


def curves(names: list[str]) -> Curves:
    return {name: (SHARES, [0.5 + 0.1 * place + 0.1 * x for x in SHARES]) for place, name in enumerate(names)}


def fallback() -> Axes:
    chosen = {name: (0.1 * place, 0.6) for place, name in enumerate(SETTINGS)}
    return selective_fallback_panel(curves(SETTINGS), ax=axes(), float_accuracy=0.8, chosen=chosen)


def risk() -> Axes:
    return risk_coverage_panel(curves(["float", *SETTINGS]), ax=axes(), areas={"float": 0.1152, "w4a8": 0.1866})


def control() -> Axes:
    applied = {name: ([0.9, 0.7, 0.5], [0.1 * place] * 3) for place, name in enumerate(SETTINGS, start=1)}
    trained = {"label smoothing": {name: (0.6, 0.15 * place) for place, name in enumerate(SETTINGS, start=1)}}
    return temperature_control_panel(applied, ax=axes(), temperatures=[0.5, 1, 2], trained=trained)


def heights(line: Line2D) -> list[float]:
    values: list[float] = np.asarray(line.get_ydata(), dtype=float).tolist()
    return values


def legend(ax: Axes) -> list[str]:
    box = ax.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


@pytest.mark.parametrize("draw", [fallback, risk, control])
def test_all_text_is_large_enough_inside_and_apart(draw: Callable[[], Axes]) -> None:
    fig = draw().get_figure(root=True)
    assert fig is not None
    assert smallest(fig) >= 8
    assert cut_off(fig) == []
    assert overlapping(fig) == []


@pytest.mark.parametrize("draw", [fallback, risk, control])
def test_a_setting_has_its_colour_and_no_two_have_one_dash(draw: Callable[[], Axes]) -> None:
    ax = draw()
    lines = {line.get_label(): line for line in ax.lines}
    drawn = [lines[next(label for label in lines if str(label).startswith(name))] for name in SETTINGS]
    assert [line.get_color() for line in drawn] == [setting_colour(name) for name in SETTINGS]
    handles = ax.get_legend_handles_labels()[0]
    assert len({str(handle._unscaled_dash_pattern) for handle in handles if handle in drawn}) == 3  # type: ignore[attr-defined]  # no public name


def test_the_fallback_shows_curves_float_accuracy_and_chosen_points() -> None:
    ax = fallback()
    assert legend(ax) == ["float network", *SETTINGS, "chosen on held-out images"]
    lines = {str(line.get_label()): line for line in ax.lines}
    assert heights(lines["float network"]) == [0.8, 0.8]
    assert heights(lines["w4a8"]) == curves(SETTINGS)["w4a8"][1]
    rings = [np.asarray(line.get_xydata()).ravel().tolist() for line in ax.lines if line.get_marker() == "o"]
    assert rings == [[0.0, 0.6], [0.1, 0.6], [0.2, 0.6]]


def test_the_fallback_without_a_choice_has_no_rings() -> None:
    ax = selective_fallback_panel(curves(SETTINGS), ax=axes(), float_accuracy=0.8)
    assert legend(ax) == ["float network", *SETTINGS]


def test_risk_and_coverage_start_at_0_and_name_their_areas() -> None:
    ax = risk()
    assert (ax.get_xlim(), ax.get_ylim()[0]) == ((0, 1), 0)
    assert legend(ax) == ["float (AURC 0.115)", "w8a8", "w6a8", "w4a8 (AURC 0.187)"]


def test_the_control_shows_level_lines_and_ties_trained_networks_to_them() -> None:
    ax = control()
    lines = {str(line.get_label()): line for line in ax.lines}
    assert heights(lines["w4a8"]) == pytest.approx([0.3] * 3)
    assert legend(ax) == [*SETTINGS, "label smoothing"]
    places = [np.asarray(line.get_xydata()) for line in ax.lines]
    ends = [[[0.7, 0.1 * place], [0.6, 0.15 * place]] for place in (1, 2, 3)]
    np.testing.assert_allclose([place for place in places if len(place) == 2], ends)
    assert [text.get_text() for text in ax.texts] == ["T = 2", "1", "0.5"]


def test_temperatures_that_would_touch_are_left_out() -> None:
    ax = temperature_control_panel({"w4a8": ([0.9, 0.88, 0.5], [0.1] * 3)}, ax=axes(), temperatures=[0.5, 1, 2])
    assert [text.get_text() for text in ax.texts] == ["T = 2", "1"]


def test_five_temperatures_have_room_and_none_touches_another() -> None:
    confidence = [0.88, 0.76, 0.54, 0.33, 0.2]
    ax = temperature_control_panel({"w4a8": (confidence, [0.1] * 5)}, ax=axes(), temperatures=[0.25, 0.5, 1, 2, 4])
    assert [text.get_text() for text in ax.texts] == ["T = 4", "2", "1", "0.5", "0.25"]
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_no_swaps_at_all_are_drawn() -> None:
    ax = temperature_control_panel({"w8a8": ([0.9, 0.5], [0.0, 0.0])}, ax=axes(), temperatures=[1, 2])
    assert ax.get_ylim() == (0, 0.01)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="`curves` must hold at least one setting, got none"):
        risk_coverage_panel({}, ax=axes())
    with pytest.raises(ValueError, match=r"`curves` must hold as many places as values, .* got 2 and 1 for 'w4a8'"):
        selective_fallback_panel({"w4a8": ([0, 1], [0.5])}, ax=axes(), float_accuracy=0.5)
    with pytest.raises(ValueError, match="`curves` must be finite, got NaN or infinity for 'float'"):
        risk_coverage_panel({"float": ([0.5, 1], [0.1, math.nan])}, ax=axes())
    with pytest.raises(ValueError, match="`temperatures` must hold as many places as values"):
        temperature_control_panel({"w4a8": ([0.5, 0.6], [0.1, 0.1])}, ax=axes(), temperatures=[1])
    with pytest.raises(ValueError, match="`temperatures` must hold 1 where there are `trained` networks"):
        temperature_control_panel(
            {"w4a8": ([0.5], [0.1])}, ax=axes(), temperatures=[2], trained={"other": {"w4a8": (0.5, 0.1)}}
        )
