"""Labelled images in memory, and the data set that hands a role's images out as finished batches.

A `Pool` reads raw images by index; `RoleDataset` is the part of a pool that serves one role, normalised. Whole batches
are read, augmented and normalised at once: torch's loader asks `__getitems__` for all indices of a batch together.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from qcal.data.roles import Role


class Pool(Protocol):
    """Labelled images that can be read by index: what `RoleDataset` needs to know of them."""

    @property
    def y(self) -> Tensor:
        """`(N,)` int64 labels in `[0, len(classes))`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of an image as `read` returns it."""

    def read(self, indices: Tensor) -> Tensor:
        """Raw images `(n, C, H, W)`, uint8 in 0..255 or float32, for `indices` `(n,)` int64; a fresh tensor."""

    def fingerprint(self) -> str:
        """SHA-256 of what tells these images from others; of the labels too."""


@dataclass(frozen=True, eq=False)  # eq: comparing tensors element by element has no truth value
class Images:
    """Labelled images in memory, checked.

    Args:
        x: `(N, C, H, W)` uint8 in 0..255, or float32 (black = 0, white = 1; noise may leave that range).
        y: `(N,)` int64 in `[0, len(classes))`.
        classes: Name of each class, in the order of the labels.
        source: Where they come from, for messages.

    Raises:
        TypeError: Another dtype.
        ValueError: Another shape, no image, `x` and `y` of different lengths, fewer than 2 classes, a label out of
            range, or a pixel that is NaN or infinite.

    Example:
        >>> images = Images(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("cat", "dog"))
        >>> images.read(torch.tensor([1])).shape
        torch.Size([1, 1, 8, 8])
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    source: str = "images"

    def __post_init__(self) -> None:
        check_labels(self.y, self.classes, source=self.source)
        self._check_pixels()

    def _check_pixels(self) -> None:
        if self.x.ndim != 4:
            raise ValueError(
                f"{self.source}: `x` must have shape (N, C, H, W), got {tuple(self.x.shape)}. "
                "Add the missing axis, for example a channel axis to grey images."
            )
        if self.x.dtype not in (torch.uint8, torch.float32):
            raise TypeError(
                f"{self.source}: `x` must be uint8 (0..255) or float32 (0..1), got {self.x.dtype}. "
                "Convert the images to uint8."
            )
        if len(self.x) != len(self.y):
            raise ValueError(
                f"{self.source}: `x` and `y` must have the same length, got {len(self.x)} images and {len(self.y)} "
                "labels. Store one label an image."
            )
        if self.x.is_floating_point() and not bool(self.x.isfinite().all()):
            bad = int((~self.x.isfinite()).flatten(1).any(1).sum())
            raise ValueError(
                f"{self.source}: pixels of `x` must be finite, got NaN or infinity in {bad} of {len(self.x)} images. "
                "Remove or repair these images."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        _, channels, height, width = self.x.shape
        return channels, height, width

    def read(self, indices: Tensor) -> Tensor:
        """`(n, C, H, W)` in the dtype of `x`, for `indices` `(n,)` int64."""
        return self.x[indices]

    def fingerprint(self) -> str:
        """SHA-256 of the bytes of `x`, then of `y`."""
        digest = hashlib.sha256(self.x.contiguous().numpy().data)
        digest.update(self.y.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Augmented:
    """A pool whose images are changed at random each time they are read.

    Args:
        pool: The images.
        augment: Raw images `(n, C, H, W)` to raw images of the same shape.

    Example:
        >>> images = Images(torch.ones(2, 1, 8, 8), torch.tensor([0, 1]), ("cat", "dog"))
        >>> Augmented(images, torch.Tensor.neg).read(torch.tensor([0])).mean()
        tensor(-1.)
    """

    pool: Pool
    augment: Callable[[Tensor], Tensor]

    @property
    def y(self) -> Tensor:
        """`(N,)` int64."""
        return self.pool.y

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.pool.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        return self.pool.shape

    def read(self, indices: Tensor) -> Tensor:
        """Raw images `(n, C, H, W)`, augmented."""
        return self.augment(self.pool.read(indices))

    def fingerprint(self) -> str:
        """That of the images before augmentation."""
        return self.pool.fingerprint()


@dataclass(frozen=True, eq=False)
class Batch(Sequence[tuple[Tensor, Tensor]]):
    """A finished batch that still looks like a sequence of samples.

    `finished_batch` takes the tensors out as they are. Any other collate function sees the samples one by one, so the
    data set also works in a `DataLoader` that knows nothing of it.

    Args:
        x: `(n, C, H, W)` float32.
        y: `(n,)` int64.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @overload
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]: ...
    @overload
    def __getitem__(self, index: slice) -> "Batch": ...
    def __getitem__(self, index: int | slice) -> "tuple[Tensor, Tensor] | Batch":
        if isinstance(index, slice):
            return Batch(self.x[index], self.y[index])
        return self.x[index], self.y[index]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.x, self.y, strict=True)


def finished_batch(batch: Batch | list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The collate function of qcal's loaders: `(x, y)`, without another copy if it gets a `Batch`.

    Args:
        batch: What a `RoleDataset` returned, or a list of samples if another data set was wrapped around it.

    Returns:
        x `(n, C, H, W)` float32 and y `(n,)` int64.
    """
    if isinstance(batch, Batch):
        return batch.x, batch.y
    images, labels = zip(*batch, strict=True)
    return torch.stack(images), torch.stack(labels)


class RoleDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images of one role, normalised: `(x, y)` with x `(C, H, W)` float32 and y an int64 scalar.

    Args:
        pool: Where the images are read from.
        role: Which of them, and in what order.
        mean: Mean of each channel on the 0..1 scale, subtracted.
        std: Standard deviation of each channel on the 0..1 scale, divided by.

    Example:
        >>> images = Images(torch.ones(3, 1, 8, 8), torch.tensor([0, 1, 1]), ("cat", "dog"))
        >>> dataset = RoleDataset(images, Role("val", "train", torch.tensor([2, 0])), mean=(0.5,), std=(0.25,))
        >>> x, y = dataset[0]
        >>> len(dataset), x.mean(), y
        (2, tensor(2.), tensor(1))
    """

    def __init__(self, pool: Pool, role: Role, *, mean: Sequence[float], std: Sequence[float]) -> None:
        self.pool = pool
        self.role = role
        self.mean = tuple(mean)
        self.std = tuple(std)

    def __len__(self) -> int:
        return self.role.size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of these positions within the role."""
        chosen = self.role.indices[torch.as_tensor(indices)]
        return Batch(normalize(self.pool.read(chosen), mean=self.mean, std=self.std), self.pool.y[chosen])


def normalize(images: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`(images - mean) / std` per channel, on the 0..1 scale.

    Args:
        images: `(N, C, H, W)`, uint8 (divided by 255 first) or float32 (taken as it is).
        mean: One number a channel.
        std: One number a channel, above 0.

    Returns:
        `(N, C, H, W)` float32, a new tensor.

    Example:
        >>> normalize(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), mean=[0.5], std=[0.25]).item()
        2.0
    """
    scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images
    per_channel = (1, -1, 1, 1)
    centred = scaled - torch.tensor(mean, device=images.device).view(per_channel)
    return centred.div_(torch.tensor(std, device=images.device).view(per_channel))


def check_labels(y: Tensor, classes: Sequence[str], *, source: str) -> None:
    """Refuse labels that do not number `classes`.

    Args:
        y: `(N,)` int64 in `[0, len(classes))`, at least one.
        classes: At least two names.
        source: Where they come from, for messages.

    Raises:
        TypeError: `y` is not int64.
        ValueError: `y` is not one-dimensional or is empty, there are fewer than two classes, or a label is out of
            range.
    """
    if y.dtype != torch.int64:
        raise TypeError(f"{source}: `y` must be int64, got {y.dtype}. Convert with `y.astype(numpy.int64)`.")
    if y.ndim != 1:
        raise ValueError(
            f"{source}: `y` must have shape (N,), got {tuple(y.shape)}. Pass class numbers, not one-hot rows."
        )
    if len(y) == 0:
        raise ValueError(
            f"{source}: must hold at least 1 image, got an empty split. Point to the files with the images."
        )
    if len(classes) < 2:
        raise ValueError(f"{source}: must have at least 2 classes, got {len(classes)}. Name every class in `classes`.")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= len(classes):
        raise ValueError(
            f"{source}: labels must lie in [0, {len(classes)}), one number a class, got {low} to {high}. "
            "Renumber the labels from 0, or complete `classes`."
        )
