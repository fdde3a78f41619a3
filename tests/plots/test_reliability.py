import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qcal.functional.calibration import ReliabilityBins, ece, reliability_bins
from qcal.functional.intervals import wilson_interval
from qcal.plots import confidence_histogram, reliability_diagram, reliability_figure
from qcal.plots.style import OVERCONFIDENT, UNDERCONFIDENT
from tests.plots.texts import cut_off, overlapping, smallest

# Five bins of width 0.2; the second and third are empty, the first is underconfident, the last two are overconfident.
CONFIDENCE = torch.tensor([0.1, 0.1, 0.7, 0.7, 0.9, 0.9, 0.9, 0.9])
CORRECT = torch.tensor([True, False, True, False, True, True, True, False])


@pytest.fixture
def bins() -> ReliabilityBins:
    return reliability_bins(CONFIDENCE, CORRECT, num_bins=5)


def bars(axes: Axes, name: str) -> list[tuple[float, float, float]]:
    """Left edge, lower end and signed height of the bars with a name."""
    (container,) = [part for part in axes.containers if isinstance(part, BarContainer) and part.get_label() == name]
    return [
        (round(float(p.get_x()), 6), round(float(p.get_y()), 6), round(float(p.get_height()), 6)) for p in container
    ]


def test_bars_are_the_accuracies_of_the_bins_that_are_not_empty(bins: ReliabilityBins) -> None:
    axes = reliability_diagram(bins, ax=Figure().add_subplot())
    assert bars(axes, "accuracy") == [(0.0, 0.0, 0.5), (0.6, 0.0, 0.5), (0.8, 0.0, 0.75)]


def test_gaps_reach_from_accuracy_to_confidence_and_are_told_apart(bins: ReliabilityBins) -> None:
    axes = reliability_diagram(bins, ax=Figure().add_subplot())
    assert bars(axes, "overconfident gap") == [(0.6, 0.5, 0.2), (0.8, 0.75, 0.15)]
    assert bars(axes, "underconfident gap") == [(0.0, 0.5, -0.4)]
    over, under = (
        next(p for p in axes.patches if p.get_facecolor()[:3] == to_rgb(c)) for c in (OVERCONFIDENT, UNDERCONFIDENT)
    )
    assert over.get_hatch() != under.get_hatch()  # in grey only the hatch tells


def test_accuracies_have_wilson_intervals(bins: ReliabilityBins) -> None:
    axes = reliability_diagram(bins, ax=Figure().add_subplot())
    (lines,) = [collection for collection in axes.collections if hasattr(collection, "get_segments")]
    drawn = np.array([[segment[0, 1], segment[1, 1]] for segment in lines.get_segments()])
    expected = torch.stack(wilson_interval(torch.tensor([1, 1, 3]), torch.tensor([2, 2, 4])), dim=1)
    np.testing.assert_allclose(drawn, expected.numpy(), atol=1e-9)
    assert [segment[0, 0] for segment in lines.get_segments()] == pytest.approx([0.1, 0.7, 0.9])


def test_the_diagram_is_square_from_0_to_1_with_the_diagonal_named(bins: ReliabilityBins) -> None:
    axes = reliability_diagram(bins, ax=Figure().add_subplot())
    assert (axes.get_xlim(), axes.get_ylim(), axes.get_box_aspect()) == ((0, 1), (0, 1), 1)
    (diagonal,) = [line for line in axes.lines if line.get_label() == "perfect calibration"]
    assert np.asarray(diagonal.get_xydata()).tolist() == [[0, 0], [1, 1]]
    legend = axes.get_legend()
    assert legend is not None
    assert "perfect calibration" in [text.get_text() for text in legend.get_texts()]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"ece": 0.052, "overconfidence": 0.031}, ["ECE 5.2 %, overconfidence +3.1 %"]),
        ({"ece": 0.052}, ["ECE 5.2 %"]),
        ({"overconfidence": -0.031}, ["overconfidence \N{MINUS SIGN}3.1 %"]),
        ({}, []),
    ],
)
def test_scores_that_are_given_stand_under_the_title(
    bins: ReliabilityBins, given: dict[str, float], line: list[str]
) -> None:
    axes = reliability_diagram(
        bins, ax=Figure().add_subplot(), label="w4a8", ece=given.get("ece"), overconfidence=given.get("overconfidence")
    )
    assert axes.get_title(loc="left") == "w4a8"
    assert [text.get_text() for text in axes.texts] == line


def test_histogram_shows_shares_accuracy_and_mean_confidence(bins: ReliabilityBins) -> None:
    axes = confidence_histogram(bins, ax=Figure().add_subplot())
    assert [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)] == [0.25, 0, 0, 0.25, 0.5]
    accuracy, confidence = axes.lines
    assert accuracy.get_xdata() == pytest.approx([CORRECT.double().mean().item()] * 2)
    assert confidence.get_xdata() == pytest.approx([CONFIDENCE.double().mean().item()] * 2)
    assert accuracy.get_linestyle() != confidence.get_linestyle()


