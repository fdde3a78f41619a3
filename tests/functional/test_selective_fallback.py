import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.selective_fallback import fallback_accuracy, fallback_threshold, smallest_fallback
from tests.functional.score_cases import top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)


@st.composite
def cascades(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    confidence, quant = draw(top_label())
    correct = draw(st.lists(st.booleans(), min_size=len(quant), max_size=len(quant)))
    return confidence, quant, torch.tensor(correct)


def test_the_curve_of_four_images_is_counted_by_hand() -> None:
    confidence = torch.tensor([0.9, 0.3, 0.5, 0.7])
    quant, full = torch.tensor([True, False, True, False]), torch.tensor([True, True, False, False])
    # Handed over first: the second image (gains), then the third (loses), then nothing changes.
    assert fallback_accuracy(confidence, quant, full).tolist() == [0.5, 0.75, 0.5, 0.5, 0.5]


@quick
@given(cascades())
def test_the_ends_are_the_two_networks(case: tuple[Tensor, Tensor, Tensor]) -> None:
    curve = fallback_accuracy(*case)
    assert curve.shape == (len(case[0]) + 1,)
    assert curve[0] == case[1].double().mean()
    assert curve[-1].item() == pytest.approx(case[2].double().mean().item(), abs=1e-15)


@quick
@given(cascades(), st.integers(0, 100))
def test_the_order_of_the_images_does_not_matter(case: tuple[Tensor, Tensor, Tensor], seed: int) -> None:
    order = torch.randperm(len(case[0]), generator=torch.Generator().manual_seed(seed))
    expected = fallback_accuracy(*case)
    assert torch.equal(fallback_accuracy(*(column[order] for column in case)), expected)


@quick
@given(cascades())
def test_between_equal_confidences_the_curve_is_the_mean_over_all_orders(case: tuple[Tensor, Tensor, Tensor]) -> None:
    _, quant, full = case
    curve = fallback_accuracy(torch.full((len(quant),), 0.5), quant, full)
    share = torch.linspace(0, 1, len(quant) + 1, dtype=torch.float64)
    torch.testing.assert_close(curve, quant.double().mean().lerp(full.double().mean(), share), rtol=0, atol=1e-14)


@quick
@given(cascades())
def test_a_threshold_hands_over_at_least_k_and_no_more_than_ties_demand(case: tuple[Tensor, Tensor, Tensor]) -> None:
    confidence = case[0]
    for k in range(len(confidence) + 1):
        threshold = fallback_threshold(confidence, k)
        assert int((confidence < threshold).sum()) <= k <= int((confidence <= threshold).sum())


@pytest.mark.parametrize(("tolerance", "k"), [(0.0, 3), (0.01, 2), (0.2, 1), (1.0, 0)])
def test_the_smallest_share_is_the_first_that_is_good_enough(tolerance: float, k: int) -> None:
    curve = torch.tensor([0.3, 0.5, 0.59, 0.6, 0.7, 0.6], dtype=torch.float64)
    assert smallest_fallback(curve, tolerance=tolerance) == k


def test_a_quantized_network_that_is_better_needs_no_fallback() -> None:
    assert smallest_fallback(torch.tensor([0.7, 0.6])) == 0
    assert fallback_threshold(torch.tensor([0.5]), 0) == -math.inf


@pytest.mark.parametrize("tolerance", [-0.1, 1.1, math.nan])
def test_a_tolerance_outside_its_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"`tolerance` must be in \[0, 1\], got .* Pass a share"):
        smallest_fallback(torch.tensor([0.5, 0.6]), tolerance=tolerance)


def test_what_is_no_curve_and_what_is_no_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`accuracy` must have shape \(N \+ 1,\), got \(1, 2\)"):
        smallest_fallback(torch.tensor([[0.5, 0.6]]))
    with pytest.raises(ValueError, match=r"`k` must be in \[0, 1\], the number of images, got 2"):
        fallback_threshold(torch.tensor([0.5]), 2)
    with pytest.raises(ValueError, match="must both have shape"):
        fallback_accuracy(torch.tensor([0.5]), torch.tensor([True]), torch.tensor([True, False]))
