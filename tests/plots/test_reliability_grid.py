import pytest
import torch

from qcal.functional.calibration import ReliabilityBins, reliability_bins
from qcal.plots import reliability_grid_figure
from tests.plots.texts import cut_off, overlapping, smallest

LABELS = ["float", "w8a8", "w4a8"]


def bins(shift: float = 0.0) -> ReliabilityBins:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(300, generator=generator)
    return reliability_bins(confidence, torch.rand(300, generator=generator) < confidence - shift)


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, ReliabilityBins]]:
    return {
        "as quantized": {label: bins(0.2) for label in LABELS},
        "refitted temperature": {label: bins() for label in LABELS},
    }


def test_there_is_a_row_a_repair_and_a_column_a_network_of_equal_squares(
    rows: dict[str, dict[str, ReliabilityBins]],
) -> None:
    fig = reliability_grid_figure(rows)
    diagrams = fig.axes[1::2]
    boxes = [axes.get_window_extent() for axes in diagrams]
    assert len({round(box.y0) for box in boxes}) == 2
    assert len({round(box.x0) for box in boxes}) == 3
    assert all(box.width == pytest.approx(box.height) for box in boxes)
    assert [axes.get_title(loc="left") for axes in diagrams] == LABELS * 2
    assert [text.get_text() for text in fig.texts] == list(rows)


def test_all_have_the_same_limits_and_their_own_scores(rows: dict[str, dict[str, ReliabilityBins]]) -> None:
    fig = reliability_grid_figure(rows)
    assert {(axes.get_xlim(), axes.get_ylim()) for axes in fig.axes[1::2]} == {((0, 1), (0, 1))}
    assert len({axes.get_ylim() for axes in fig.axes[::2]}) == 1
    first, last = fig.axes[1].texts[0].get_text(), fig.axes[-1].texts[0].get_text()
    part = rows["as quantized"]["float"]
    assert first.startswith(f"ECE {100 * float((part.gap.abs() * part.share).sum()):.1f} %, overconfidence +")
    assert first != last


def test_columns_follow_the_first_row_whatever_the_order_of_the_others() -> None:
    fig = reliability_grid_figure(
        {"one": {"float": bins(), "w4a8": bins()}, "two": {"w4a8": bins(0.1), "float": bins()}}
    )
    assert [axes.get_title(loc="left") for axes in fig.axes[1::2]] == ["float", "w4a8"] * 2
    assert fig.axes[5].texts[0].get_text() == fig.axes[1].texts[0].get_text()


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_all_text_is_large_enough_inside_and_apart(columns: int) -> None:
    labels = ["float", "w8a8", "w6a8", "w4a8"][:columns]
    fig = reliability_grid_figure(
        {"as quantized": {label: bins(0.2) for label in labels}, "repaired": dict.fromkeys(labels, bins())}
    )
    assert smallest(fig) >= 8
    assert cut_off(fig) == []
    assert overlapping(fig) == []


def test_what_cannot_be_drawn_is_refused() -> None:
    empty = reliability_bins(torch.tensor([0.5]), torch.tensor([True]))
    empty = ReliabilityBins(empty.edges, empty.count * 0, empty.confidence, empty.accuracy)
    with pytest.raises(ValueError, match=r"`rows` must hold at least one row, and all the same labels, got \[\]"):
        reliability_grid_figure({})
    with pytest.raises(ValueError, match="all the same labels"):
        reliability_grid_figure({"one": {"float": bins()}, "two": {"w4a8": bins()}})
    with pytest.raises(ValueError, match="at least one prediction, got none for 'w4a8'"):
        reliability_grid_figure({"one": {"float": bins(), "w4a8": empty}})
