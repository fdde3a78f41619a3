import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import chisquare, multinomial

from qcal.functional.bootstrap import Interval, percentile_interval, resampled_counts, resampled_sums


def _skewed(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1), dtype=torch.float64).exp()


def test_rows_are_drawn_together_for_all_columns() -> None:
    values = _skewed(200, 1)
    sums = resampled_sums(torch.cat([values, 2 * values, torch.ones_like(values)], dim=1), resamples=100)
    torch.testing.assert_close(sums[:, 1], 2 * sums[:, 0])
    assert (sums[:, 2] == 200).all()


def test_sums_have_the_mean_and_the_covariance_of_the_closed_form() -> None:
    values = _skewed(500, 3)
    sums = resampled_sums(values, resamples=20_000, seed=3)
    # A sum of N independent draws from the rows: N times their mean, N times their (biased) covariance.
    covariance = torch.cov(values.T, correction=0) * 500
    error = (covariance.diag() / 20_000).sqrt()
    assert ((sums.mean(dim=0) - values.sum(dim=0)).abs() < 4 * error).all()
    torch.testing.assert_close(torch.cov(sums.T), covariance, rtol=0.05, atol=0.05 * float(covariance.diag().amax()))


def test_of_two_rows_the_number_drawn_is_binomial() -> None:
    sums = resampled_sums(torch.tensor([[0], [1]]), resamples=40_000)[:, 0]
    seen = torch.bincount(sums.long(), minlength=3).numpy()
    assert chisquare(seen, 40_000 * np.array([0.25, 0.5, 0.25])).pvalue > 1e-3


def test_counts_have_the_multinomial_distribution() -> None:
    sizes = torch.tensor([1, 0, 3, 2])
    draws = resampled_counts(sizes, resamples=60_000, seed=5).long()
    cells, seen = np.unique(draws.numpy(), axis=0, return_counts=True)
    expected = multinomial(6, sizes.numpy() / 6).pmf(cells) * 60_000
    assert expected.sum() == pytest.approx(60_000)  # every cell that is possible was drawn
    assert chisquare(seen, expected).pvalue > 1e-3


def test_counts_and_sums_of_one_hot_rows_have_the_same_spread() -> None:
    sizes = torch.tensor([300, 40, 9, 151])
    rows = torch.eye(4).repeat_interleave(sizes, dim=0)
    direct, short = resampled_sums(rows, resamples=20_000), resampled_counts(sizes, resamples=20_000, seed=1)
    torch.testing.assert_close(direct.mean(dim=0), short.mean(dim=0), rtol=0, atol=0.5)
    torch.testing.assert_close(direct.std(dim=0), short.std(dim=0), rtol=0.03, atol=0)


def test_a_percentile_interval_agrees_with_scipy() -> None:
    values = _skewed(400, 1)
    samples = resampled_sums(values, resamples=20_000)[:, 0] / 400
    ours = percentile_interval(samples, level=0.9)
    theirs = scipy_bootstrap(
        (values[:, 0].numpy(),), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=0
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * width)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_quantiles_are_those_of_numpy(samples: list[float], level: float) -> None:
    interval = percentile_interval(torch.tensor(samples, dtype=torch.float64), level=level)
    expected = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    assert [interval.low, interval.high] == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-3)
    assert interval.low <= interval.high


def test_the_same_seed_draws_the_same_and_the_global_generator_is_untouched() -> None:
    values, sizes = _skewed(50, 2), torch.tensor([3, 4])
    state = torch.get_rng_state()
    first, second, other = (resampled_sums(values, resamples=20, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(*(resampled_counts(sizes, resamples=20, seed=7) for _ in range(2)))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_image_has_no_spread() -> None:
    assert resampled_sums(torch.tensor([[2.5]]), resamples=3).tolist() == [[2.5]] * 3
    assert resampled_counts(torch.tensor([1]), resamples=3).tolist() == [[1.0]] * 3
    assert percentile_interval(torch.tensor([2.5])) == Interval(2.5, 2.5)


def test_more_rows_than_a_block_holds_are_drawn_one_resample_at_a_time() -> None:
    sums = resampled_sums(torch.ones(300_000, 1), resamples=2)
    assert sums.tolist() == [[300_000.0]] * 2


def test_ten_thousand_resamples_of_ten_thousand_rows_take_seconds() -> None:
    values = _skewed(10_000, 60)
    begin = time.process_time()
    resampled_sums(values)
    assert time.process_time() - begin < 10


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    generator, held = torch.Generator().manual_seed(11), 0
    for repeat in range(400):
        interval = percentile_interval(
            resampled_sums(torch.randn(300, 1, generator=generator), resamples=1000, seed=repeat)[:, 0] / 300
        )
        held += interval.low <= 0 <= interval.high
    assert 0.93 <= held / 400 <= 0.97


@pytest.mark.parametrize("shape", [(3,), (0, 2), (3, 0), (2, 2, 2)])
def test_values_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`values` must have shape \(N, K\) .* got .* Stack the quantities"):
        resampled_sums(torch.zeros(shape))


def test_figures_that_are_undefined_are_refused() -> None:
    with pytest.raises(ValueError, match="`values` must be finite, got 1 of 2"):
        resampled_sums(torch.tensor([[math.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"`samples` must be finite, got 1 of 2 .* Leave out"):
        percentile_interval(torch.tensor([math.inf, 1.0]))


@pytest.mark.parametrize(
    "counts", [torch.tensor([-1, 3]), torch.tensor([0, 0]), torch.tensor([1.0]), torch.ones(2, 2).long()]
)
def test_counts_that_are_none_are_refused(counts: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="`counts` must be a one-dimensional tensor of whole numbers"):
        resampled_counts(counts)


def test_no_resamples_and_levels_in_percent_are_refused() -> None:
    with pytest.raises(ValueError, match="`resamples` must be at least 1, got 0"):
        resampled_sums(torch.zeros(1, 1), resamples=0)
    with pytest.raises(ValueError, match="`resamples` must be at least 1, got 0"):
        resampled_counts(torch.tensor([1]), resamples=0)
    with pytest.raises(ValueError, match=r"`level` must be between 0 and 1, got 95\. For"):
        percentile_interval(torch.zeros(2), level=95)
    with pytest.raises(ValueError, match=r"`samples` must have shape \(R,\) with R >= 1, got \(0,\)"):
        percentile_interval(torch.zeros(0))
