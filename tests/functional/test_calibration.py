import math
from random import Random
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.calibration import (
    Convention,
    Norm,
    bin_index,
    bin_sums,
    calibration_error,
    ece,
    mce,
    over_ece,
    reliability_bins,
    rms_calibration_error,
    under_ece,
)
from tests.functional.score_cases import calibrated, top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)
CONVENTIONS = get_args(Convention)


def test_scores_of_three_bins_worked_by_hand() -> None:
    # Bins of 1/5: (0.2, 0.4] holds 0.25 and 0.25 with one right (gap 0.25), (0.8, 1] holds 1 wrong and 1 right (0.5).
    confidence = torch.tensor([0.25, 0.25, 1.0, 1.0])
    correct = torch.tensor([True, False, False, True])
    assert ece(confidence, correct, num_bins=5).item() == 0.375
    assert mce(confidence, correct, num_bins=5).item() == 0.5
    assert rms_calibration_error(confidence, correct, num_bins=5).item() == math.sqrt(0.5 * 0.25**2 + 0.5 * 0.5**2)
    assert over_ece(confidence, correct, num_bins=5).item() == 0.25
    assert under_ece(confidence, correct, num_bins=5).item() == 0.125


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0), (0.25, 0), (0.5, 1), (0.75, 2), (1.0, 3)])
def test_a_bin_is_open_below_and_closed_above(value: float, expected: int) -> None:
    counts = reliability_bins(torch.tensor([value]), torch.tensor([True]), num_bins=4).count
    assert counts.argmax().item() == expected
    assert counts.sum().item() == 1


