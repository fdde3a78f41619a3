"""Parts of one pass, however they were shared out, join into the observer that saw all of it, bit for bit."""

import pickle
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.quantization import PartObserver, Plan, RangeObserver, join_parts, prepare
from tests.quantization.networks import tiny_images, tiny_resnet
from tests.support.equality import assert_equal

EVERY_RANGE = (
    "w8a4",
    "w8a4-ema",
    "w8a4-pct99",
    "w8a4-mse",
    "w8a4-kl",
    "w8a4-sym",
    "w8a4-cle-ema",
    "w4a4-bc",
)

BATCHES = st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=4), max_size=12)


def _part(batches: dict[int, list[Tensor]]) -> PartObserver:
    part = PartObserver()
    for position, tensors in batches.items():
        part.position = position
        for x in tensors:
            part.update(x)
    return part


@given(BATCHES, st.integers(1, 5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_any_split_in_any_order_joins_into_one_observer(batches: list[list[float]], parts: int, seed: int) -> None:
    chance, whole = random.Random(seed), RangeObserver()
    shares: list[dict[int, list[Tensor]]] = [{} for _ in range(parts)]
    for position, numbers in enumerate(batches):
        # A module that is called twice sees two tensors of one batch.
        tensors = [torch.tensor(numbers), 2 * torch.tensor(numbers)]
        for x in tensors:
            whole.update(x)
        chance.choice(shares)[position] = tensors
    chance.shuffle(shares)
    for share in shares:
        order = list(share)
        chance.shuffle(order)
        share.update({position: share.pop(position) for position in order})
    joined = join_parts([{"relu": _part(share)} for share in shares])["relu"]
    assert type(joined) is RangeObserver
    assert_equal(joined.state_dict(), whole.state_dict())


def test_a_part_is_sent_whole_and_saves_what_an_observer_does() -> None:
    part, plain = _part({4: [torch.tensor([-1.0, 2.0])], 1: [torch.tensor([7.0])]}), RangeObserver()
    for numbers in ([-1.0, 2.0], [7.0]):
        plain.update(torch.tensor(numbers))
    assert_equal(part.state_dict(), plain.state_dict())
    sent = pickle.loads(pickle.dumps(part.to("cpu")))
    assert sent.extremes == [(4, -1.0, 2.0), (1, 7.0, 7.0)]
    assert_equal(sent.state_dict(), part.state_dict())


def test_no_parts_join_into_nothing() -> None:
    assert join_parts([]) == {}
    assert join_parts([{}, {}]) == {}


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same quantizers, got other names: pool, relu\. Take them"):
        join_parts([{"relu": PartObserver()}, {"pool": PartObserver()}])
    with pytest.raises(ValueError, match=r"remember the order of their batches, got a RangeObserver.*only="):
        join_parts([{"relu": PartObserver()}, {"relu": RangeObserver()}])


def _observed(only: Callable[[int], bool] | None = None) -> tuple[Plan, int]:
    """A plan after five batches, cut into seven pieces, and how many of them it ran."""
    plan, runs = prepare(tiny_resnet(), tiny_images()), []
    plan.network.register_forward_hook(lambda *_: runs.append(1))
    batches = [tiny_images(count, seed=count) for count in (6, 3, 9, 5, 1)]
    plan.observe(batches, equalized=True, batch_size=5, sample_size=20, only=only)
    return plan, len(runs)


@pytest.mark.parametrize("processes", [2, 3, 9])
def test_plans_of_a_part_each_run_their_share_and_become_the_plan_of_all(processes: int) -> None:
    whole, count = _observed()
    parts = [_observed(lambda position, rank=rank: position % processes == rank) for rank in range(processes)]  # type: ignore[misc]  # a default binds the rank of this turn
    assert count == 7
    assert [runs for _, runs in parts] == [len(range(rank, 7, processes)) for rank in range(processes)]
    plans = [plan for plan, _ in parts]
    plain, equalized = ([getattr(p, name) for p in plans] for name in ("statistics", "equalized_statistics"))
    for plan in plans[:2]:
        plan.statistics, plan.equalized_statistics = join_parts(plain), join_parts(equalized)
        for ours, theirs in (
            (plan.statistics, whole.statistics),
            (plan.equalized_statistics, whole.equalized_statistics),
        ):
            assert list(ours) == list(theirs)
            for name, observer in theirs.items():
                assert_equal(ours[name].state_dict(), observer.state_dict())
    images = tiny_images(8, seed=2)
    for setting in EVERY_RANGE:
        assert torch.equal(plans[-1 if processes < 3 else 1].run(setting, images), whole.run(setting, images)), setting
