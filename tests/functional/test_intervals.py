import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from qcal.functional.intervals import wilson_interval


@given(
    counts=st.tuples(st.integers(0, 10_000), st.integers(1, 10_000)).map(sorted).filter(lambda c: c[1] > 0),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.999]),
)
def test_agrees_with_scipy(counts: list[int], confidence: float) -> None:
    k, n = counts
    lower, upper = wilson_interval(torch.tensor(k), torch.tensor(n), confidence=confidence)
    expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert lower.item() == pytest.approx(expected.low, abs=1e-12)
    assert upper.item() == pytest.approx(expected.high, abs=1e-12)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_holds_the_share_and_stays_within_0_and_1(counts: tuple[int, int]) -> None:
    k, n = counts
    lower, upper = wilson_interval(torch.tensor(k), torch.tensor(n))
    assert 0 <= lower <= k / n <= upper <= 1
    assert lower < upper


def test_is_the_mirror_image_for_failures() -> None:
    lower, upper = wilson_interval(torch.tensor([0, 3, 10]), torch.tensor(10))
    mirrored_lower, mirrored_upper = wilson_interval(torch.tensor([10, 7, 0]), torch.tensor(10))
    torch.testing.assert_close(lower, 1 - mirrored_upper)
    torch.testing.assert_close(upper, 1 - mirrored_lower)


def test_ends_are_exact_at_no_and_at_all_successes() -> None:
    lower, upper = wilson_interval(torch.tensor([0, 7, 1, 123457]), torch.tensor([7, 7, 1, 123457]))
    assert lower[0].item() == 0
    assert upper[1:].tolist() == [1.0, 1.0, 1.0]
    assert upper[0].item() == pytest.approx(1.959963984540054**2 / (7 + 1.959963984540054**2))  # z^2 / (n + z^2)


def test_no_trials_give_nan() -> None:
    lower, upper = wilson_interval(torch.tensor([0, 1]), torch.tensor([0, 2]))
    assert math.isnan(lower[0])
    assert math.isnan(upper[0])
    assert not lower[1].isnan()


def test_counts_beyond_float32_are_exact() -> None:
    lower, _ = wilson_interval(torch.tensor(2**24 + 1), torch.tensor(2**25))
    assert lower.dtype == torch.float64
    assert lower.item() == pytest.approx(binomtest(2**24 + 1, 2**25).proportion_ci(method="wilson").low, abs=1e-13)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_confidence_outside_0_and_1_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"`confidence` must be between 0 and 1, got {confidence}\. .* pass 0\.95"):
        wilson_interval(torch.tensor(1), torch.tensor(2), confidence=confidence)


@pytest.mark.parametrize(("successes", "trials"), [(3, 2), (-1, 2), (math.nan, 2)])
def test_counts_out_of_range_are_refused(successes: float, trials: int) -> None:
    with pytest.raises(
        ValueError, match=r"`successes` must be counts between 0 and `trials`, got 1 of 1 outside\. Pass counts"
    ):
        wilson_interval(torch.tensor(successes), torch.tensor(trials))
