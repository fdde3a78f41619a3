"""Which images a study compares on, which it estimates activation ranges from, and which it keeps aside."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from qcal.callbacks.batches import BatchReader
from qcal.callbacks.loaders import WHOLE, OrderedBatches, Share
from qcal.callbacks.range_images import training_batches

Split = Literal["val", "test"]
# Any: batches of whatever kind.
Loader = Iterable[Any]
Loaders = Loader | Mapping[str, Loader]


@dataclass(frozen=True)
class DataOptions:
    """What the user said about the images; see `PostTrainingQuantization`.

    Attributes:
        compared: A split, or loaders.
        range_estimation: A loader; found when None.
        recalibration: A loader; the data module's when None.
        max_batches: Batches of each loader that are compared.
        range_estimation_size: Images for the ranges where they are taken from the training loader.
    """

    compared: Split | Loaders = "val"
    range_estimation: Loader | None = None
    recalibration: Loader | None = None
    max_batches: int | None = None
    range_estimation_size: int = 1024


@dataclass(frozen=True)
class StudyData:
    """What a study reads.

    Attributes:
        compared: By name, loaders of the images that float and quantized predictions are compared on; a single one
            has an empty name.
        range_estimation: Loader of training images.
        recalibration: Loader of images that are neither trained nor compared on; None without them.
        limits: Batches that are compared at most, in the order of `compared`; None reads all.
        description: Plain values (Any: some of them the data module's) for the record.
    """

    compared: dict[str, Loader]
    range_estimation: Loader
    recalibration: Loader | None
    limits: tuple[int | None, ...]
    description: dict[str, Any]


class StudyBatches:
    """A loader's batches as a validation step would get them, each read as `(images, target)`.

    Args:
        trainer: Whose strategy, module and data module transfer a batch.
        loader: Of whatever kind the project has.
        read: Turns a batch into images and labels.
        index: Of the loader among those of its split, for the transfer hooks.
        limit: Batches that are read at most.
        share: Those of them that this process reads.
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: Loader,
        read: BatchReader,
        *,
        index: int = 0,
        limit: int | None = None,
        share: Share = WHOLE,
    ) -> None:
        self._trainer, self._read, self._index = trainer, read, index
        self._batches = OrderedBatches(loader, limit, share)

    def __len__(self) -> int:
        """Number of batches; a TypeError if the loader does not know it."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            yield self._read(transferred(self._trainer, batch, self._index))


def transferred(trainer: Trainer, batch: Any, index: int = 0) -> Any:
    """A batch (Any: whatever a loader gives) after the project's transfer hooks, on the device."""
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=index)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=index)


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


@contextmanager
def find_data(trainer: Trainer, options: DataOptions, running: Split | None = None) -> Iterator[StudyData]:
    """Find the loaders of a study; what had to be set up for it is torn down at the end.

    Loaders that the trainer used are taken as they are. Others come from a shallow copy of the data module (or of the
    module), so that its `setup` changes nothing of the user's.

    Args:
        trainer: At the end of an epoch, of `fit`, of `validate` or of `test`.
        options: What the user asked for.
        running: The split that a stand-alone evaluation runs on, which is then compared on, whatever was asked for.

    Yields:
        The loaders and their description.

    Raises:
        ValueError: The split or the training images cannot be reached.
    """
    asked = running or options.compared
    sources = _Sources(trainer)
    try:
        if asked == "val" or asked == "test":
            compared, limit = named_loaders(sources.split(asked)), _limit(trainer, asked)
        else:
            compared, limit = named_loaders(asked), None
        ranges, how = _range_estimation(sources, options, next(iter(compared.values())))
        recalibration = options.recalibration or sources.recalibration()
        split = asked if isinstance(asked, str) else "loaders that were passed"
        description: dict[str, Any] = {"split": split, "range_estimation": how}
        description["recalibration"] = _recalibration_words(options, recalibration)
        describe = getattr(sources.datamodule, "describe_roles", None)
        if describe is not None:
            description["roles"] = describe()
        limits = tuple(_smaller(limit(loader) if limit else None, options.max_batches) for loader in compared.values())
        if any(each is not None for each in limits):
            description["max_batches"] = list(limits)
        yield StudyData(compared, ranges, recalibration, limits, description)
    finally:
        sources.tear_down()


def can_find(trainer: Trainer, options: DataOptions) -> str | None:
    """Why the images to compare on will not be found at the end of a fit that now begins; None if they will.

    Args:
        trainer: When its loaders are set up, before training.
        options: What the user asked for.
    """
    split = options.compared
    if not isinstance(split, str) or (split == "val" and trainer.val_dataloaders is not None):
        return None
    if _owner(trainer, f"{split}_dataloader") is not None:
        return None
    return _no_loader(split)


