"""One pass keeps exact extremes and an exact histogram, in whatever order and portions the numbers come."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.quantization.observers import BINS, RangeObserver
from tests.support.equality import assert_equal as assert_same

# 0 and magnitudes from 2^-80 to 2^40: below, division by the width may underflow, which counts as 0.
NUMBERS = st.lists(
    st.floats(-(2.0**40), 2.0**40, width=32).map(lambda v: v if abs(v) >= 2.0**-80 else 0.0), min_size=1, max_size=40
)


def _seen(*batches: Tensor) -> RangeObserver:
    observer = RangeObserver()
    for batch in batches:
        observer.update(batch)
    return observer


def _assert_same_state(a: RangeObserver, b: RangeObserver) -> None:
    assert_same(a.state_dict(), b.state_dict())


def _assert_equal(a: RangeObserver, b: RangeObserver) -> None:
    assert (a.minimum, a.maximum, a.exponent) == (b.minimum, b.maximum, b.exponent)
    assert torch.equal(a.counts, b.counts)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [1000, 400_003])  # of three rows: the larger is counted in several portions
def test_counts_are_those_of_numpy(size: int, relu: bool) -> None:
    x = torch.randn(3, size, generator=torch.Generator().manual_seed(0)) * 7 - 2
    x = x.relu() if relu else x
    observer = _seen(x)
    edges = np.arange(-BINS, BINS + 1) * observer.width
    expected, _ = np.histogram(x.double().numpy(), bins=edges)
    assert observer.counts.tolist() == expected.tolist()
    assert (observer.minimum, observer.maximum) == (x.min().item(), x.max().item())


@given(NUMBERS, st.integers(0, 2**31), st.integers(1, 10))
@settings(deadline=None, max_examples=60)
def test_neither_order_nor_batches_change_anything(numbers: list[float], seed: int, batch: int) -> None:
    x = torch.tensor(numbers, dtype=torch.float32)
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))]
    _assert_equal(_seen(*torch.split(shuffled, batch)), _seen(x))


@given(NUMBERS, NUMBERS)
@settings(deadline=None, max_examples=60)
def test_two_observers_merge_into_the_one_that_saw_everything(first: list[float], second: list[float]) -> None:
    a, b = torch.tensor(first), torch.tensor(second)
    merged, mirrored = _seen(a), _seen(b, b)
    mirrored.merge(merged)
    merged.merge(_seen(b, b))
    _assert_equal(merged, _seen(a, b, b))
    _assert_same_state(mirrored, merged)


def test_merging_with_one_that_saw_nothing_changes_nothing() -> None:
    observer = _seen(torch.randn(10))
    observer.merge(RangeObserver())
    assert observer.num_seen == 10
    empty = RangeObserver()
    empty.merge(observer)
    _assert_same_state(empty, observer)


def test_the_largest_value_lies_in_the_upper_half_of_the_bins() -> None:
    for largest in (1e-30, 0.3, 1.0, 8191.9, 1e30):
        observer = _seen(torch.tensor([largest]))
        (occupied,) = observer.counts.nonzero(as_tuple=True)
        assert BINS + BINS // 2 <= int(occupied) < 2 * BINS


@pytest.mark.parametrize("value", [1.0, -1.0, 2.0**-13, 4096.0])
def test_a_power_of_two_is_counted_on_its_own_side(value: float) -> None:
    values, counts = _seen(torch.tensor([value])).values_and_counts()
    assert values.tolist() == [value]
    assert counts.tolist() == [1.0]


def test_a_tiny_negative_number_is_not_rounded_to_the_other_side_of_zero() -> None:
    observer = _seen(torch.tensor([1.0, -1e-9]))
    assert observer.counts[BINS - 1] == 1
    assert observer.counts[BINS] == 0


def test_the_bin_at_zero_stands_for_zero() -> None:
    values, counts = _seen(torch.tensor([0.0, 0.0, 1.0])).values_and_counts()
    assert values.tolist() == [0.0, 1.0]
    assert counts.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("value", [0.0, 0.7, -0.7, 1e-45, 3e38, -3e38])
def test_constant_tensors_are_described_exactly(value: float) -> None:
    x = torch.full((4, 4), value)
    values, counts = _seen(x, x).values_and_counts()
    assert counts.tolist() == [32.0]
    assert values.item() == (0.0 if value == 1e-45 else x[0, 0].double().item()) or value == 1e-45


def test_values_stand_within_half_a_bin_of_what_was_seen() -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(3)).sort().values
    observer = _seen(x)
    values, counts = observer.values_and_counts()
    spread = values.repeat_interleave(counts.long())
    assert (spread - x.double()).abs().max() <= observer.width


def test_channels_last_and_sliced_tensors_count_the_same() -> None:
    x = torch.randn(2, 4, 6, 5)
    for same in (x.contiguous(memory_format=torch.channels_last), x.transpose(1, 3), x.expand(2, 4, 6, 5)):
        _assert_equal(_seen(same), _seen(x))
    _assert_equal(_seen(x[:, ::2]), _seen(x[:, ::2].clone()))


def test_the_observed_tensor_is_not_written_to() -> None:
    x = torch.randn(100)
    before = x.clone()
    _seen(x)
    assert torch.equal(x, before)


def test_memory_does_not_grow() -> None:
    observer = _seen(*(torch.randn(50) * 10.0**k for k in range(12)))
    assert observer.counts.shape == (2 * BINS,)
    assert observer.num_seen == 600


def test_an_empty_tensor_changes_nothing() -> None:
    observer = _seen(torch.empty(0, 3))
    assert (observer.num_seen, observer.minimum, observer.maximum) == (0, math.inf, -math.inf)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused_and_not_counted(bad: float) -> None:
    observer = _seen(torch.ones(2))
    with pytest.raises(ValueError, match="`x` must be finite"):
        observer.update(torch.tensor([0.0, bad]))
    _assert_same_state(observer, _seen(torch.ones(2)))


def test_statistics_move_to_another_device_unchanged() -> None:
    observer = _seen(torch.randn(100))
    _assert_same_state(observer.to("cpu"), observer)


def test_only_the_running_averages_depend_on_order_and_batches() -> None:
    low, high = torch.tensor([-1.0, 1.0]), torch.tensor([-3.0, 11.0])
    observer = _seen(low, high)
    assert (observer.moving_minimum, observer.moving_maximum) == pytest.approx((-1.02, 1.1))
    mirrored = _seen(high, low)
    assert (mirrored.moving_minimum, mirrored.moving_maximum) == pytest.approx((-2.98, 10.9))
    assert _seen(torch.cat([low, high])).moving_maximum == 11.0
    _assert_equal(observer, mirrored)


def test_running_averages_merge_weighted_by_batches() -> None:
    three, one = _seen(*[torch.tensor([-1.0, 2.0])] * 3), _seen(torch.tensor([-5.0, 6.0]))
    three.merge(one)
    assert (three.moving_minimum, three.moving_maximum, three.num_batches) == (-2.0, 3.0, 4)


def test_magnitudes_are_what_an_observer_of_absolute_values_sees() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(1)) - 0.5
    x = (x * 2**12).round().add(0.5) / 2**12  # on no edge of a bin, which are wider
    x[0] = 0.0  # else the smallest absolute value is not known
    _assert_equal(_seen(x).magnitudes(), _seen(x.abs()))
    negative = _seen(torch.tensor([-2.0, -0.7])).magnitudes()
    assert (negative.minimum, negative.maximum) == (torch.tensor(0.7).item(), 2.0)
    assert (negative.moving_minimum, negative.moving_maximum) == (torch.tensor(0.7).item(), 2.0)


@pytest.mark.parametrize("batches", [[], [torch.zeros(3)], [torch.randn(50), torch.randn(50) * 1e20]])
def test_a_saved_observer_goes_on_where_it_stopped(batches: list[Tensor]) -> None:
    observer = _seen(*batches)
    restored = RangeObserver.from_state_dict(observer.state_dict())
    _assert_same_state(restored, observer)
    for each in (observer, restored):
        each.update(torch.linspace(-9, 3, 20))
    _assert_same_state(restored, observer)


def test_a_state_is_a_snapshot() -> None:
    observer = _seen(torch.ones(3))
    state = observer.state_dict()
    restored = RangeObserver.from_state_dict(state)
    observer.update(torch.ones(3))
    restored.update(torch.ones(3))
    assert state["counts"].sum() == 3


def test_a_state_that_is_none_is_refused() -> None:
    state = RangeObserver().state_dict()
    with pytest.raises(
        ValueError, match="must hold extremes, moving_extremes, num_batches, exponent, counts; got counts"
    ):
        RangeObserver.from_state_dict({"counts": state["counts"]})
    with pytest.raises(
        ValueError, match=r"`counts` of an observer's state must be torch\.int64 of shape \(16384,\), got"
    ):
        RangeObserver.from_state_dict({**state, "counts": state["counts"][:10]})
    with pytest.raises(ValueError, match=r"`extremes` .* got torch\.float32 of shape \(2,\)\. Pass what"):
        RangeObserver.from_state_dict({**state, "extremes": torch.zeros(2)})
