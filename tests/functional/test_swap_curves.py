import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from qcal.functional.calibration import reliability_bins
from qcal.functional.equal_count import equal_count_bins
from qcal.functional.swap_curves import Binning, score_bins, swap_curve

UNIT = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60)


@settings(deadline=None)  # the first call loads parts of torch
@given(UNIT, st.integers(1, 12))
def test_bins_are_those_of_the_reliability_diagram(values: list[float], num_bins: int) -> None:
    score, right = torch.tensor(values), torch.tensor([value > 0.5 for value in values])
    width = score_bins(score, binning="equal_width", num_bins=num_bins)
    count = score_bins(score, binning="equal_count", num_bins=num_bins)
    assert width.count.tolist() == reliability_bins(score, right, num_bins=num_bins).count.tolist()
    assert count.count.tolist() == equal_count_bins(score, right, num_bins=num_bins).count.tolist()
    torch.testing.assert_close(
        count.mean, equal_count_bins(score, right, num_bins=num_bins).confidence, equal_nan=True, rtol=0, atol=1e-12
    )


@settings(deadline=None)
@given(UNIT, st.sampled_from(["equal_width", "equal_count"]))
def test_counts_add_up_to_those_of_all_images(values: list[float], binning: Binning) -> None:
    score = torch.tensor(values)
    generator = torch.Generator().manual_seed(len(values))
    swapped, before, after = (torch.rand(len(values), generator=generator) < 0.5 for _ in range(3))
    curve = swap_curve(score_bins(score, binning=binning, num_bins=7), swapped, before, after)
    for shares, flags in (
        (curve.swap_rate, swapped),
        (curve.harmful, swapped & before),
        (curve.float_accuracy, before),
    ):
        total = sum(share * n for share, n in zip(shares, curve.count, strict=True) if share is not None)
        assert total == pytest.approx(int(flags.sum()))


def test_shares_and_their_intervals_are_wilsons_of_the_bin() -> None:
    score = torch.cat([torch.full((10,), 0.2), torch.full((40,), 0.8)])
    swapped = torch.arange(50) % 5 == 0
    right = torch.arange(50) % 2 == 0
    curve = swap_curve(score_bins(score, binning="equal_width", num_bins=2), swapped, right, ~right)
    assert curve.count == (10, 40)
    assert curve.swap_rate == (0.2, 0.2)
    assert curve.harmful == (0.1, 0.1)
    assert curve.float_accuracy == curve.quant_accuracy == (0.5, 0.5)
    assert curve.mean_score == pytest.approx((0.2, 0.8), abs=1e-7)
    for place, (k, n) in enumerate([(2, 10), (8, 40)]):
        expected = binomtest(k, n).proportion_ci(method="wilson")
        assert (curve.swap_low[place], curve.swap_high[place]) == pytest.approx((expected.low, expected.high))
    harmful = binomtest(1, 10).proportion_ci(method="wilson")
    assert (curve.harmful_low[0], curve.harmful_high[0]) == pytest.approx((harmful.low, harmful.high))


def test_an_empty_bin_has_no_shares() -> None:
    no = torch.tensor([False])
    curve = swap_curve(score_bins(torch.tensor([0.9]), binning="equal_width", num_bins=2), no, no, no)
    assert curve.count == (0, 1)
    assert curve.swap_rate == curve.harmful == (None, 0.0)
    assert (curve.swap_low[0], curve.swap_high[0], curve.mean_score[0]) == (None, None, None)


def test_a_margin_of_logits_is_binned_up_to_its_largest() -> None:
    bins = score_bins(torch.tensor([0.0, 5.0, 20.0]), binning="equal_width", num_bins=4, high=20.0)
    assert bins.edges.tolist() == [0, 5, 10, 15, 20]
    assert bins.count.tolist() == [2, 0, 0, 1]


@pytest.mark.parametrize("values", [[-0.1], [1.1], [math.nan]])
def test_scores_out_of_range_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"`score` must lie in \[0, 1\], got 1 of 1 values outside or NaN"):
        score_bins(torch.tensor(values), binning="equal_width")


def test_other_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`score` must be floating and of shape \(N,\)"):
        score_bins(torch.zeros(0), binning="equal_width")
    with pytest.raises(ValueError, match="`num_bins` must be at least 1, got 0"):
        score_bins(torch.zeros(1), binning="equal_width", num_bins=0)
    with pytest.raises(ValueError, match="`binning` must be 'equal_width' or 'equal_count', got 'log'"):
        score_bins(torch.zeros(1), binning="log")  # type: ignore[arg-type]  # what is tested
    bins, flags = score_bins(torch.zeros(2), binning="equal_width"), torch.zeros(2).bool()
    with pytest.raises(ValueError, match=r"`right_before` must have shape \(2,\)"):
        swap_curve(bins, flags, flags[:1], flags)
    with pytest.raises(TypeError, match="`swapped` must be a bool tensor"):
        swap_curve(bins, flags.long(), flags, flags)
