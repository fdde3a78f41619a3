import hashlib
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcal.data.roles import Role, RoleName, check_count, check_no_leak, shuffled, split_train_pool


def indices(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


@given(
    sizes=st.tuples(*[st.integers(1, 30)] * 3),
    rest=st.integers(0, 30),
    spared=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_roles_of_the_train_pool_are_disjoint_and_have_their_sizes(
    sizes: tuple[int, int, int], rest: int, spared: int, seed: int
) -> None:
    val, recalibration, ranges = sizes
    pool = val + recalibration + ranges + rest + spared
    roles = split_train_pool(
        pool,
        val_size=val,
        recalibration_size=recalibration,
        range_estimation_size=ranges,
        train_size=ranges + rest,
        seed=seed,
    )
    used = {name: set(role.indices.tolist()) for name, role in roles.items()}
    assert [len(used[name]) for name in ("train", "val", "recalibration", "range_estimation")] == [
        ranges + rest,
        val,
        recalibration,
        ranges,
    ]
    assert len(used["train"] | used["val"] | used["recalibration"]) == pool - spared
    assert used["range_estimation"] <= used["train"]
    assert max(map(max, used.values())) < pool
    check_no_leak(roles, pool_sizes={"train": pool})


def test_train_takes_all_that_is_left_by_default() -> None:
    roles = split_train_pool(10, val_size=2, recalibration_size=3, range_estimation_size=1)
    kept = [roles[name].indices for name in ("train", "val", "recalibration")]
    assert torch.cat(kept).sort().values.tolist() == list(range(10))


def test_changing_one_size_leaves_the_other_roles_their_images() -> None:
    small = split_train_pool(50, val_size=5, recalibration_size=5, range_estimation_size=4)
    large = split_train_pool(50, val_size=9, recalibration_size=5, range_estimation_size=4)
    assert small["recalibration"].sha256 == large["recalibration"].sha256
    short = split_train_pool(50, val_size=5, recalibration_size=5, range_estimation_size=4, train_size=20)
    for name in ("val", "recalibration", "range_estimation"):
        assert short[name].sha256 == small[name].sha256


def test_the_seed_decides_which_images_serve_what() -> None:
    def val_hash(seed: int) -> str:
        roles = split_train_pool(50, val_size=5, recalibration_size=5, range_estimation_size=4, seed=seed)
        return roles["val"].sha256

    assert val_hash(0) == val_hash(0) != val_hash(1)


def test_shuffle_is_a_permutation_that_never_changes() -> None:
    order = shuffled(1000, seed=7)
    assert order.sort().values.equal(torch.arange(1000))
    # Recorded once: another numpy or platform must give it too, or old records could not be repeated.
    assert shuffled(8, seed=7).tolist() == [6, 3, 4, 0, 2, 7, 5, 1]


def test_hash_is_that_of_the_little_endian_index_bytes() -> None:
    role = Role("val", "train", indices(5, 0, 258))
    assert role.sha256 == hashlib.sha256(struct.pack("<3q", 5, 0, 258)).hexdigest()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"val_size": 6, "recalibration_size": 4},
            r"must leave images to train on, got 6 \+ 4 of a train pool of 10\. Low",
        ),
        ({"train_size": 7}, r"`train_size` must be at most 6, .* left in the train pool, got 7\. Lower `train_size`"),
        ({"range_estimation_size": 7}, r"`range_estimation_size` must be at most 6, .* trained on, got 7\. Lower"),
        ({"train_size": 3, "range_estimation_size": 4}, r"`range_estimation_size` must be at most 3, .*got 4\. Lower"),
        ({"val_size": 0}, r"`val_size` must be an integer of at least 1, got 0\. Pass"),
        ({"recalibration_size": -1}, r"`recalibration_size` must be an integer of at least 1, got -1\. Pass"),
        ({"train_size": 0}, r"`train_size` must be an integer of at least 1, got 0\. Pass"),
    ],
)
def test_sizes_the_pool_cannot_serve_are_refused(asked: dict[str, int], message: str) -> None:
    sizes = {"val_size": 2, "recalibration_size": 2, "range_estimation_size": 1, **asked}
    with pytest.raises(ValueError, match=message):
        split_train_pool(10, **sizes)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (indices(), "`val` must hold at least 1 image, got 0. Give"),
        (indices(1, 1), "must name each image once, got 1 repetitions. Pass"),
        (indices(-1, 1), "must be at least 0, got -1. Count"),
        (torch.tensor([1.0]), r"must be int64 of shape \(size,\), got torch.float32 of shape \(1,\). Convert"),
        (indices(1).view(1, 1), r"must be int64 of shape \(size,\), got torch.int64 of shape \(1, 1\). Convert"),
    ],
)
def test_indices_that_name_no_set_of_images_are_refused(wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Role("val", "train", wrong)


@pytest.mark.parametrize(
    "pair", [("train", "val"), ("train", "recalibration"), ("val", "recalibration"), ("train", "test")]
)
def test_one_image_in_two_exclusive_roles_is_refused(pair: tuple[RoleName, RoleName]) -> None:
    roles = {pair[0]: Role(pair[0], "train", indices(0, 1, 2)), pair[1]: Role(pair[1], "train", indices(5, 2))}
    with pytest.raises(ValueError, match=rf"`{pair[0]}` and `{pair[1]}` must not share an image, got 1 shared, .*Draw"):
        check_no_leak(roles, pool_sizes={"train": 10})


def test_equal_indices_of_different_pools_are_different_images() -> None:
    roles: dict[RoleName, Role] = {
        "train": Role("train", "train", indices(0, 1)),
        "test": Role("test", "test", indices(0, 1)),
    }
    check_no_leak(roles, pool_sizes={"train": 2, "test": 2})


@pytest.mark.parametrize(
    "ranges", [Role("range_estimation", "train", indices(1, 5)), Role("range_estimation", "test", indices(1))]
)
def test_range_estimation_outside_train_is_refused(ranges: Role) -> None:
    roles: dict[RoleName, Role] = {"train": Role("train", "train", indices(0, 1)), "range_estimation": ranges}
    with pytest.raises(ValueError, match=r"`range_estimation` must be a part of `train`, got images of the .* Draw it"):
        check_no_leak(roles, pool_sizes={"train": 10, "test": 10})


def test_an_index_beyond_the_pool_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`test` must lie in \[0, 3\), the `test` pool, got 3\. Draw"):
        check_no_leak({"test": Role("test", "test", indices(0, 3))}, pool_sizes={"test": 3})


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "3"])
def test_a_count_must_be_a_positive_integer(value: int) -> None:
    with pytest.raises(ValueError, match=r"`batch_size` must be an integer of at least 1, got .*\. Pass"):
        check_count("batch_size", value)