@pytest.mark.parametrize("num_bins", [1, 2, 3, 7, 10, 15, 97, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bins_are_found_by_comparison_with_float64_edges(num_bins: int, dtype: torch.dtype) -> None:
    exact = torch.arange(num_bins + 1, dtype=torch.float64) / num_bins
    near = exact.to(dtype)
    above = torch.nextafter(near, torch.ones_like(near))
    below = torch.nextafter(near, torch.zeros_like(near))
    values = torch.cat([near, above, below, torch.rand(1000, dtype=dtype)])
    compared = (values.double()[:, None] > exact[None, 1:-1]).sum(dim=1)
    assert torch.equal(bin_index(values, num_bins), compared)


def test_float32_one_fifth_lies_above_the_edge_it_rounds() -> None:
    assert torch.tensor(0.2).double().item() > 0.2
    assert bin_index(torch.tensor([0.2]), 15).item() == 3
    assert bin_index(torch.tensor([0.2], dtype=torch.float64), 15).item() == 2


def test_empty_bins_are_nan_in_the_diagram_and_nothing_in_the_score() -> None:
    bins = reliability_bins(torch.tensor([0.9]), torch.tensor([True]), num_bins=2)
    assert bins.confidence[0].isnan()
    assert bins.accuracy[0].isnan()
    assert bins.gap.tolist() == pytest.approx([0.0, -0.1])
    assert bins.share.tolist() == [0.0, 1.0]
    assert bins.edges.tolist() == [0.0, 0.5, 1.0]


def test_conventions_differ_where_they_say_they_do() -> None:
    confidence, correct = torch.tensor([0.5, 1.0]), torch.tensor([True, True])
    counts = {name: reliability_bins(confidence, correct, num_bins=2, convention=name).count for name in CONVENTIONS}
    assert counts["qcal"].tolist() == [1, 1]
    assert counts["netcal"].tolist() == [0, 2]
    assert counts["torchmetrics"].tolist() == [0, 1, 1]


@quick
@given(top_label(), st.sampled_from(CONVENTIONS), st.integers(1, 30))
def test_scores_are_ordered_and_in_range(case: tuple[Tensor, Tensor], convention: Convention, num_bins: int) -> None:
    bins = reliability_bins(*case, num_bins=num_bins, convention=convention)
    first, second, largest = (calibration_error(bins, norm=norm).item() for norm in ("l1", "l2", "max"))
    assert 0 <= first <= second + 1e-12 <= largest + 2e-12 <= 1 + 3e-12
    assert bins.count.sum().item() == len(case[0])
    assert len(bins.edges) == len(bins.count) + 1


@quick
@given(top_label(), st.randoms(use_true_random=False))
def test_order_does_not_matter(case: tuple[Tensor, Tensor], random: Random) -> None:
    confidence, correct = case
    order = list(range(len(confidence)))
    random.shuffle(order)
    for score in (ece, mce, rms_calibration_error, over_ece, under_ece):
        torch.testing.assert_close(
            score(confidence[order], correct[order]), score(confidence, correct), rtol=0, atol=1e-12
        )


@quick
@given(top_label())
def test_one_sided_parts_add_up_to_ece_and_their_difference_is_overconfidence(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    over, under = over_ece(confidence, correct), under_ece(confidence, correct)
    torch.testing.assert_close(over + under, ece(confidence, correct), rtol=0, atol=1e-12)
    signed = confidence.double().mean() - correct.double().mean()
    torch.testing.assert_close(over - under, signed, rtol=0, atol=1e-12)


@quick
@given(top_label())
def test_ece_with_one_bin_is_the_size_of_overconfidence(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    signed = confidence.double().mean() - correct.double().mean()
    torch.testing.assert_close(ece(confidence, correct, num_bins=1), signed.abs(), rtol=0, atol=1e-12)


@quick
@given(top_label())
def test_giving_each_bin_its_accuracy_as_confidence_leaves_no_error(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    repaired = reliability_bins(confidence, correct).accuracy[bin_index(confidence, 15)]
    assert mce(repaired, correct).item() < 1e-12


def test_calibrated_predictions_score_their_sampling_bias() -> None:
    # A bin's accuracy is off by about sqrt(p (1 - p) / n_b); E|normal| = sqrt(2 / pi) of that, averaged over p.
    num_samples, num_bins = 30_000, 15
    expected = math.sqrt(2 / math.pi) * (math.pi / 8) * math.sqrt(num_bins / num_samples)
    scores = [ece(*calibrated(num_samples, seed), num_bins=num_bins).item() for seed in range(20)]
    assert sum(scores) / len(scores) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("shift", [0.05, 0.2])
def test_a_shift_of_calibrated_confidence_is_recovered(shift: float) -> None:
    confidence, correct = calibrated(50_000)
    inside = confidence <= 1 - shift
    shifted = confidence[inside] + shift
    assert ece(shifted, correct[inside]).item() == pytest.approx(shift, abs=0.01)
    assert over_ece(shifted, correct[inside]).item() == pytest.approx(shift, abs=0.01)
    assert under_ece(shifted, correct[inside]).item() < 0.01


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_float32_and_float64_agree(convention: Convention) -> None:
    confidence, correct = calibrated(2000)
    confidence = confidence.float()
    torch.testing.assert_close(
        ece(confidence, correct, convention=convention),
        ece(confidence.double(), correct, convention=convention),
        rtol=0,
        atol=1e-6,
    )


def test_sums_of_two_halves_add_up_to_those_of_the_whole() -> None:
    confidence, correct = calibrated(101)
    whole = bin_sums(confidence, correct, num_bins=15)
    first, second = (bin_sums(confidence[part], correct[part], num_bins=15) for part in (slice(40), slice(40, None)))
    assert torch.equal(first.count + second.count, whole.count)
    assert torch.equal(first.correct + second.correct, whole.correct)
    torch.testing.assert_close(first.confidence + second.confidence, whole.confidence, rtol=0, atol=1e-12)


def test_arguments_out_of_range_are_refused() -> None:
    confidence, correct = torch.tensor([0.5]), torch.tensor([True])
    with pytest.raises(ValueError, match=r"`num_bins` must be at least 1, got 0. 15 is the usual choice"):
        ece(confidence, correct, num_bins=0)
    with pytest.raises(
        ValueError, match=r"`convention` must be one of \('qcal', 'torchmetrics', 'netcal'\), got 'mine'"
    ):
        ece(confidence, correct, convention="mine")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(ValueError, match=r"`norm` must be one of \('l1', 'max', 'l2'\), got 'l3'"):
        calibration_error(reliability_bins(confidence, correct), norm="l3")  # type: ignore[arg-type]  # as above
    assert set(get_args(Norm)) == {"l1", "max", "l2"}
    with pytest.raises(ValueError, match=r"got 1 of 1 values outside or NaN"):
        ece(torch.tensor([2.0]), correct)
