"""Which images a study compares on and which it estimates activation ranges from, found in a trainer."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from qcal.callbacks.batches import BatchReader


@dataclass(frozen=True)
class StudyData:
    """What a study reads.

    Attributes:
        comparison: Batches on which float and quantized predictions are compared.
        range_estimation: Batches of training images for the activation ranges.
        description: Plain values for the record: which split, where the range images come from, and the data module's
            own description.
    """

    comparison: "StepBatches"
    range_estimation: "StepBatches"
    # Any: plain JSON values, some of them the data module's.
    description: dict[str, Any]


class StepBatches:
    """A loader's batches as a validation step would get them: after the project's batch transfer hooks.

    Args:
        trainer: Whose strategy, module and data module transfer a batch.
        loader: Of whatever kind the project has.
    """

    def __init__(self, trainer: Trainer, loader: Iterable[Any]) -> None:  # Any: a batch can be anything
        self.trainer, self.loader = trainer, loader

    def __len__(self) -> int:
        """Number of batches; a TypeError if the loader does not know it."""
        return len(self.loader)  # type: ignore[arg-type]  # iterable data sets have no length: the error is the answer

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            batch = self.trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            yield self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)


class Pairs:
    """A loader's batches, each read as `(images, target)`.

    Args:
        loader: Gives the batches.
        name: Of the loader, for messages.
        read: Turns a batch into images and labels; when not given a batch must be such a pair.
    """

    # Any: a batch can be anything until it is read.
    def __init__(self, loader: Iterable[Any], name: str, read: BatchReader | None = None) -> None:
        self.loader, self.name = loader, name
        self._read = read if read is not None else partial(_as_pair, name=name)

    def __len__(self) -> int:
        """Number of batches; a TypeError if the loader does not know it."""
        return len(self.loader)  # type: ignore[arg-type]  # iterable data sets have no length: the error is the answer

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from map(self._read, self.loader)


@contextmanager
def validating(trainer: Trainer) -> Iterator[None]:
    """The trainer says that it validates: at the end of `fit` it says that it trains, and hooks would augment."""
    stage = trainer.state.stage
    if trainer.training:
        trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def find_data(trainer: Trainer, split: Literal["val", "test"]) -> StudyData:
    """Find the loaders of a study.

    After `fit` the val loaders are those that fit used; the test loader comes from the data module. Ranges come from
    the data module's `range_estimation_dataloader` where it has one (training images without augmentation), else from
    the training loader as it is.

    Args:
        trainer: At the end of `fit` or `test`.
        split: Which images to compare on.

    Returns:
        Both sources and their description.

    Raises:
        ValueError: The split or the training images cannot be reached, or the split has several loaders.
    """
    comparison = _single(_split_loader(trainer, split), split)
    ranges, source = _range_loader(trainer)
    description: dict[str, Any] = {"split": split, "range_estimation": source}
    describe = getattr(trainer.datamodule, "describe_roles", None)  # type: ignore[attr-defined]  # set by Lightning when a data module is attached
    if describe is not None:
        description["roles"] = describe()
    return StudyData(StepBatches(trainer, comparison), StepBatches(trainer, ranges), description)


def _split_loader(trainer: Trainer, split: Literal["val", "test"]) -> Any:
    """Any: a loader or, if Lightning holds several, a collection of them."""
    used = trainer.val_dataloaders if split == "val" else trainer.test_dataloaders
    if used is not None:
        return used
    datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning when a data module is attached
    if datamodule is None:
        raise ValueError(
            f"The study asks for the {split} split, but the trainer was given no {split} loader and no data module. "
            f"Pass a data module with `{split}_dataloader`, or `data='val'` with a val loader."
        )
    datamodule.setup("test" if split == "test" else "validate")
    return datamodule.test_dataloader() if split == "test" else datamodule.val_dataloader()


def _range_loader(trainer: Trainer) -> tuple[Any, str]:
    """Any: a loader of whatever kind the project has."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning when a data module is attached
    if hasattr(datamodule, "range_estimation_dataloader"):
        return datamodule.range_estimation_dataloader(), "range_estimation split: training images without augmentation"
    if trainer.train_dataloader is not None:
        return trainer.train_dataloader, "training loader as it is, with its own shuffling and augmentation"
    if datamodule is not None:
        datamodule.setup("fit")
        return datamodule.train_dataloader(), "training loader as it is, with its own shuffling and augmentation"
    raise ValueError(
        "The study needs training images for the activation ranges, but `test` was called without a data module. "
        "Pass a data module with `train_dataloader` or `range_estimation_dataloader`."
    )


def _single(loaders: Any, split: str) -> Any:
    """Any: see `_split_loader`."""
    if not isinstance(loaders, (list, tuple, dict)):
        return loaders
    each = list(loaders.values()) if isinstance(loaders, dict) else list(loaders)
    if len(each) != 1:
        raise ValueError(
            f"The study compares on one {split} loader, got {len(each)}. Pass a data module with a single "
            f"`{split}_dataloader`."
        )
    return each[0]


def _as_pair(batch: Any, name: str) -> tuple[Tensor, Tensor]:
    """Any: the batch is what is checked here."""
    if (
        isinstance(batch, (list, tuple))
        and len(batch) >= 2
        and isinstance(batch[0], Tensor)
        and isinstance(batch[1], Tensor)
    ):
        images, target = batch[0], batch[1]
        if target.ndim == 1 and not target.is_floating_point() and target.dtype != torch.bool:
            return images, target
    seen = (
        [f"{type(part).__name__}{tuple(part.shape) if isinstance(part, Tensor) else ''}" for part in batch]
        if isinstance(batch, (list, tuple))
        else type(batch).__name__
    )
    raise ValueError(
        f"A batch of the {name} loader must be `(images, target)` with integer class indices `(N,)`, got {seen}. "
        "Wrap the data set to give pairs."
    )
