"""The common base of qcal's data modules: pools in, roles and loaders out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from math import isfinite

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from qcal.data.augment import CropAndFlip
from qcal.data.images import Augmented, Pool, RoleDataset, finished_batch
from qcal.data.roles import POOLS, PoolName, Role, RoleName, check_count, check_no_leak, split_train_pool

# What a stage of the trainer cannot do without. `fit` reads the test pool too, if there is one: what is wrong with it
# must show before hours of training, not after.
_REQUIRED_POOL: dict[str, PoolName] = {"fit": "train", "validate": "train", "test": "test"}

Batches = DataLoader[tuple[Tensor, Tensor]]


class ImageDataModule(LightningDataModule, ABC):
    """Labelled images with disjoint, recorded roles.

    A subclass says how a pool is read (`load`); cutting it into roles, checking them and batching is the same for all.
    Every loader yields `(x, y)`: x `(N, C, H, W)` float32, normalised; y `(N,)` int64. Only the train loader shuffles
    and augments. Pools are read once, by `setup` or when a loader first needs them.

    Args:
        mean: Mean of each channel on the 0..1 scale, subtracted from the images.
        std: Standard deviation of each channel on the 0..1 scale; the images are divided by it.
        batch_size: Images per training step and device; 128 as He et al. (2016) train on CIFAR.
        eval_batch_size: Images per batch of the other loaders; null takes batch_size.
        train_size: Images to train on, for quick runs; null takes all that the other roles leave.
        val_size: Images for model selection, taken from the train pool; their accuracy has a
            standard error of at most one point.
        recalibration_size: Images for recalibrating probabilities (temperature and the like), taken from the train
            pool; with val_size's default it leaves 45,000 of 50,000 CIFAR images, the usual share.
        range_estimation_size: Images from train, without augmentation, on which activation ranges are estimated; 1,024
            is eight batches of 128, where Xia et al. (2021) took nine.
        split_seed: Seed of the cut of the train pool into roles; apart from the run's seed, so that runs with different
            seeds share their images.
        augment: Whether training images are augmented.
        num_workers: Processes that prepare batches; 0 does it in the main one, the fastest for images in memory.

    Attributes:
        roles: The roles of the pools read so far.

    Raises:
        ValueError: A size is not a positive integer, or mean and std do not fit each other.
    """

    def __init__(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        train_size: int | None = None,
        val_size: int = 2500,
        recalibration_size: int = 2500,
        range_estimation_size: int = 1024,
        split_seed: int = 0,
        augment: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.mean, self.std = _checked_moments(mean, std)
        self.batch_size = check_count("batch_size", batch_size)
        self.eval_batch_size = (
            batch_size if eval_batch_size is None else check_count("eval_batch_size", eval_batch_size)
        )
        self.train_size = None if train_size is None else check_count("train_size", train_size)
        self.val_size = check_count("val_size", val_size)
        self.recalibration_size = check_count("recalibration_size", recalibration_size)
        self.range_estimation_size = check_count("range_estimation_size", range_estimation_size)
        self.split_seed = check_count("split_seed", split_seed, minimum=0)
        self.augment = augment
        self.num_workers = check_count("num_workers", num_workers, minimum=0)
        self.roles: dict[RoleName, Role] = {}
        self._pools: dict[PoolName, Pool] = {}

    @abstractmethod
    def load(self, pool: PoolName) -> Pool:
        """Read one pool from disk. Called once a pool; never downloads (`prepare_data` does)."""

    def has_pool(self, pool: PoolName) -> bool:
        """Whether the pool was configured; `load` says what to do if it is asked for all the same."""
        return True

    def assign(self, pool: PoolName, size: int) -> dict[RoleName, Role]:
        """The roles that live in a pool of `size` images; a subclass with a published split overrides it."""
        if pool == "test":
            return {"test": Role("test", "test", torch.arange(size))}
        return split_train_pool(
            size,
            val_size=self.val_size,
            recalibration_size=self.recalibration_size,
            range_estimation_size=self.range_estimation_size,
            train_size=self.train_size,
            seed=self.split_seed,
        )

    def augmentation(self) -> Callable[[Tensor], Tensor]:
        """Raw images `(n, C, H, W)` to raw images: pad by 4 pixels, crop, flip, as is usual for 32 x 32 images."""
        return CropAndFlip(padding=4, flip=True)

    def augmented(self, pool: Pool) -> Pool:
        """The same pool, read with random changes; a subclass that decodes files does it while decoding."""
        return Augmented(pool, self.augmentation())

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, once; None reads every pool that there is.

        Args:
            stage: "fit", "validate", "test" or None.
        """
        required = _REQUIRED_POOL.get(stage or "")
        for name in POOLS:
            if name == required or (stage in (None, "fit") and self.has_pool(name)):
                self.pool(name)

    def pool(self, name: PoolName) -> Pool:
        """A pool, read and cut into roles on first use.

        Raises:
            ValueError: It does not fit the other pool, `mean` and `std`, or the sizes of the roles.
        """
        if name not in self._pools:
            pool = self.load(name)
            pools = {**self._pools, name: pool}
            self._check_fit(pools)
            roles = {**self.roles, **self.assign(name, len(pool.y))}
            check_no_leak(roles, pool_sizes={key: len(value.y) for key, value in pools.items()})
            self._pools, self.roles = pools, roles
        return self._pools[name]

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        return self._any_pool().classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of an image."""
        return self._any_pool().shape

    def dataset(self, name: RoleName, *, augmented: bool = False) -> RoleDataset:
        """The images of a role; its pool is read if it was not yet."""
        pool_name: PoolName = "test" if name == "test" else "train"
        pool = self.pool(pool_name)
        read_from = self.augmented(pool) if augmented else pool
        return RoleDataset(read_from, self.roles[name], mean=self.mean, std=self.std)

    def train_dataloader(self) -> Batches:
        """Shuffled, augmented if asked; an incomplete last batch is left out unless it is the only one."""
        dataset = self.dataset("train", augmented=self.augment)
        devices = self.trainer.world_size if self.trainer else 1
        return self._loader(
            dataset, self.batch_size, shuffle=True, drop_last=len(dataset) // devices >= self.batch_size
        )

    def val_dataloader(self) -> Batches:
        """The images for model selection."""
        return self._loader(self.dataset("val"), self.eval_batch_size)

    def test_dataloader(self) -> Batches:
        """The test pool, in its own order."""
        return self._loader(self.dataset("test"), self.eval_batch_size)

    def recalibration_dataloader(self) -> Batches:
        """The images for recalibrating probabilities."""
        return self._loader(self.dataset("recalibration"), self.eval_batch_size)

    def range_estimation_dataloader(self) -> Batches:
        """The training images for activation ranges, not augmented, in the order of their role."""
        return self._loader(self.dataset("range_estimation"), self.eval_batch_size)

    def describe_roles(self) -> dict[str, dict[str, int | str]]:
        """For the record: which images served what, as plain JSON values.

        Returns:
            For each role of a pool read so far: `pool`, `size`, `sha256` of its indices and `pool_sha256`, which tells
            two versions of the same data set apart (`Pool.fingerprint`).
        """
        fingerprints = {name: pool.fingerprint() for name, pool in self._pools.items()}
        return {
            name: {
                "pool": role.pool,
                "size": role.size,
                "sha256": role.sha256,
                "pool_sha256": fingerprints[role.pool],
            }
            for name, role in self.roles.items()
        }

    def _any_pool(self) -> Pool:
        if self._pools:
            return next(iter(self._pools.values()))
        return self.pool("test" if self.has_pool("test") else "train")  # the smaller one tells as much

    def _check_fit(self, pools: dict[PoolName, Pool]) -> None:
        for name, pool in pools.items():
            if pool.shape[0] != len(self.mean):
                raise ValueError(
                    f"`mean` and `std` must have one number a channel, got {len(self.mean)} for the {pool.shape[0]} "
                    f"channels of the {name} images. Pass {pool.shape[0]} numbers each."
                )
        if len(pools) == 2:
            _check_alike(pools["train"], pools["test"])

    def _loader(
        self, dataset: RoleDataset, batch_size: int, *, shuffle: bool = False, drop_last: bool = False
    ) -> Batches:
        # Pinning helps copies to a CUDA device and nothing else; without one torch warns.
        on_cuda = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=on_cuda,
            collate_fn=finished_batch,
        )


def _checked_moments(mean: Sequence[float], std: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not mean or len(mean) != len(std):
        raise ValueError(
            f"`mean` and `std` must have one number a channel each, got {len(mean)} and {len(std)}. Pass equally many."
        )
    if not all(isfinite(value) for value in (*mean, *std)) or min(std) <= 0:
        raise ValueError(
            f"`mean` must be finite and `std` above 0, got mean={tuple(mean)} and std={tuple(std)}. "
            "Measure both on the training images, on the 0..1 scale."
        )
    return tuple(mean), tuple(std)


def _check_alike(train: Pool, test: Pool) -> None:
    if train.classes != test.classes:
        differing = [pair for pair in zip(train.classes, test.classes, strict=False) if pair[0] != pair[1]]
        first = f", first at {differing[0][0]!r} and {differing[0][1]!r}" if differing else ""
        raise ValueError(
            f"The train and the test pool must have the same classes in the same order, got {len(train.classes)} and "
            f"{len(test.classes)}{first}. Store the same `classes` (or class folders) in both."
        )
    if train.shape != test.shape:
        raise ValueError(
            f"The train and the test pool must have images of one shape (C, H, W), got {train.shape} and {test.shape}. "
            "Resize one of them."
        )
