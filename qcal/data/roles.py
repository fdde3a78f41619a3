"""What each image is used for: disjoint, named index sets over the pools of a data set.

A *pool* is what the publisher of a data set handed out: `train` or `test`. A *role* is what an image of a pool serves:
`train` (gradients), `val` (model selection), `recalibration` (temperature and the like), `range_estimation` (activation
ranges, a part of `train`) and `test`. The first three and `test` must not share an image, or a figure is measured on
what was fitted.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

PoolName = Literal["train", "test"]
RoleName = Literal["train", "val", "recalibration", "range_estimation", "test"]

POOLS: tuple[PoolName, ...] = get_args(PoolName)
ROLES: tuple[RoleName, ...] = get_args(RoleName)
# `range_estimation` is left out: it lies inside `train` on purpose.
EXCLUSIVE_ROLES: tuple[RoleName, ...] = ("train", "val", "recalibration", "test")


@dataclass(frozen=True, eq=False)  # eq: comparing tensors element by element has no truth value
class Role:
    """The images of one pool that serve one purpose.

    Args:
        name: What they are used for.
        pool: The pool the indices count in.
        indices: `(size,)` int64, without repetition, each in `[0, pool size)`; their order is the order of the loader.

    Raises:
        ValueError: `indices` is not a one-dimensional int64 tensor, is empty, holds a negative number or a repetition.

    Example:
        >>> role = Role("val", "train", torch.tensor([4, 1]))
        >>> role.size, role.sha256[:12]
        (2, '181d9408cee8')
    """

    name: RoleName
    pool: PoolName
    indices: Tensor

    def __post_init__(self) -> None:
        if self.indices.ndim != 1 or self.indices.dtype != torch.int64:
            raise ValueError(
                f"`indices` of the role `{self.name}` must be int64 of shape (size,), got {self.indices.dtype} of "
                f"shape {tuple(self.indices.shape)}. Convert with `indices.flatten().long()`."
            )
        if self.size == 0:
            raise ValueError(f"The role `{self.name}` must hold at least 1 image, got 0. Give it a larger size.")
        if int(self.indices.min()) < 0:
            raise ValueError(
                f"`indices` of the role `{self.name}` must be at least 0, got {int(self.indices.min())}. "
                "Count from the start of the pool."
            )
        repeated = self.size - torch.unique(self.indices).numel()
        if repeated:
            raise ValueError(
                f"`indices` of the role `{self.name}` must name each image once, got {repeated} repetitions. "
                "Pass `indices.unique()`."
            )

    @property
    def size(self) -> int:
        """Number of images."""
        return self.indices.numel()

    @property
    def sha256(self) -> str:
        """Hash of the indices as little-endian int64 bytes, in order: equal hashes, equal images."""
        return hashlib.sha256(self.indices.numpy().astype("<i8").tobytes()).hexdigest()


def split_train_pool(
    pool_size: int,
    *,
    val_size: int,
    recalibration_size: int,
    range_estimation_size: int,
    train_size: int | None = None,
    seed: int = 0,
) -> dict[RoleName, Role]:
    """The roles that live in the train pool, cut from one seeded shuffle of it.

    `val` is cut from the front of the shuffle, `recalibration` from its end, `train` is what lies between (or the first
    `train_size` of it) and `range_estimation` is the head of `train`. So changing one size leaves the other roles'
    images as they are, but for the rest that `train` gets.

    Args:
        pool_size: Images in the train pool.
        val_size: Images for model selection.
        recalibration_size: Images for recalibrating probabilities.
        range_estimation_size: Images of `train` on which activation ranges are estimated.
        train_size: Images to train on; None takes all that are left.
        seed: Seed of the shuffle, at least 0.

    Returns:
        The roles `train`, `val`, `recalibration` and `range_estimation`.

    Raises:
        ValueError: A size is below 1, or the sizes ask for more images than the pool has.

    Example:
        >>> roles = split_train_pool(10, val_size=2, recalibration_size=3, range_estimation_size=2)
        >>> {name: role.size for name, role in roles.items()}
        {'train': 5, 'val': 2, 'recalibration': 3, 'range_estimation': 2}
    """
    for name, size in (("val_size", val_size), ("recalibration_size", recalibration_size)):
        check_count(name, size)
    left = pool_size - val_size - recalibration_size
    if left < 1:
        raise ValueError(
            f"`val_size` + `recalibration_size` must leave images to train on, got {val_size} + {recalibration_size} "
            f"of a train pool of {pool_size}. Lower them."
        )
    train_size = _fitting("train_size", left if train_size is None else train_size, left, "are left in the train pool")
    range_size = _fitting("range_estimation_size", range_estimation_size, train_size, "are trained on")
    order = shuffled(pool_size, seed=seed)
    train = order[val_size : val_size + train_size]
    return {
        "train": Role("train", "train", train),
        "val": Role("val", "train", order[:val_size]),
        "recalibration": Role("recalibration", "train", order[pool_size - recalibration_size :]),
        "range_estimation": Role("range_estimation", "train", train[:range_size]),
    }


def shuffled(size: int, *, seed: int) -> Tensor:
    """The numbers 0..size-1 in a seeded order that is the same on every machine and version.

    The order sorts the raw 64-bit outputs of PCG64: numpy promises the stream of a bit generator for good, and neither
    numpy nor torch promises that of `permutation` or `randperm`.

    Args:
        size: How many numbers.
        seed: At least 0.

    Returns:
        `(size,)` int64.

    Example:
        >>> shuffled(5, seed=0).tolist()
        [3, 2, 1, 0, 4]
    """
    return torch.from_numpy(np.argsort(np.random.PCG64(seed).random_raw(size), kind="stable"))


def check_no_leak(roles: Mapping[RoleName, Role], *, pool_sizes: Mapping[PoolName, int]) -> None:
    """Refuse roles of which one would measure what another fitted.

    Args:
        roles: Any of the five roles.
        pool_sizes: Images in each pool that a role counts in.

    Raises:
        ValueError: Two of `train`, `val`, `recalibration`, `test` share an image of a pool, `range_estimation` holds an
            image that is not in `train`, or an index lies beyond its pool.

    Example:
        >>> shared = {name: Role(name, "train", torch.arange(3)) for name in ("train", "val")}
        >>> check_no_leak(shared, pool_sizes={"train": 3})
        Traceback (most recent call last):
        ValueError: The roles `train` and `val` must not share an image, got 3 shared, ...
    """
    for role in roles.values():
        if int(role.indices.max()) >= pool_sizes[role.pool]:
            raise ValueError(
                f"`indices` of the role `{role.name}` must lie in [0, {pool_sizes[role.pool]}), the `{role.pool}` "
                f"pool, got {int(role.indices.max())}. Draw them from that pool."
            )
    exclusive = [roles[name] for name in EXCLUSIVE_ROLES if name in roles]
    for position, first in enumerate(exclusive):
        for second in exclusive[position + 1 :]:
            _check_disjoint(first, second)
    if "range_estimation" in roles:
        _check_inside(roles["range_estimation"], roles.get("train"))


def check_count(name: str, value: int, *, minimum: int = 1) -> int:
    """`value`, if it is an integer of at least `minimum`.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}, got {value!r}. "
            "Pass a number of that size or leave it out."
        )
    return value


def _fitting(name: str, size: int, available: int, of_what: str) -> int:
    if check_count(name, size) > available:
        raise ValueError(
            f"`{name}` must be at most {available}, the number of images that {of_what}, got {size}. "
            f"Lower `{name}`, or the sizes of the other roles."
        )
    return size


def _check_disjoint(first: Role, second: Role) -> None:
    shared = int(torch.isin(first.indices, second.indices).sum()) if first.pool == second.pool else 0
    if shared:
        raise ValueError(
            f"The roles `{first.name}` and `{second.name}` must not share an image, got {shared} shared, all in the "
            f"`{first.pool}` pool. Draw them apart, as `split_train_pool` does."
        )


def _check_inside(part: Role, whole: Role | None) -> None:
    if whole is None or part.pool != whole.pool or not bool(torch.isin(part.indices, whole.indices).all()):
        raise ValueError(
            f"The role `{part.name}` must be a part of `train`, got images of the `{part.pool}` pool outside it. "
            "Draw it from the indices of `train`, so that no held-out image sets a range."
        )