def test_histogram_height_follows_the_highest_bar_or_the_given_share(bins: ReliabilityBins) -> None:
    assert confidence_histogram(bins, ax=Figure().add_subplot()).get_ylim() == pytest.approx((0, 0.525))
    assert confidence_histogram(bins, ax=Figure().add_subplot(), max_share=0.8).get_ylim() == pytest.approx((0, 0.84))


def test_figure_has_the_same_limits_for_all_and_the_scores_of_the_bins(bins: ReliabilityBins) -> None:
    sure = reliability_bins(torch.full((4,), 0.9), torch.tensor([True, True, True, False]), num_bins=5)
    fig = reliability_figure({"float": bins, "w4a8": sure})
    histograms, diagrams = fig.axes[::2], fig.axes[1::2]
    assert {axes.get_ylim() for axes in diagrams} == {(0, 1)}
    assert [axes.get_ylim() for axes in histograms] == [pytest.approx((0, 1.05))] * 2
    assert [axes.get_title(loc="left") for axes in diagrams] == ["float", "w4a8"]
    score = 100 * float(ece(CONFIDENCE, CORRECT, num_bins=5))
    over = 100 * float(CONFIDENCE.double().mean() - CORRECT.double().mean())
    assert diagrams[0].texts[0].get_text() == f"ECE {score:.1f} %, overconfidence {over:+.1f} %"
    assert diagrams[1].texts[0].get_text() == "ECE 15.0 %, overconfidence +15.0 %"


@pytest.mark.parametrize(("number", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (6, 2, 3), (9, 3, 3)])
def test_many_diagrams_fill_even_rows_of_squares(bins: ReliabilityBins, number: int, rows: int, columns: int) -> None:
    fig = reliability_figure({f"w{i}a8": bins for i in range(number)})
    boxes = [axes.get_window_extent() for axes in fig.axes[1::2]]
    assert len({round(box.y0) for box in boxes}) == rows
    assert len({round(box.x0) for box in boxes}) == columns
    assert all(box.width == pytest.approx(box.height) for box in boxes)
    below = [axes.get_window_extent() for axes in fig.axes[::2]]
    assert all(a.x0 == pytest.approx(b.x0) and a.x1 == pytest.approx(b.x1) for a, b in zip(boxes, below, strict=True))


@pytest.mark.parametrize("number", [1, 2, 4, 6])
def test_all_text_is_large_enough_inside_and_apart(bins: ReliabilityBins, number: int) -> None:
    labels = ["float", *(f"w{8 - i}a8-mse-full-out" for i in range(number - 1))]
    fig = reliability_figure(dict.fromkeys(labels, bins))
    assert smallest(fig) >= 8
    assert cut_off(fig) == []
    assert overlapping(fig) == []


@pytest.mark.parametrize("correct", [True, False])
def test_one_sure_prediction_is_drawn(correct: bool) -> None:
    bins = reliability_bins(torch.tensor([1.0]), torch.tensor([correct]))
    reliability_figure({"float": bins}).draw_without_rendering()


def test_the_legend_stands_where_the_gaps_are_not() -> None:
    figures = [Figure(), Figure()]
    for fig, correct in zip(figures, (False, True), strict=True):
        bins = reliability_bins(torch.tensor([0.3, 0.5]), torch.tensor([correct, correct]))
        reliability_diagram(bins, ax=fig.add_subplot())
        fig.draw_without_rendering()
    over, under = (fig.axes[0].get_legend() for fig in figures)
    assert over is not None
    assert under is not None
    assert over.get_window_extent().y0 > under.get_window_extent().y1


def test_no_predictions_are_refused() -> None:
    nothing = torch.full((2,), torch.nan, dtype=torch.float64)
    empty = ReliabilityBins(torch.tensor([0, 0.5, 1]).double(), torch.zeros(2, dtype=torch.int64), nothing, nothing)
    for draw in (reliability_diagram, confidence_histogram):
        with pytest.raises(ValueError, match=r"at least one prediction, got bins whose counts are all 0\. Leave out"):
            draw(empty, ax=Figure().add_subplot())
    with pytest.raises(ValueError, match=r"at least one prediction"):
        reliability_figure({"float": empty})


def test_nothing_to_draw_is_refused(bins: ReliabilityBins) -> None:
    with pytest.raises(ValueError, match=r"at least one label .* got 0 and 4\. Pass \{'float'"):
        reliability_figure({})
    with pytest.raises(ValueError, match=r"`max_columns` be at least 1, got 1 and 0\."):
        reliability_figure({"float": bins}, max_columns=0)
