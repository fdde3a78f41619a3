import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.calibration import rms_calibration_error
from qcal.functional.equal_count import adaptive_ece, debiased_l2, equal_count_bins
from tests.functional.score_cases import calibrated, top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)


def test_counts_differ_by_at_most_one_without_ties_longer_runs_first() -> None:
    confidence = torch.rand(17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert equal_count_bins(confidence, confidence > 0.5, num_bins=5).count.tolist() == [4, 4, 3, 3, 3]


def test_edges_lie_half_way_between_the_runs() -> None:
    bins = equal_count_bins(torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([True] * 4), num_bins=2)
    assert bins.edges.tolist() == [0.0, 0.625, 1.0]


def test_equal_confidences_stay_in_one_bin() -> None:
    bins = equal_count_bins(torch.tensor([0.5] * 9 + [1.0]), torch.tensor([True] * 10), num_bins=5)
    assert bins.count.tolist() == [9, 0, 0, 0, 1]
    assert bins.share.sum().item() == 1.0


def test_fewer_samples_than_bins_give_one_bin_a_sample() -> None:
    assert equal_count_bins(torch.tensor([0.2, 0.4, 0.9]), torch.tensor([True] * 3), num_bins=15).count.tolist() == [
        1,
        1,
        1,
    ]


def test_adaptive_ece_of_two_bins_worked_by_hand() -> None:
    # Lower half: mean 0.5, one right of two; upper half: mean 0.875, none right.
    confidence = torch.tensor([0.375, 0.625, 0.75, 1.0])
    correct = torch.tensor([True, False, False, False])
    assert adaptive_ece(confidence, correct, num_bins=2).item() == 0.4375


def test_debiased_l2_worked_by_hand() -> None:
    # One bin: gap 1 - 3/4, expected noise 3/4 * 1/4 / 3.
    value = debiased_l2(torch.ones(4), torch.tensor([True, True, True, False]), num_bins=1).item()
    assert value == pytest.approx(math.sqrt(max(0.0, 1 / 16 - 1 / 16)))
    value = debiased_l2(torch.ones(4), torch.tensor([True, False, False, False]), num_bins=1).item()
    assert value == pytest.approx(math.sqrt(9 / 16 - 1 / 16))


@quick
@given(top_label(), st.integers(1, 20), st.randoms(use_true_random=False))
def test_order_does_not_matter(case: tuple[Tensor, Tensor], num_bins: int, random: Random) -> None:
    confidence, correct = case
    order = list(range(len(confidence)))
    random.shuffle(order)
    value = adaptive_ece(confidence, correct, num_bins=num_bins)
    shuffled = adaptive_ece(confidence[order], correct[order], num_bins=num_bins)
    torch.testing.assert_close(shuffled, value, rtol=0, atol=1e-12)
    assert 0 <= value <= 1


@quick
@given(top_label())
def test_adaptive_ece_is_at_least_the_size_of_overconfidence(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    signed = confidence.double().mean() - correct.double().mean()
    assert adaptive_ece(confidence, correct) >= signed.abs() - 1e-12


def test_debiased_error_of_calibrated_predictions_is_near_zero_where_the_plain_one_is_not() -> None:
    squared, plain = [], []
    for seed in range(40):
        confidence, correct = calibrated(1500, seed)
        squared.append(debiased_l2(confidence, correct).item() ** 2)
        plain.append(rms_calibration_error(confidence, correct).item() ** 2)
    # Plain: B / N * mean p (1 - p) = 15 / 1500 / 6. Debiased: 0 on average, and clipping at 0 keeps about a sixth.
    assert sum(plain) / 40 == pytest.approx(0.01 / 6, rel=0.2)
    assert sum(squared) / 40 < 0.3 * sum(plain) / 40


def test_debiased_error_recovers_a_shift() -> None:
    confidence, correct = calibrated(20_000)
    inside = confidence <= 0.9
    assert debiased_l2(confidence[inside] + 0.1, correct[inside]).item() == pytest.approx(0.1, abs=0.01)


def test_float32_and_float64_agree() -> None:
    confidence, correct = calibrated(2000)
    confidence = confidence.float()
    for score in (adaptive_ece, debiased_l2):
        torch.testing.assert_close(score(confidence, correct), score(confidence.double(), correct), rtol=0, atol=1e-6)


def test_a_bin_with_one_sample_has_no_variance() -> None:
    with pytest.raises(
        ValueError, match=r"two samples or more in each bin, got 2 bins with one \(2 samples, num_bins=15\)"
    ):
        debiased_l2(torch.tensor([0.1, 0.9]), torch.tensor([True, False]))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_bins` must be at least 1, got -1"):
        adaptive_ece(torch.tensor([0.5]), torch.tensor([True]), num_bins=-1)
    with pytest.raises(ValueError, match=r"got 1 of 1 values outside or NaN"):
        adaptive_ece(torch.tensor([1.5]), torch.tensor([True]))
