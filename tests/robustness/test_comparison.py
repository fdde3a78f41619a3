import math

import pytest
import torch
from torch import Tensor

from qcal.robustness import compare, score


def _logits(*probabilities: tuple[float, float]) -> Tensor:
    return torch.tensor(probabilities).log()


def test_scores_are_the_closed_form_of_four_predictions() -> None:
    logits = _logits((0.9, 0.1), (0.9, 0.1), (0.4, 0.6), (0.4, 0.6))
    scores = score(logits, torch.tensor([0, 1, 1, 1]))
    assert scores.accuracy == 0.75
    assert scores.mean_confidence == pytest.approx(0.75)
    assert scores.overconfidence == pytest.approx(0.0, abs=1e-7)
    # Two bins of two: |0.5 - 0.9| and |1 - 0.6|, each with weight one half.
    assert scores.ece == pytest.approx(0.4)
    assert scores.nll == pytest.approx(-(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 4)


def test_swaps_and_their_float_confidence() -> None:
    before = _logits((0.9, 0.1), (0.6, 0.4), (0.3, 0.7), (0.2, 0.8))
    after = _logits((0.8, 0.2), (0.4, 0.6), (0.6, 0.4), (0.2, 0.8))
    result = compare(before, after, torch.tensor([0, 0, 0, 0]))
    assert (result.num_images, result.swap_rate) == (4, 0.5)
    assert (result.harmful, result.beneficial, result.neutral) == (0.25, 0.25, 0.0)
    assert result.error_change == 0.0
    assert result.damage_per_swap == 0.0
    assert result.float_confidence_of_swapped == pytest.approx((0.6 + 0.7) / 2)
    assert result.float_confidence_of_unswapped == pytest.approx((0.9 + 0.8) / 2)


def test_a_copy_swaps_nothing_and_damage_is_undefined() -> None:
    logits = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    result = compare(logits, logits.clone(), torch.arange(50) % 5)
    assert (result.swap_rate, result.error_change, result.ties) == (0.0, 0.0, 0.0)
    assert result.damage_per_swap is None
    assert result.float_confidence_of_swapped is None


def test_a_swap_made_by_the_order_of_tied_classes_is_counted_as_such() -> None:
    before = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0], [1.0, 0.0, 0.0]])
    after = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    result = compare(before, after, torch.tensor([2, 1, 0]))
    assert result.swap_rate == pytest.approx(2 / 3)
    assert result.ties == pytest.approx(2 / 3)
    # The first still has the float class among its top ones; the second's float class is not.
    assert result.swaps_by_tie == pytest.approx(1 / 3)


def test_all_swapped_leaves_the_unswapped_confidence_undefined() -> None:
    result = compare(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert result.swap_rate == 1.0
    assert result.float_confidence_of_unswapped is None


@pytest.mark.parametrize(
    ("before", "after", "target", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2).long(), "must have one shape, got"),
        (torch.zeros(2), torch.zeros(2), torch.zeros(2).long(), r"`float_logits` must have shape \(N, C\)"),
        (torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0).long(), "N > 0"),
        (
            torch.zeros(2, 3),
            torch.full((2, 3), torch.nan),
            torch.zeros(2).long(),
            "`quant_logits` must be finite, got NaN or infinity in 2 of 2 rows",
        ),
        (
            torch.zeros(2, 3),
            torch.zeros(2, 3),
            torch.tensor([0, 3]),
            r"`target` must lie in \[0, 2\], got values in \[0, 3\]",
        ),
    ],
)
def test_input_that_cannot_be_compared_is_refused(before: Tensor, after: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(before, after, target)


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.arange(100) % 10
    assert score(logits, target) == score(logits.float(), target)
