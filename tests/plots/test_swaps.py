import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qcal.functional.intervals import wilson_interval
from qcal.plots import (
    damage_per_swap_panel,
    setting_colour,
    swap_and_error_panel,
    swap_figure,
    swapped_confidence_panel,
)
from qcal.plots.swaps import Values
from tests.plots.texts import cut_off, overlapping, smallest

SETTINGS = ["w8a8", "w7a8", "w6a8", "w5a8", "w4a8"]
SWAP_RATE = [0.0, 0.0008, 0.061, 0.13, 0.3055]
ERROR_CHANGE = [0.0, -0.0004, 0.004, 0.021, 0.0903]
DAMAGE = [None, -0.5, 0.066, 0.16, 0.296]
COUNTS = [0, 8, 610, 1300, 3055]


def beta(size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).beta(2, 3, size))


def test_first_panel_has_a_bar_of_each_kind_per_setting() -> None:
    axes = swap_and_error_panel(SETTINGS, SWAP_RATE, ERROR_CHANGE, ax=Figure().add_subplot())
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in bars] == [*SWAP_RATE, *ERROR_CHANGE]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert middles == pytest.approx([place + side for side in (-0.22, 0.22) for place in range(5)])


def test_figures_stand_beyond_the_bars_in_percent() -> None:
    axes = swap_and_error_panel(SETTINGS, SWAP_RATE, ERROR_CHANGE, ax=Figure().add_subplot())
    expected = ["0", "0.08", "6.1", "13", "31", "0", "\N{MINUS SIGN}0.04", "0.40", "2.1", "9.0"]
    assert [text.get_text() for text in axes.texts] == expected


def test_a_setting_has_its_colour_in_every_panel() -> None:
    fig = swap_figure(["w4a8"], [0.3], [0.1], [0.33], [beta(30)])
    first, second, third = fig.axes
    violin = third.collections[0].get_facecolor()
    for rgba in (first.patches[0].get_facecolor(), first.patches[1].get_facecolor(), second.patches[0].get_facecolor()):
        np.testing.assert_allclose(np.asarray(rgba)[:3], np.asarray(violin)[0, :3])
    assert setting_colour("w4a8") != setting_colour("w8a8")


def test_swapped_shares_get_wilson_intervals_when_the_number_of_images_is_known() -> None:
    axes = swap_and_error_panel(SETTINGS, SWAP_RATE, ERROR_CHANGE, ax=Figure().add_subplot(), num_images=10_000)
    (lines,) = [collection for collection in axes.collections if hasattr(collection, "get_segments")]
    drawn = np.array([[segment[0, 1], segment[1, 1]] for segment in lines.get_segments()])
    lower, upper = wilson_interval(torch.tensor([0, 8, 610, 1300, 3055]), torch.tensor(10_000))
    np.testing.assert_allclose(drawn, torch.stack([lower, upper], dim=1).numpy(), atol=1e-12)
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["swapped, 95 % Wilson interval", "change of error"]


def test_there_are_no_intervals_without_the_number_of_images() -> None:
    axes = swap_and_error_panel(SETTINGS, SWAP_RATE, ERROR_CHANGE, ax=Figure().add_subplot())
    assert not axes.collections
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "swapped"


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_undefined_damage_is_a_marked_gap_and_not_a_bar(undefined: float | None) -> None:
    axes = damage_per_swap_panel(["w8a8", "w6a8", "w4a8"], [undefined, 0.0, -0.3], ax=Figure().add_subplot())
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    assert [(round(bar.get_x() + bar.get_width() / 2), bar.get_height()) for bar in bars] == [(1, 0.0), (2, -0.3)]
    marks = [text.get_position()[0] for text in axes.texts if text.get_text() == "no swaps"]
    assert marks == [0]


def test_a_violin_spans_its_values_with_median_and_quartiles() -> None:
    values = torch.linspace(0.2, 0.6, 41)
    axes = swapped_confidence_panel(["w4a8"], [values], ax=Figure().add_subplot())
    body, quartiles, median = axes.collections
    heights = np.asarray(body.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.2, 0.6))
    assert np.asarray(median.get_offsets()).tolist() == [[0, pytest.approx(0.4)]]
    assert sorted(np.asarray(quartiles.get_paths()[0].vertices)[:, 1]) == pytest.approx([0.3, 0.5])