def named_loaders(loaders: Loaders) -> dict[str, Loader]:
    """Loaders by name: that of a dictionary, else `dataloader_0` and so on; a single one has none.

    Example:
        >>> named_loaders({"clean": [1], "noisy": [2]})
        {'clean': [1], 'noisy': [2]}
    """
    if isinstance(loaders, Mapping):
        found = dict(loaders)
    elif isinstance(loaders, list | tuple) and loaders and all(isinstance(each, DataLoader) for each in loaders):
        found = {f"dataloader_{index}": loader for index, loader in enumerate(loaders)}
    else:
        found = {"": loaders}
    return {"": next(iter(found.values()))} if len(found) == 1 else found


class _Sources:
    """Where loaders come from: the trainer, or a copy of what would give them to it."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._prepared: list[tuple[Any, str]] = []
        self.datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # Any: None, or of either package

    def split(self, split: Split) -> Loaders:
        used: Loaders | None = getattr(self._trainer, f"{split}_dataloaders")
        if used is not None:
            return used
        stage = "test" if split == "test" else "validate"
        owner = _owner(self._trainer, f"{split}_dataloader")
        if owner is None:
            raise ValueError(_no_loader(split))
        loaders: Loaders = getattr(self._set_up(owner, stage), f"{split}_dataloader")()
        return loaders

    def training(self) -> Loader | None:
        used = self._trainer.train_dataloader
        if used is None:
            owner = _owner(self._trainer, "train_dataloader")
            used = None if owner is None else self._set_up(owner, "fit").train_dataloader()
        return None if used is None else next(iter(named_loaders(used).values()))

    def special(self, name: str) -> Loader | None:
        """A loader that only some data modules have."""
        if not hasattr(self.datamodule, name):
            return None
        loader: Loader = getattr(self.datamodule, name)()
        return loader

    def recalibration(self) -> Loader | None:
        return self.special("recalibration_dataloader")

    def tear_down(self) -> None:
        for owner, stage in self._prepared:
            owner.teardown(stage=stage)

    def _set_up(self, owner: Any, stage: str) -> Any:
        """A shallow copy after `setup`: what that sets is set on the copy."""
        double = _shallow_copy(owner)
        double.setup(stage=stage)
        self._prepared.append((double, stage))
        return double


def _shallow_copy(owner: Any) -> Any:
    double = object.__new__(type(owner))
    registries = ("_modules", "_parameters", "_buffers")
    double.__dict__.update(
        {name: copy.copy(value) if name in registries else value for name, value in vars(owner).items()}
    )
    return double


def _owner(trainer: Trainer, method: str) -> Any:
    """Data module or module of the user's that has a loader method of its own; None without one."""
    datamodule, module = trainer.datamodule, trainer.lightning_module  # type: ignore[attr-defined]  # set by Lightning
    for candidate in (datamodule, module):
        defined = getattr(type(candidate), method, None) if candidate is not None else None
        # Lightning's own base classes define each method, to raise; by module, as there are two packages of them.
        if defined is not None and not defined.__module__.startswith(("lightning.", "pytorch_lightning.")):
            return candidate
    return None


def _range_estimation(sources: _Sources, options: DataOptions, compared: Loader) -> tuple[Loader, str]:
    if options.range_estimation is not None:
        return options.range_estimation, "the loader that was passed as `range_estimation=`"
    own = sources.special("range_estimation_dataloader")
    if own is not None:
        return own, "range_estimation split: training images without augmentation"
    train = sources.training()
    if train is None:
        raise ValueError(
            "The study needs training images for the activation ranges, but there is no training loader. Pass "
            "`range_estimation=`, a loader over a thousand of them, or a data module with `train_dataloader`."
        )
    return training_batches(train, compared, options.range_estimation_size)


def _recalibration_words(options: DataOptions, recalibration: Loader | None) -> str:
    if options.recalibration is not None:
        return "the loader that was passed as `recalibration=`"
    return "none" if recalibration is None else "recalibration split of the data module"


def _limit(trainer: Trainer, split: Split) -> Callable[[Loader], int | None]:
    """The trainer's own limit on batches; 0, which turns its loop off, does not turn a study off."""
    share: int | float = getattr(trainer, f"limit_{split}_batches")

    def limit(loader: Loader) -> int | None:
        if isinstance(share, int):
            return share or None
        if share in (0.0, 1.0):
            return None
        try:
            return max(1, int(share * len(loader)))  # type: ignore[arg-type]  # a stream's error says what we need
        except TypeError:
            return None

    return limit


def _smaller(first: int | None, second: int | None) -> int | None:
    given = [limit for limit in (first, second) if limit is not None]
    return min(given) if given else None


def _no_loader(split: str) -> str:
    return (
        f"The study asks for the {split} split, but the trainer was given no {split} loader, and neither data module "
        f"nor module has `{split}_dataloader`. Pass one of them, or `data=`, a loader of the images to compare on."
    )
