"""Image files in one folder per class, decoded when they are read."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped
from torchvision.transforms import v2  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped

from qcal.data.images import check_labels

Decode = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files with labels.

    Args:
        folder: Folder that the paths start from.
        paths: `(N,)` bytes, relative to `folder`. One array: worker processes would slowly copy a list of a million
            strings, page by page, as they count references to them.
        y: `(N,)` int64 in `[0, len(classes))`.
        classes: Name of each class.
        decode: RGB image to `(C, H, W)` uint8 of the fixed `shape`.
        shape: `(C, H, W)`.
    """

    folder: Path
    paths: NDArray[np.bytes_]
    y: Tensor
    classes: tuple[str, ...]
    decode: Decode
    shape: tuple[int, int, int]

    def read(self, indices: Tensor) -> Tensor:
        """`(n, C, H, W)` uint8, decoded one by one.

        Raises:
            ValueError: A file cannot be decoded.
        """
        return torch.stack([self._open(index) for index in indices.tolist()])

    def fingerprint(self) -> str:
        """SHA-256 of the relative paths and the labels; the files' content is not read again for it."""
        digest = hashlib.sha256(b"\0".join(self.paths.tolist()))
        digest.update(self.y.numpy().data)
        return digest.hexdigest()

    def _open(self, index: int) -> Tensor:
        path = self.folder / os.fsdecode(bytes(self.paths[index]))
        try:
            with Image.open(path) as image:
                return self.decode(image.convert("RGB"))
        except OSError as error:  # PIL's errors for files that are no image or end early are of this kind
            raise ValueError(
                f"{path} must be a readable image, got one that is not: {error}. Repair it or remove it."
            ) from error


def find_image_files(folder: Path, *, decode: Decode, shape: tuple[int, int, int]) -> ImageFiles:
    """The image files below `folder`, whose subfolders are the classes, in the order of their names.

    Args:
        folder: Folder of class folders; images may lie deeper in them.
        decode: As in `ImageFiles`.
        shape: As in `ImageFiles`.

    Raises:
        FileNotFoundError: `folder` is not there.
        ValueError: It holds fewer than two class folders, or one of them holds no image.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Images are expected in {str(folder)!r}, one folder per class; got a path that is no folder (seen from "
            f"{Path.cwd()}). Correct `root`, or the names of its train and test folders."
        )
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    numbers = {name: number for number, name in enumerate(classes)}
    samples = make_dataset(str(folder), numbers, extensions=IMG_EXTENSIONS, allow_empty=True) if classes else []
    _check_none_empty(folder, classes, {number for _, number in samples})
    y = torch.tensor([number for _, number in samples], dtype=torch.int64)
    check_labels(y, classes, source=str(folder))
    paths = np.array([os.fsencode(os.path.relpath(path, folder)) for path, _ in samples])
    return ImageFiles(folder, paths, y, tuple(classes), decode, shape)


def center_decode(*, resize_size: int, image_size: int) -> Decode:
    """Shorter side to `resize_size`, then the central `image_size` x `image_size` pixels, as `(3, H, W)` uint8."""
    return _composed(v2.Resize(resize_size), v2.CenterCrop(image_size))


def random_decode(*, image_size: int) -> Decode:
    """A random 8 to 100 % of the area, scaled to `image_size`, mirrored half of the time, as `(3, H, W)` uint8."""
    return _composed(v2.RandomResizedCrop(image_size), v2.RandomHorizontalFlip())


def _composed(*steps: v2.Transform) -> Decode:
    decode: Decode = v2.Compose([*steps, v2.PILToTensor()])
    return decode


def _check_none_empty(folder: Path, classes: list[str], seen: set[int]) -> None:
    empty = [name for number, name in enumerate(classes) if number not in seen]
    if empty:
        raise ValueError(
            f"Every class folder of {str(folder)!r} must hold an image ({', '.join(IMG_EXTENSIONS)}), got none in "
            f"{', '.join(empty[:5])}{' and others' if len(empty) > 5 else ''}. Add images or remove the folder."
        )
