import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.swaps import lowest_argmax, swap_counts, top_is_tied


def test_each_kind_of_swap_is_counted_once() -> None:
    target = torch.tensor([0, 0, 0, 0, 0])
    before = torch.tensor([0, 0, 1, 1, 1])
    after = torch.tensor([0, 1, 0, 2, 1])
    counts = swap_counts(before, after, target)
    assert (counts.num_images, counts.swapped, counts.harmful, counts.beneficial, counts.neutral) == (5, 3, 1, 1, 1)
    assert counts.swap_rate == 0.6
    assert counts.error_change == 0.0
    assert counts.damage_per_swap == 0.0


def test_damage_per_swap_is_undefined_without_swaps() -> None:
    prediction = torch.tensor([0, 1])
    assert swap_counts(prediction, prediction, torch.tensor([0, 0])).damage_per_swap is None


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=50))
def test_error_change_is_harmful_minus_beneficial_and_the_difference_of_errors(
    rows: list[tuple[int, int, int]],
) -> None:
    before, after, target = (torch.tensor(column) for column in zip(*rows, strict=True))
    counts = swap_counts(before, after, target)
    errors = (after != target).double().mean() - (before != target).double().mean()
    assert counts.error_change == pytest.approx(errors.item(), abs=1e-12)
    assert counts.swapped == counts.harmful + counts.beneficial + counts.neutral


@pytest.mark.parametrize(
    ("before", "target"),
    [
        (torch.zeros(2).long(), torch.zeros(3).long()),
        (torch.zeros(0).long(), torch.zeros(0).long()),
        (torch.zeros(2, 2).long(), torch.zeros(2, 2).long()),
    ],
)
def test_predictions_of_other_shapes_are_refused(before: Tensor, target: Tensor) -> None:
    with pytest.raises(ValueError, match="one length > 0, got"):
        swap_counts(before, before, target)


def test_of_tied_classes_the_lowest_is_predicted_and_the_tie_is_seen() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [3.0, 3.0, 3.0], [0.0, 1.0, 2.0]])
    assert lowest_argmax(logits).tolist() == [1, 0, 2]
    assert top_is_tied(logits).tolist() == [True, True, False]


def test_without_ties_the_prediction_is_torch_argmax() -> None:
    logits = torch.randn(200, 17, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lowest_argmax(logits), logits.argmax(dim=1))


def test_logits_of_one_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N, C\), got \(3,\)"):
        lowest_argmax(torch.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(N, C\), got \(3,\)"):
        top_is_tied(torch.zeros(3))
