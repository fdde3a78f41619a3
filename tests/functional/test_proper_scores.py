import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.proper_scores import (
    brier_per_sample,
    brier_score,
    nll,
    nll_from_probs,
    nll_per_sample,
    top_label_brier,
)
from tests.functional.score_cases import random_logits


def test_nll_is_cross_entropy_in_float64() -> None:
    logits, target = random_logits()
    torch.testing.assert_close(nll(logits, target), F.cross_entropy(logits.double(), target), rtol=0, atol=1e-7)
    torch.testing.assert_close(
        nll(logits.double(), target), F.cross_entropy(logits.double(), target), rtol=0, atol=1e-14
    )


def test_uniform_logits_cost_the_log_of_the_classes() -> None:
    assert nll(torch.zeros(3, 7), torch.tensor([0, 3, 6])).item() == pytest.approx(math.log(7), abs=1e-7)


def test_nll_is_finite_and_exact_at_extreme_logits() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert nll(logits, torch.tensor([1])).item() == 2e4
    assert nll(logits, torch.tensor([0])).item() == 0.0


def test_nll_keeps_the_digits_that_a_float32_difference_of_logits_would_lose() -> None:
    logits, target = torch.tensor([[1e4, -0.1]]), torch.tensor([1])
    torch.testing.assert_close(nll(logits, target), nll(logits.double(), target), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_lifted(dtype: torch.dtype) -> None:
    logits, target = random_logits()
    assert torch.equal(nll(logits.to(dtype), target), nll(logits.to(dtype).float(), target))


def test_nll_agrees_between_logits_and_probabilities() -> None:
    logits, target = random_logits()
    probs = torch.softmax(logits.double(), dim=1)
    torch.testing.assert_close(nll_from_probs(probs, target), nll(logits.double(), target), rtol=1e-12, atol=0)


def test_a_target_of_probability_zero_costs_infinitely_much() -> None:
    assert nll_from_probs(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).item() == math.inf


def test_nll_per_sample_has_the_mean_nll() -> None:
    logits, target = random_logits()
    each = nll_per_sample(logits, target)
    assert each.dtype == torch.float64
    assert torch.equal(each.mean(), nll(logits, target))


def test_brier_score_worked_by_hand() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]])
    assert brier_per_sample(probs, torch.tensor([0, 1])).tolist() == [0.375, 2.0]
    assert brier_score(probs, torch.tensor([0, 1])).item() == 1.1875


def test_brier_score_is_its_expansion() -> None:
    logits, target = random_logits()
    probs = torch.softmax(logits.double(), dim=1)
    own = probs.gather(1, target[:, None]).squeeze(1)
    torch.testing.assert_close(brier_score(probs, target), (probs.square().sum(dim=1) - 2 * own + 1).mean())


def test_top_label_brier_of_certain_predictions_is_the_error() -> None:
    correct = torch.tensor([True, False, True, True])
    assert top_label_brier(torch.ones(4), correct).item() == 0.25


@pytest.mark.parametrize("score", [nll_from_probs, brier_score])
def test_proper_scores_are_best_at_the_true_probabilities(score: Callable[[Tensor, Tensor], Tensor]) -> None:
    truth = torch.tensor([0.6, 0.3, 0.1])
    target = torch.tensor([0] * 6 + [1] * 3 + [2])
    best = score(truth.expand(10, 3), target)
    for other in ([0.8, 0.15, 0.05], [0.5, 0.3, 0.2], [0.34, 0.33, 0.33]):
        assert score(torch.tensor(other).expand(10, 3), target) > best


def test_float32_and_float64_agree() -> None:
    logits, target = random_logits()
    probs = torch.softmax(logits, dim=1)
    torch.testing.assert_close(nll(logits, target), nll(logits.double(), target), rtol=0, atol=1e-6)
    torch.testing.assert_close(brier_score(probs, target), brier_score(probs.double(), target), rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_refused_with_their_number(bad: float) -> None:
    logits = torch.zeros(4, 3)
    logits[2] = bad
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 1 of 4 rows"):
        nll(logits, torch.zeros(4, dtype=torch.int64))


def test_targets_of_a_wrong_kind_are_refused() -> None:
    logits, probs = torch.zeros(3, 2), torch.full((3, 2), 0.5)
    with pytest.raises(
        ValueError, match=r"`target` must lie in \[0, 1\], the 2 classes of the scores, got 1 of 3 outside"
    ):
        nll(logits, torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match=r"got 3 of 3 outside \(for instance -1\)"):
        brier_score(probs, torch.full((3,), -1))
    with pytest.raises(ValueError, match=r"`target` must have shape \(3,\), one class index per sample, got \(2,\)"):
        nll(logits, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"`target` must hold int64 class indices, got torch.int32. Convert it with"):
        nll(logits, torch.zeros(3, dtype=torch.int32))


def test_probabilities_that_are_none_are_refused() -> None:
    for score in (nll_from_probs, brier_score):
        with pytest.raises(
            ValueError, match=r"1 rows with NaN, 0 with negative entries and 0 that do not sum to 1, of 1"
        ):
            score(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]))
