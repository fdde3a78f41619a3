"""Training images for the activation ranges: a fixed selection, without augmentation where the data set allows it."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import Subset

from qcal.callbacks.batches import describe, leaves
from qcal.callbacks.loaders import is_divisible, rebuilt

_TRANSFORMS = ("transform", "transforms")


def training_batches(train: Iterable[Any], val: Iterable[Any] | None, size: int) -> tuple[Iterable[Any], str]:
    """Batches of `size` training images, and a sentence that says how they were read.

    Any: batches of whatever kind.

    Args:
        train: The loader that was trained on; neither it nor its data set is changed.
        val: A loader without augmentation over a data set of the same kind: its transforms and its collation are taken
            where images then come out in the same form.
        size: How many images; all of a smaller data set. Of a stream, whole batches until there are as many.
    """
    if not is_divisible(train):
        return _FirstImages(train, size), f"the first {size:,} images of the training loader as it is"
    dataset, is_plain = _without_augmentation(train, val)
    count = len(dataset)
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:size].sort().values.tolist()
    loader: Any = train
    whole = loader.batch_size is None and loader.batch_sampler is None
    batch = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
    batches = chosen if whole else [chosen[start : start + batch] for start in range(0, len(chosen), batch)]
    how = "with the transforms of the val split" if is_plain else "with the transforms of training, as they are"
    collate = val.collate_fn if is_plain and val is not None and is_divisible(val) else None
    return rebuilt(loader, dataset, batches, collate), f"{len(chosen):,} of {count:,} training images, {how}"


class _FirstImages:
    """A stream's first batches, until they hold as many images as asked for."""

    def __init__(self, loader: Iterable[Any], size: int) -> None:
        self._loader, self._size = loader, size

    def __iter__(self) -> Iterator[Any]:
        seen = 0
        for batch in self._loader:
            yield batch
            seen += batch_length(batch)
            if seen >= self._size:
                return


def batch_length(batch: Any) -> int:
    """Rows of the first tensor in a batch; 1 where there is none (Any: a batch of whatever kind)."""
    return next((len(leaf) for leaf in leaves(batch).values() if leaf.ndim > 0), 1)


def _without_augmentation(train: Any, val: Any) -> tuple[Any, bool]:  # Any: loaders and data sets of any kind
    """The training data set with the transforms of the val data set, if that gives items of the val set's form."""
    if val is None or not is_divisible(val):
        return train.dataset, False
    plain, is_changed = _with_transforms_of(train.dataset, val.dataset)
    if not is_changed:
        return train.dataset, False
    with isolate_rng():
        form = _form(val.dataset)
        is_same_form = form is not None and form == _form(plain)
    return (plain, True) if is_same_form else (train.dataset, False)


def _with_transforms_of(train: Any, val: Any) -> tuple[Any, bool]:
    """A shallow copy, level by level of what wraps what, and whether any transform changed."""
    if type(train) is not type(val):
        if isinstance(train, Subset):
            inner, is_changed = _with_transforms_of(train.dataset, val)
            return Subset(inner, train.indices), is_changed
        return _with_transforms_of(train, val.dataset) if isinstance(val, Subset) else (train, False)
    plain, is_changed = copy.copy(train), False
    ours, theirs = getattr(train, "__dict__", {}), getattr(val, "__dict__", {})  # a list has none
    for name in _TRANSFORMS:
        if name in ours and name in theirs and ours[name] is not theirs[name]:
            setattr(plain, name, theirs[name])
            is_changed = True
    if "dataset" in ours and "dataset" in theirs:
        plain.dataset, inside = _with_transforms_of(train.dataset, val.dataset)
        is_changed = is_changed or inside
    return plain, is_changed


def _form(dataset: Any) -> str | None:
    """Types and shapes of the first item; None if it cannot be read."""
    try:
        return describe(dataset[0])
    except Exception:  # of a stranger's data set with other transforms: then these do not fit it
        return None
