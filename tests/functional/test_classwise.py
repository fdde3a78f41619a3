import pytest
import torch

from qcal.functional.calibration import ece
from qcal.functional.classwise import class_bin_sums, classwise_ece, classwise_ece_from_sums
from tests.functional.score_cases import random_logits


def test_it_is_the_mean_of_the_ece_of_each_class_against_the_rest() -> None:
    logits, target = random_logits()
    probs = torch.softmax(logits, dim=1)
    each = [ece(probs[:, k], target == k) for k in range(probs.shape[1])]
    torch.testing.assert_close(classwise_ece(probs, target), torch.stack(each).mean(), rtol=0, atol=1e-12)


def test_certain_and_right_is_zero_certain_and_wrong_is_two_over_the_classes() -> None:
    probs = torch.eye(4)
    assert classwise_ece(probs, torch.arange(4)).item() == 0.0
    assert classwise_ece(probs[:1], torch.tensor([1])).item() == 2 / 4


def test_the_base_rate_for_everyone_has_no_error() -> None:
    target = torch.tensor([0, 0, 1, 2])
    probs = torch.tensor([[0.5, 0.25, 0.25]]).expand(4, 3)
    assert classwise_ece(probs, target).item() == pytest.approx(0.0, abs=1e-15)


def test_sums_of_two_halves_give_the_whole() -> None:
    logits, target = random_logits(101)
    probs = torch.softmax(logits, dim=1)
    halves = [class_bin_sums(probs[part], target[part], num_bins=15) for part in (slice(40), slice(40, None))]
    joined = type(halves[0])(
        count=halves[0].count + halves[1].count,
        confidence=halves[0].confidence + halves[1].confidence,
        correct=halves[0].correct + halves[1].correct,
    )
    torch.testing.assert_close(classwise_ece_from_sums(joined), classwise_ece(probs, target), rtol=0, atol=1e-12)


def test_bad_input_is_refused() -> None:
    probs = torch.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 1\].*got 1 of 2 outside"):
        classwise_ece(probs, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"2 that do not sum to 1, of 2"):
        classwise_ece(2 * probs, torch.tensor([0, 1]))
    with pytest.raises(TypeError, match=r"`target` must hold int64 class indices, got torch.float32"):
        classwise_ece(probs, torch.zeros(2))
    with pytest.raises(ValueError, match=r"`num_bins` must be at least 1"):
        classwise_ece(probs, torch.tensor([0, 1]), num_bins=0)
