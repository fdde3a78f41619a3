import itertools
import math
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.smooth_calibration import smooth_ece, smooth_ece_at_bandwidth, smooth_ece_bandwidth
from tests.functional.score_cases import calibrated, top_label

quick = settings(deadline=None, max_examples=25, derandomize=True)
BANDWIDTHS = [1e-7, 1e-4, 2.4e-4, 2.5e-4, 0.003, 0.05, 0.3, 1.0]


def _by_cosine_series(confidence: Tensor, correct: Tensor, bandwidth: float) -> float:
    """The same integral from the heat kernel's eigenfunctions on [0, 1] with reflecting ends, `cos(k pi t)`."""
    residual = (confidence.double() - correct.double()) / len(confidence)
    order = torch.arange(1, math.ceil(9 / (math.pi * bandwidth)) + 1, dtype=torch.float64)
    weight = torch.exp(-((order * math.pi * bandwidth) ** 2) / 2)
    coefficient = (residual * torch.cos(math.pi * order[:, None] * confidence.double())).sum(dim=1)
    place = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    density = residual.sum() + 2 * ((weight * coefficient) @ torch.cos(math.pi * order[:, None] * place))
    return float(density.abs().mean())


@pytest.mark.parametrize("bandwidth", [0.02, 0.1, 0.5])
def test_it_is_the_integral_over_the_reflected_gaussian(bandwidth: float) -> None:
    confidence, correct = calibrated(200)
    value = smooth_ece_at_bandwidth(confidence, correct, bandwidth=bandwidth).item()
    assert value == pytest.approx(_by_cosine_series(confidence, correct, bandwidth), abs=1e-7)


@pytest.mark.parametrize("bandwidth", BANDWIDTHS)
@pytest.mark.parametrize("edge", [0.0, 1.0, 0.98])
def test_residuals_of_one_sign_give_the_size_of_overconfidence_at_every_bandwidth(
    bandwidth: float, edge: float
) -> None:
    confidence = torch.cat([torch.rand(50, generator=torch.Generator().manual_seed(0)), torch.full((50,), edge)])
    wrong, right = torch.zeros(100, dtype=torch.bool), torch.ones(100, dtype=torch.bool)
    over = smooth_ece_at_bandwidth(confidence, wrong, bandwidth=bandwidth).item()
    under = smooth_ece_at_bandwidth(confidence, right, bandwidth=bandwidth).item()
    assert over == pytest.approx(confidence.double().mean().item(), abs=1e-12)
    assert under == pytest.approx(1 - confidence.double().mean().item(), abs=1e-12)


def test_two_opposite_residuals_far_apart_are_both_counted_by_a_narrow_kernel() -> None:
    confidence, correct = torch.tensor([0.25, 0.75]), torch.tensor([True, False])
    assert smooth_ece_at_bandwidth(confidence, correct, bandwidth=0.01).item() == pytest.approx(0.75, abs=1e-6)


def test_a_wide_kernel_leaves_only_the_first_harmonic() -> None:
    # The k = 1 term: 2 exp(-pi^2 / 2) * c_1 * cos(pi t), and the mean of |cos| is 2 / pi.
    first = 0.375 * (math.cos(math.pi / 4) - math.cos(3 * math.pi / 4))
    expected = 2 * math.exp(-(math.pi**2) / 2) * first * 2 / math.pi
    value = smooth_ece_at_bandwidth(torch.tensor([0.25, 0.75]), torch.tensor([True, False]), bandwidth=1.0).item()
    assert value == pytest.approx(expected, rel=1e-6)


@quick
@given(top_label())
def test_the_bandwidth_chosen_is_the_error_it_gives(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    bandwidth = smooth_ece_bandwidth(confidence, correct)
    value = smooth_ece(confidence, correct).item()
    assert 0 <= value <= 1
    # At the fixed point the two agree; without any error the bandwidth ends at its smallest.
    assert value == pytest.approx(bandwidth, abs=1e-9)


@quick
@given(top_label(), st.randoms(use_true_random=False))
def test_it_ignores_order_and_is_at_least_the_size_of_overconfidence(
    case: tuple[Tensor, Tensor], random: Random
) -> None:
    confidence, correct = case
    order = list(range(len(confidence)))
    random.shuffle(order)
    value = smooth_ece(confidence, correct)
    torch.testing.assert_close(smooth_ece(confidence[order], correct[order]), value, rtol=0, atol=1e-9)
    signed = confidence.double().mean() - correct.double().mean()
    assert value >= signed.abs() - 1e-12


@quick
@given(top_label())
def test_it_falls_as_the_bandwidth_grows(case: tuple[Tensor, Tensor]) -> None:
    values = [smooth_ece_at_bandwidth(*case, bandwidth=width).item() for width in BANDWIDTHS]
    assert all(low <= high + 1e-9 for high, low in itertools.pairwise(values))


def test_calibrated_predictions_are_near_zero_and_a_shift_is_recovered() -> None:
    confidence, correct = calibrated(20_000)
    assert smooth_ece(confidence, correct).item() < 0.015
    inside = confidence <= 0.9
    assert smooth_ece(confidence[inside] + 0.1, correct[inside]).item() == pytest.approx(0.1, abs=0.01)


def test_float32_and_float64_agree() -> None:
    confidence, correct = calibrated(500)
    confidence = confidence.float()
    torch.testing.assert_close(
        smooth_ece(confidence, correct), smooth_ece(confidence.double(), correct), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("bandwidth", [0.0, -0.1, 1.5, float("nan")])
def test_a_bandwidth_out_of_range_is_refused(bandwidth: float) -> None:
    with pytest.raises(ValueError, match=r"`bandwidth` must be in \(0, 1\], got .* width on the axis of confidence"):
        smooth_ece_at_bandwidth(torch.tensor([0.5]), torch.tensor([True]), bandwidth=bandwidth)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 1 of 1 values outside or NaN"):
        smooth_ece(torch.tensor([float("nan")]), torch.tensor([True]))
