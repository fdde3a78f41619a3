"""The pictures of the analysis of swaps: curve, migration, forecast, margins or noise."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qcal.functional.migration import ConfidenceMigration, confidence_migration
from qcal.functional.swap_curves import SwapCurve, score_bins, swap_curve
from qcal.plots import (
    float_accuracy_panel,
    forecast_figure,
    forecast_panel,
    margins_or_noise_figure,
    margins_or_noise_panel,
    migration_figure,
    migration_panel,
    setting_colour,
    swap_curve_figure,
    swap_curve_panel,
)
from tests.plots.texts import cut_off, overlapping, smallest

SETTINGS = ["w8a8", "w7a8", "w6a8", "w5a8", "w4a8"]


def _curve(rate: float, binning: Any = "equal_count") -> SwapCurve:  # Any: the literal of a rule
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(2000, generator=generator)
    swapped = torch.rand(2000, generator=generator) < rate * (1 - score)
    right = torch.rand(2000, generator=generator) < score
    return swap_curve(score_bins(score, binning=binning), swapped, right, right & ~swapped)


CURVES = {setting: _curve(rate) for setting, rate in zip(SETTINGS, (0.05, 0.06, 0.1, 0.4, 0.9), strict=True)}


def _migration(rows: int = 3000) -> ConfidenceMigration:
    before, after = torch.rand(2, rows, generator=torch.Generator().manual_seed(0))
    return confidence_migration(before, after, before > 0.5)


def _estimates(*values: float) -> list[tuple[float, float, float]]:
    return [(value, value - 0.01, value + 0.02) for value in values]


def test_points_stand_at_the_mean_score_with_their_wilson_intervals() -> None:
    ax = swap_curve_panel({"w4a8": CURVES["w4a8"]}, ax=Figure().add_subplot())
    (drawn,) = (container for container in ax.containers if isinstance(container, ErrorbarContainer))
    line, _, (bars,) = drawn.lines
    curve = CURVES["w4a8"]
    assert np.asarray(line.get_xdata()).tolist() == list(curve.mean_score)
    assert np.asarray(line.get_ydata()).tolist() == list(curve.swap_rate)
    ends = np.array([[segment[0, 1], segment[1, 1]] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.array([curve.swap_low, curve.swap_high], dtype=float).T, atol=1e-12)


def test_each_setting_has_its_colour_and_a_marker_of_its_own() -> None:
    ax = swap_curve_panel(CURVES, ax=Figure().add_subplot())
    lines = [container.lines[0] for container in ax.containers if isinstance(container, ErrorbarContainer)]
    assert [to_rgb(line.get_color()) for line in lines] == [to_rgb(setting_colour(setting)) for setting in SETTINGS]
    assert len({line.get_marker() for line in lines}) == len(SETTINGS)


def test_bins_without_images_have_no_point() -> None:
    no = torch.zeros(3).bool()
    curve = swap_curve(score_bins(torch.tensor([0.05, 0.06, 0.95]), binning="equal_width"), no, no, no)
    for ax in (
        swap_curve_panel({"w4a8": curve}, ax=Figure().add_subplot()),
        float_accuracy_panel(curve, ax=Figure().add_subplot()),
    ):
        assert np.asarray(ax.lines[0].get_xdata()).tolist() == pytest.approx([0.055, 0.95])


def test_the_accuracy_beneath_is_the_float_networks() -> None:
    above, below = swap_curve_figure(CURVES).axes
    assert np.asarray(below.lines[0].get_ydata()).tolist() == list(CURVES["w8a8"].float_accuracy)
    assert to_rgb(below.lines[0].get_color()) == to_rgb(setting_colour("float"))
    assert above.get_xlim() == below.get_xlim()


def test_every_count_of_the_migration_stands_in_its_cell() -> None:
    migration = _migration(40)
    ax = migration_panel(migration, ax=Figure().add_subplot(), setting="w4a8")
    written = {text.get_position(): text.get_text() for text in ax.texts[1:]}
    for (row, column), images in np.ndenumerate(np.array(migration.count)):
        cell = [text for (x, y), text in written.items() if int(x * 10) == row and int(y * 10) == column]
        assert cell == ([str(images)] if images else [])
    assert sum(map(int, written.values())) == 40
    assert len([patch for patch in ax.patches if isinstance(patch, Rectangle)]) == 10


def test_the_forecast_leaves_out_bins_of_few_images() -> None:
    curve = _curve(0.5, "equal_width")
    ax = forecast_panel({"w4a8": curve}, ax=Figure().add_subplot(), fewest=sorted(curve.count)[5])
    kept = [rate for rate, count in zip(curve.swap_rate, curve.count, strict=True) if count >= sorted(curve.count)[5]]
    assert np.asarray(ax.lines[0].get_ydata()).tolist() == kept
    assert len(kept) < 10
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1), (0, 1))
    (diagonal,) = (line for line in ax.lines if line.get_label() == "perfect forecast")
    assert np.asarray(diagonal.get_xdata()).tolist() == np.asarray(diagonal.get_ydata()).tolist() == [0, 1]


def test_parts_stand_beside_their_whole_with_intervals() -> None:
    whole, margins, noise = _estimates(0.1, -0.02), _estimates(0.3, 0.01), _estimates(-0.2, -0.03)
    ax = margins_or_noise_panel(["w8a8", "w4a8"], whole, margins, noise, ax=Figure().add_subplot())
    bars = [bar for bar in ax.patches if isinstance(bar, Rectangle)]
    assert [bar.get_height() for bar in bars] == [0.1, -0.02, 0.3, 0.01, -0.2, -0.03]
    ends = [
        (segment[0, 1], segment[1, 1])
        for container in ax.containers
        if isinstance(container, ErrorbarContainer)
        for segment in container.lines[2][0].get_segments()
    ]
    expected = [(low, high) for part in (whole, margins, noise) for _, low, high in part]
    np.testing.assert_allclose(ends, expected, atol=1e-12)


@pytest.mark.parametrize(
    "fig",
    [
        swap_curve_figure(CURVES),
        swap_curve_figure({"w4a8-mse-full": CURVES["w4a8"]}, score="margin of logits"),
        migration_figure(_migration(), setting="w4a8"),
        forecast_figure(CURVES),
        margins_or_noise_figure(SETTINGS, *([_estimates(0.1, 0.2, 0.3, -0.1, 0.0)] * 3), runs="focal less plain"),
    ],
    ids=["curve", "one curve", "migration", "forecast", "margins or noise"],
)
def test_all_text_is_large_enough_inside_and_apart(fig: Figure) -> None:
    assert smallest(fig) >= 8
    assert cut_off(fig) == []
    assert overlapping(fig) == []


def test_nothing_to_draw_is_refused() -> None:
    ax = Figure().add_subplot()
    with pytest.raises(ValueError, match="`curves` must be at least one swap curve with images, got 0"):
        swap_curve_panel({}, ax=ax)
    with pytest.raises(ValueError, match="`curves` must be at least one swap curve with images, got 0"):
        forecast_panel({}, ax=ax)
    empty = ConfidenceMigration((0.0, 1.0), ((0,),), ((0,),), 0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="`migration` must hold at least one image, got none"):
        migration_panel(empty, ax=ax, setting="w4a8")
    with pytest.raises(ValueError, match=r"`owed to noise \(low\)` must be finite"):
        margins_or_noise_panel(["w4a8"], _estimates(0.1), _estimates(0.1), [(0.0, math.nan, 0.1)], ax=ax)
    with pytest.raises(ValueError, match="must have one entry for each of at least one setting"):
        margins_or_noise_panel(["w4a8"], _estimates(0.1), _estimates(0.1, 0.2), _estimates(0.1), ax=ax)
