from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.ks_error import ks_calibration_error
from tests.functional.score_cases import calibrated, top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)


def test_the_largest_partial_sum_worked_by_hand() -> None:
    # Residuals by confidence: +0.25 (wrong), -0.5 (right), +1 (wrong): partial sums 0.25, -0.25, 0.75 of three.
    confidence = torch.tensor([1.0, 0.25, 0.5])
    correct = torch.tensor([False, False, True])
    assert ks_calibration_error(confidence, correct).item() == 0.25


def test_equal_confidences_enter_together() -> None:
    # One by one, the partial sums would reach 0.5 / 2 before they cancel.
    assert ks_calibration_error(torch.tensor([0.5, 0.5]), torch.tensor([True, False])).item() == 0.0


@quick
@given(top_label(), st.randoms(use_true_random=False))
def test_it_ignores_order_and_is_at_least_the_size_of_overconfidence(
    case: tuple[Tensor, Tensor], random: Random
) -> None:
    confidence, correct = case
    order = list(range(len(confidence)))
    random.shuffle(order)
    value = ks_calibration_error(confidence, correct)
    torch.testing.assert_close(ks_calibration_error(confidence[order], correct[order]), value, rtol=0, atol=1e-12)
    signed = confidence.double().mean() - correct.double().mean()
    assert signed.abs() - 1e-12 <= value <= 1


def test_calibrated_predictions_shrink_with_the_root_of_their_number() -> None:
    few = sum(ks_calibration_error(*calibrated(400, seed)).item() for seed in range(30)) / 30
    many = sum(ks_calibration_error(*calibrated(40_000, seed)).item() for seed in range(30)) / 30
    assert few / many == pytest.approx(10, rel=0.35)


def test_float32_and_float64_agree() -> None:
    confidence, correct = calibrated(2000)
    confidence = confidence.float()
    torch.testing.assert_close(
        ks_calibration_error(confidence, correct), ks_calibration_error(confidence.double(), correct), rtol=0, atol=1e-6
    )


def test_bad_input_is_refused() -> None:
    with pytest.raises(TypeError, match=r"`correct` must be a bool tensor, got torch.float32"):
        ks_calibration_error(torch.tensor([0.5]), torch.tensor([1.0]))
