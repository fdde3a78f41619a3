"""Images kept in `.npz` files: arrays `x`, `y` and `classes`, in one file or several shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from torch import Tensor

from qcal.data.augment import CropAndFlip
from qcal.data.base import ImageDataModule
from qcal.data.images import Images, check_labels
from qcal.data.roles import PoolName, check_count

_KEYS = ("x", "y", "classes")


class NpzImages(ImageDataModule):
    """Images from `.npz` files: `x` uint8 `(N, H, W, C)`, `y` int64 `(N,)`, `classes` strings.

    A pool is one file or several shards of it, joined in the order given, or by name if a pattern such as
    `train_*.npz` finds them. All shards must agree on classes, image shape and dtype. float32 images are taken as they
    are, on the 0..1 scale.

    Args:
        root: Folder with the files.
        mean: Mean of each channel on the 0..1 scale, of the training images.
        std: Standard deviation of each channel on the 0..1 scale, of the training images.
        train: File name, pattern or list of them, relative to root; null where no role needs training images.
        test: File name, pattern or list of them, relative to root; null where no role needs test images.
        crop_padding: With augmentation, the largest move of a training image in pixels; 4 is usual for 32 x 32.
        flip: With augmentation, whether training images are mirrored; wrong for digits and letters.
        **common: The arguments of `ImageDataModule`.

    Raises:
        ValueError: Neither `train` nor `test` is given.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     x, y = np.zeros((4, 8, 8, 3), dtype=np.uint8), np.array([0, 1, 1, 0])
        ...     np.savez(Path(root) / "a.npz", x=x, y=y, classes=np.array(["cat", "dog"]))
        ...     data = NpzImages(root=root, train=None, test="a.npz", mean=(0.5,) * 3, std=(0.25,) * 3)
        ...     x, y = next(iter(data.test_dataloader()))
        >>> x.shape, y.tolist()
        (torch.Size([4, 3, 8, 8]), [0, 1, 1, 0])
    """

    def __init__(
        self,
        *,
        root: str | Path,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        train: str | list[str] | None = "train*.npz",
        test: str | list[str] | None = "test*.npz",
        crop_padding: int = 4,
        flip: bool = True,
        **common: Any,  # the base's typed arguments; jsonargparse follows them there
    ) -> None:
        if not train and not test:
            raise ValueError("NpzImages needs `train`, `test` or both, got neither. Name the files of one of them.")
        super().__init__(mean=mean, std=std, **common)
        self.root = Path(root).expanduser()
        self.files: dict[PoolName, list[str] | None] = {"train": _listed(train), "test": _listed(test)}
        self.crop_padding = check_count("crop_padding", crop_padding, minimum=0)
        self.flip = flip

    def has_pool(self, pool: PoolName) -> bool:
        """Whether files were named for it."""
        return self.files[pool] is not None

    def augmentation(self) -> CropAndFlip:
        """Moves by `crop_padding`, mirrors if `flip`."""
        return CropAndFlip(padding=self.crop_padding, flip=self.flip)

    def load(self, pool: PoolName) -> Images:
        """Read the shards of a pool into one tensor.

        Raises:
            ValueError: No file was named for the pool, or a file does not hold what it should.
            FileNotFoundError: The folder or a file is not there.
        """
        names = self.files[pool]
        if names is None:
            raise ValueError(
                f"NpzImages was asked for {pool} images, got `{pool}` null. Name their files in `{pool}`, "
                "or leave out what needs them."
            )
        shards = [read_shard(path) for path in find_files(self.root, names)]
        return join(shards, source=f"{self.root} ({pool})")


@dataclass(frozen=True, eq=False)
class Shard:
    """The content of one file, checked: `x` `(N, C, H, W)` (a view of the file's `(N, H, W, C)`), `y` and `classes`."""

    path: Path
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]


