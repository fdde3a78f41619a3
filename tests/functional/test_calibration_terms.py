import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.calibration import ece
from qcal.functional.calibration_terms import error_from_sums, residuals_by_bin, residuals_by_kernel
from qcal.functional.smooth_calibration import smooth_ece, smooth_ece_at_bandwidth, smooth_ece_bandwidth
from tests.functional.score_cases import calibrated, top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)


@quick
@given(top_label(), st.integers(1, 20))
def test_residuals_by_bin_add_up_to_the_ece(case: tuple[Tensor, Tensor], num_bins: int) -> None:
    terms = residuals_by_bin(*case, num_bins=num_bins)
    error = error_from_sums(terms.sum(dim=0), len(terms))
    assert error.item() == pytest.approx(ece(*case, num_bins=num_bins).item(), abs=1e-12)


@quick
@given(top_label(), st.lists(st.integers(0, 39), min_size=1, max_size=40))
def test_the_ece_of_repeated_images_follows_from_counts(case: tuple[Tensor, Tensor], drawn: list[int]) -> None:
    confidence, correct = case
    rows = torch.tensor([i % len(confidence) for i in drawn])
    counts = torch.bincount(rows, minlength=len(confidence)).double()
    sums = counts @ residuals_by_bin(confidence, correct)
    expected = ece(confidence[rows], correct[rows])
    assert error_from_sums(sums, len(rows)).item() == pytest.approx(expected.item(), abs=1e-12)


@quick
@given(top_label(), st.floats(1e-4, 1))
def test_a_kernel_shares_each_residual_out_and_invents_none(case: tuple[Tensor, Tensor], bandwidth: float) -> None:
    confidence, correct = case
    terms = residuals_by_kernel(confidence, correct, bandwidth=bandwidth)
    torch.testing.assert_close(terms.sum(dim=1), confidence.double() - correct.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bandwidth", [0.01, 0.03, 0.1, 0.5, 1.0])
def test_residuals_by_kernel_add_up_to_the_smooth_error(bandwidth: float) -> None:
    confidence, correct = calibrated(2000)
    confidence = confidence.sqrt()  # overconfident
    terms = residuals_by_kernel(confidence, correct, bandwidth=bandwidth)
    expected = smooth_ece_at_bandwidth(confidence, correct, bandwidth=bandwidth).item()
    assert error_from_sums(terms.sum(dim=0), 2000).item() == pytest.approx(expected, abs=2e-4)


def test_at_its_own_bandwidth_it_is_the_smooth_ece() -> None:
    confidence, correct = calibrated(2000)
    bandwidth = smooth_ece_bandwidth(confidence, correct)
    terms = residuals_by_kernel(confidence, correct, bandwidth=bandwidth)
    expected = smooth_ece(confidence, correct).item()
    assert error_from_sums(terms.sum(dim=0), 2000).item() == pytest.approx(expected, rel=0.01)


def test_the_number_of_points_is_bounded() -> None:
    confidence, correct = calibrated(10)
    assert residuals_by_kernel(confidence, correct, bandwidth=1e-9).shape == (10, 512)
    assert residuals_by_kernel(confidence, correct, bandwidth=1.0).shape == (10, 32)


@pytest.mark.parametrize("bandwidth", [0.0, -0.1, 1.1, float("nan")])
def test_a_bandwidth_outside_its_range_is_refused(bandwidth: float) -> None:
    with pytest.raises(ValueError, match=r"`bandwidth` must be in \(0, 1\], got .* axis of confidence"):
        residuals_by_kernel(torch.tensor([0.5]), torch.tensor([True]), bandwidth=bandwidth)
