import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from qcal.functional.bootstrap import percentile_interval, resampled_sums
from qcal.robustness.swap_shares import swap_shares


def _predictions(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = torch.randint(4, (rows,), generator=generator)
    after = torch.where(torch.rand(rows, generator=generator) < 0.3, (before + 1) % 4, before)
    target = torch.where(torch.rand(rows, generator=generator) < 0.6, before, (before + 1) % 4)
    return before, after, target


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=60))
def test_kinds_add_up_and_error_change_is_harmful_minus_beneficial(rows: list[tuple[int, int, int]]) -> None:
    before, after, target = (torch.tensor(column) for column in zip(*rows, strict=True))
    shares = swap_shares(before, after, target, resamples=20)
    assert shares.swapped.count == shares.harmful.count + shares.beneficial.count + shares.neutral.count
    assert shares.error_change.value == pytest.approx(shares.harmful.share - shares.beneficial.share)
    assert shares.error_change.value == pytest.approx(shares.float_accuracy.share - shares.quant_accuracy.share)
    assert (shares.damage_per_swap is None) == (shares.swapped.count == 0)


def test_intervals_are_wilsons_and_those_of_the_dense_bootstrap() -> None:
    before, after, target = _predictions(2000)
    shares = swap_shares(before, after, target)
    expected = binomtest(shares.harmful.count, 2000).proportion_ci(method="wilson")
    assert (shares.harmful.wilson.low, shares.harmful.wilson.high) == pytest.approx((expected.low, expected.high))
    swapped = before != after
    columns = torch.stack([swapped, swapped & (before == target), swapped & (after == target)], dim=1)
    drawn = resampled_sums(columns, seed=9)
    worse = drawn[:, 1] - drawn[:, 2]
    dense = {
        "swap": (percentile_interval(drawn[:, 0] / 2000), shares.swapped.bootstrap),
        "change": (percentile_interval(worse / 2000), shares.error_change.bootstrap),
    }
    assert shares.damage_per_swap is not None
    dense["damage"] = (percentile_interval(worse / drawn[:, 0]), shares.damage_per_swap.bootstrap)
    for name, (slow, quick) in dense.items():
        width = slow.high - slow.low
        assert quick.low == pytest.approx(slow.low, abs=0.05 * width), name
        assert quick.high == pytest.approx(slow.high, abs=0.05 * width), name


def test_ties_are_counted_and_swaps_they_made_are_told_apart() -> None:
    before, after = torch.tensor([2, 1, 0]), torch.tensor([1, 0, 0])
    tied, on_top = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    shares = swap_shares(before, after, before, tied=tied, float_class_on_top=on_top, resamples=10)
    assert (shares.tied.count, shares.swapped_by_tie.count) == (2, 1)


def test_the_seed_decides_the_intervals() -> None:
    predictions = _predictions(300)
    assert swap_shares(*predictions, seed=1) == swap_shares(*predictions, seed=1)
    one, other = (swap_shares(*predictions, seed=seed).damage_per_swap for seed in (1, 2))
    assert one != other


def test_a_share_of_none_has_a_wilson_interval_of_some_width() -> None:
    prediction = torch.zeros(100).long()
    shares = swap_shares(prediction, prediction, prediction)
    assert (shares.swapped.share, shares.swapped.bootstrap.high) == (0.0, 0.0)
    assert shares.swapped.wilson.high == pytest.approx(0.037, abs=1e-3)
    assert shares.mcnemar_p == 1.0


@pytest.mark.slow
def test_bootstrap_intervals_cover_the_true_damage_as_often_as_they_say() -> None:
    """Images of known kinds: harmful 6 %, beneficial 3 %, neutral 3 %; 400 test sets."""
    chances, held, generator = torch.tensor([0.06, 0.03, 0.03, 0.88]), 0, torch.Generator().manual_seed(1)
    change_held = 0
    for repeat in range(400):
        kind = torch.multinomial(chances, 2000, replacement=True, generator=generator)
        before = torch.zeros(2000).long()
        after = torch.where(kind < 3, 1, 0)
        target = torch.tensor([0, 1, 2, 0])[kind]
        shares = swap_shares(before, after, target, resamples=2000, seed=repeat)
        assert shares.damage_per_swap is not None
        held += shares.damage_per_swap.bootstrap.low <= 0.25 <= shares.damage_per_swap.bootstrap.high
        change_held += shares.error_change.bootstrap.low <= 0.03 <= shares.error_change.bootstrap.high
    assert 0.93 <= held / 400 <= 0.97
    assert 0.93 <= change_held / 400 <= 0.97
