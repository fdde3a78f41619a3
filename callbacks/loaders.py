"""Read somebody's loader without using it up: the same data set in its own order, from a loader of our own.

Iterating a user's loader moves its sampler's and its generator's state, and with it what a second `fit` would see. A
loader over a map-style data set is therefore rebuilt: same data set, same collation, same workers, batches in order. On
several devices each process takes every n-th batch, so that every image is measured once, in the batch it would be in
on one device.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeGuard

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)


@dataclass(frozen=True)
class Share:
    """Which batches are this process's: `rank`, `rank + size`, `rank + 2 size`, ..."""

    rank: int = 0
    size: int = 1


WHOLE = Share()


class OrderedBatches:
    """The batches of a loader in the order of its data set; its own order where there is no such data set.

    Args:
        loader: Gives batches (Any: of whatever kind).
        limit: Batches that are read at most; all when not given.
        share: Those that are read here. A stream that cannot be divided is read by rank 0 alone.
    """

    def __init__(self, loader: Iterable[Any], limit: int | None = None, share: Share = WHOLE) -> None:
        self._loader, self._limit, self._share = loader, limit, share

    def __len__(self) -> int:
        """Number of batches that are read here; a TypeError if the loader does not know it."""
        count = len(self._loader)  # type: ignore[arg-type]  # streams have no length: the error is the answer
        count = count if self._limit is None else min(count, self._limit)
        if not is_divisible(self._loader):
            return count if self._share.rank == 0 else 0
        return len(range(self._share.rank, count, self._share.size))

    def __iter__(self) -> Iterator[Any]:
        if is_divisible(self._loader):
            batches = list(islice(index_batches(self._loader, self._share.size), self._limit))
            yield from rebuilt(self._loader, self._loader.dataset, batches[self._share.rank :: self._share.size])
        elif self._share.rank == 0:
            yield from islice(self._loader, self._limit)


def is_divisible(loader: Iterable[Any]) -> TypeGuard[DataLoader[Any]]:
    """Whether it is torch's own loader over a data set with indices; a subclass may iterate in a way of its own."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and not isinstance(loader.dataset, IterableDataset)
        and hasattr(loader.dataset, "__len__")
    )


def rebuilt(loader: Any, dataset: Dataset[Any], batches: Sequence[Any], collate: Any = None) -> DataLoader[Any]:
    """A loader as `loader` is, over a data set and given batches of indices.

    Any: loaders hold whatever callables their projects gave them.

    Args:
        loader: Whose workers and collation are taken.
        dataset: What is read.
        batches: Lists of indices; single indices where `loader` does not batch.
        collate: In the place of the loader's own collation.
    """
    whole = loader.batch_size is None and loader.batch_sampler is None  # the data set gives batches
    order: dict[str, Any] = {"sampler": batches, "batch_size": None} if whole else {"batch_sampler": batches}
    return DataLoader(
        dataset,
        **order,
        collate_fn=collate or loader.collate_fn,
        num_workers=loader.num_workers,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),  # of its own: without one it would draw from the global one
    )


def index_batches(loader: Any, processes: int = 1) -> Iterator[Any]:
    """Batches of indices (Any: or single indices, where the data set gives batches) that a loader reads, in order.

    Shuffling, and what Lightning puts in its place on several devices, is undone; what another sampler chooses stays.

    Args:
        loader: A `DataLoader` over a data set with indices.
        processes: On several, a batch sampler of the project's own has been divided by Lightning already and cannot be
            put together again: its images are then read in order.
    """
    sampler = loader.batch_sampler
    if sampler is None:
        yield from _indices(loader.sampler, loader.dataset)
    elif type(sampler) is not BatchSampler and processes == 1:
        yield from copy.deepcopy(sampler, {id(loader.dataset): loader.dataset})
    else:
        size = getattr(sampler, "batch_size", None) or 1
        drop_last = bool(getattr(sampler, "drop_last", False))
        yield from BatchSampler(_indices(getattr(sampler, "sampler", None), loader.dataset), size, drop_last)


def _indices(sampler: Any, dataset: Any) -> Sequence[int]:
    # Lightning wraps a project's own sampler for several devices; the original is inside.
    sampler = getattr(getattr(sampler, "dataset", None), "_sampler", sampler)
    if sampler is None or isinstance(sampler, SequentialSampler | RandomSampler | DistributedSampler):
        return range(len(dataset))
    return list(copy.deepcopy(sampler, {id(dataset): dataset}))