def find_files(root: Path, names: Sequence[str]) -> list[Path]:
    """The files that `names`, each a file name or a pattern, stand for, in their order; those of a pattern by name.

    Raises:
        FileNotFoundError: `root` is not a folder, or a name finds nothing.
        ValueError: A file is found twice.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            f"`root` must be a folder with .npz files, got {str(root)!r}, which is not there (seen from {Path.cwd()}). "
            "Correct the path."
        )
    found: list[Path] = []
    for name in names:
        matches = sorted(root.glob(name))
        if not matches:
            there = ", ".join(sorted(path.name for path in root.glob("*.npz"))[:8]) or "no .npz file"
            raise FileNotFoundError(
                f"No file in {str(root)!r} is called {name!r}; there is: {there}. Correct the name or `root`, "
                "or pass null for a pool that no role needs."
            )
        found += matches
    if len(set(found)) < len(found):
        raise ValueError(
            f"Each file must be named once, got {', '.join(names)}, which finds one twice. Drop the overlap."
        )
    return found


def read_shard(path: Path) -> Shard:
    """One file, checked.

    Raises:
        ValueError: It is not an `.npz` file, lacks an array, or an array has a wrong shape, length or labels out of
            range.
        TypeError: An array has a wrong dtype.
    """
    x, y, classes = _arrays(path)
    if x.ndim != 4:
        raise ValueError(
            f"{path}: `x` must have shape (N, H, W, C), got {x.shape}. Add the missing axis, channels last."
        )
    if x.dtype not in (np.uint8, np.float32):
        raise TypeError(
            f"{path}: `x` must be uint8 (0..255) or float32 (0..1), got {x.dtype}. "
            "Convert with `x.astype(numpy.uint8)`."
        )
    if y.dtype != np.int64:
        raise TypeError(f"{path}: `y` must be int64, got {y.dtype}. Convert with `y.astype(numpy.int64)`.")
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise TypeError(
            f"{path}: `classes` must be strings of shape (C,), got {classes.dtype} of shape {classes.shape}. "
            "Store one name a class, `numpy.array([...], dtype=str)`."
        )
    names = tuple(classes.tolist())
    check_labels(torch.from_numpy(y), names, source=str(path))
    if len(x) != len(y):
        raise ValueError(
            f"{path}: `x` and `y` must have the same length, got {len(x)} and {len(y)}. Store one label an image."
        )
    return Shard(path, torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y), names)


def _arrays(path: Path) -> list[NDArray[Any]]:  # Any: of whatever dtype the file has; `read_shard` checks it
    try:
        with path.open("rb") as stream:  # opened here: numpy leaves a damaged file open
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, NpzFile):
                raise ValueError("it holds a single array.")
            found = list(file.files)
            arrays = [file[key] for key in _KEYS if key in found]
    except (BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}: must be a complete .npz file of plain arrays, got one that cannot be read: {error} "
            "Copy or write it again, without object arrays."
        ) from error
    if len(arrays) < len(_KEYS):
        raise ValueError(
            f"{path}: must hold the arrays x, y and classes, got {', '.join(found) or 'none'}. "
            "Write all three with `numpy.savez`."
        )
    return arrays


def join(shards: Sequence[Shard], *, source: str) -> Images:
    """One set of images from shards that agree, in their order.

    Raises:
        ValueError: Two shards differ in classes, image shape or dtype.
    """
    first = shards[0]
    for shard in shards[1:]:
        for what, ours, theirs in (
            ("classes", first.classes, shard.classes),
            ("image shape", tuple(first.x.shape[1:]), tuple(shard.x.shape[1:])),
            ("dtype", first.x.dtype, shard.x.dtype),
        ):
            if ours != theirs:
                raise ValueError(
                    f"All shards of {source} must have the same {what}, got another in {shard.path.name} than in "
                    f"{first.path.name}. Write them from one set."
                )
    x = torch.cat([shard.x for shard in shards]).contiguous()
    return Images(x, torch.cat([shard.y for shard in shards]), first.classes, source=source)


def _listed(names: str | list[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else (names or None)