@pytest.mark.parametrize("size", [1, 2, 19])
def test_few_swaps_are_drawn_one_by_one(size: int) -> None:
    values = beta(size)
    axes = swapped_confidence_panel(["w4a8"], [values], ax=Figure().add_subplot())
    (points,) = axes.collections
    np.testing.assert_allclose(np.asarray(points.get_offsets())[:, 1], values.sort().values)


def test_no_swaps_are_marked_and_counted() -> None:
    axes = swapped_confidence_panel(["w8a8", "w4a8"], [torch.empty(0), beta(30)], ax=Figure().add_subplot())
    assert "no swaps" in [text.get_text() for text in axes.texts]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["w8a8\n0", "w4a8\n30"]
    assert axes.get_ylim() == (0, 1)


@pytest.mark.parametrize(
    "values",
    [[0.5] * 30, [0.5] * 29 + [0.5 + 1e-9], [0.0] * 15 + [1.0] * 15, np.full(30, 0.25), torch.full((30,), 0.25).half()],
    ids=["equal", "nearly equal", "two ends", "array", "half"],
)
def test_unusual_distributions_are_drawn(values: Values) -> None:
    fig = swap_figure(["w4a8"], [0.3], [0.1], [0.33], [values], num_images=100)
    fig.draw_without_rendering()


@pytest.mark.parametrize("num_settings", [1, 2, 6, 9, 10, 56])
def test_all_text_is_large_enough_inside_and_apart(num_settings: int) -> None:
    settings = [f"w{8 - i // 8}a{8 - i % 8}" for i in range(num_settings)]
    rates = np.linspace(0, 0.9, num_settings).tolist()
    damage: list[float | None] = [None, *[0.5] * (num_settings - 1)]
    confidences = [beta(round(10_000 * rate)) for rate in rates]
    fig = swap_figure(settings, rates, [rate / 2 for rate in rates], damage, confidences, num_images=10_000)
    assert smallest(fig) >= 8
    assert cut_off(fig) == []
    assert overlapping(fig) == []


def test_the_papers_grid_is_drawn_without_overlap() -> None:
    settings = [f"{setting}-mse-full-out" for setting in SETTINGS]
    fig = swap_figure(settings, SWAP_RATE, ERROR_CHANGE, DAMAGE, [beta(n) for n in COUNTS], num_images=10_000)
    assert fig.axes[0].get_xlabel() == "setting (all mse-full-out)"
    assert cut_off(fig) == []
    assert overlapping(fig) == []


def test_many_wide_panels_go_below_each_other() -> None:
    def tops(num_settings: int) -> int:
        tenths, nobody = [0.1] * num_settings, [beta(0)] * num_settings
        fig = swap_figure(["w4a8"] * num_settings, tenths, tenths, tenths, nobody)
        fig.draw_without_rendering()
        return len({round(axes.get_window_extent().y1) for axes in fig.axes})

    assert (tops(3), tops(9)) == (1, 3)


@pytest.mark.parametrize("settings", [[], ["w8a8"], ["w8a8", "w4a8", "w2a2"]])
def test_rows_of_different_lengths_are_refused(settings: list[str]) -> None:
    message = rf"`{{}}` must have one entry .* got 2 for {len(settings)} settings\. Pass the same rows"
    with pytest.raises(ValueError, match=message.format("swap_rate")):
        swap_and_error_panel(settings, [0.1, 0.2], [0.1, 0.2], ax=Figure().add_subplot())
    with pytest.raises(ValueError, match=message.format("damage_per_swap")):
        damage_per_swap_panel(settings, [0.1, 0.2], ax=Figure().add_subplot())
    with pytest.raises(ValueError, match=message.format("swapped_confidence")):
        swapped_confidence_panel(settings, [[0.1], [0.2]], ax=Figure().add_subplot())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_shares_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"`error_change` must be finite, got .* Leave out"):
        swap_and_error_panel(["w8a8"], [0.1], [value], ax=Figure().add_subplot())


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_confidences_outside_0_and_1_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"`swapped_confidence` must be confidences in \[0, 1\], got .*Pass the top"):
        swapped_confidence_panel(["w8a8"], [[0.5, value]], ax=Figure().add_subplot())
