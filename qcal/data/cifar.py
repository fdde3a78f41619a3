"""CIFAR-10 and CIFAR-100 as torchvision downloads, verifies and reads them."""

import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped

from qcal.data.base import ImageDataModule
from qcal.data.images import Images
from qcal.data.roles import PoolName

# Of the 50,000 training images, each channel over all pixels.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


class _Cifar(ImageDataModule):
    """What the two sets share."""

    _source: ClassVar[Any]  # the class of torchvision, which ships no annotations

    def __init__(
        self, *, root: str | Path, download: bool, mean: tuple[float, ...], std: tuple[float, ...], **common: Any
    ) -> None:  # Any: the base's typed arguments; jsonargparse follows them there
        super().__init__(mean=mean, std=std, **common)
        self.root = Path(root).expanduser()
        self.download = download

    def prepare_data(self) -> None:
        """Download the archive and compare its MD5, unless the verified files are there.

        Raises:
            ConnectionError: It cannot be downloaded, or what arrives is not the archive.
        """
        if not self.download:
            return
        try:
            self._open("test", download=True)
        except (RuntimeError, OSError) as error:
            raise ConnectionError(
                f"{type(self).__name__} must be downloaded from {self._source.url}, which failed: {error} "
                f"Check the connection, or put {self._source.filename} into {str(self.root)!r} yourself."
            ) from error

    def load(self, pool: PoolName) -> Images:
        """Read one pool; torchvision compares every file's MD5 on the way.

        Raises:
            FileNotFoundError: The files are missing or damaged.
        """
        try:
            files = self._open(pool, download=False)
        except RuntimeError as error:
            raise FileNotFoundError(self._what_is_missing()) from error
        x = torch.from_numpy(files.data).permute(0, 3, 1, 2).contiguous()
        return Images(x, torch.tensor(files.targets), tuple(files.classes), source=f"{type(self).__name__} ({pool})")

    def _open(self, pool: PoolName, *, download: bool) -> Any:  # Any: torchvision ships no annotations
        with warnings.catch_warnings():
            # The files were pickled by a numpy that wrote 0 for False; numpy 2.4.0 to 2.4.4 warn (numpy/numpy#31177).
            warnings.filterwarnings("ignore", message=".*align should be passed")
            return self._source(self.root, train=pool == "train", download=download)

    def _what_is_missing(self) -> str:
        fix = "Run `prepare_data` (the trainer does)" if self.download else "Set `download` to true"
        return (
            f"{type(self).__name__} needs the complete, undamaged files of {self._source.filename} in "
            f"{str(self.root / self._source.base_folder)!r}, got a folder without them (seen from {Path.cwd()}). "
            f"{fix}, or point `root` to the folder that holds `{self._source.base_folder}`."
        )


class CIFAR10(_Cifar):
    """CIFAR-10: 50,000 train and 10,000 test photographs of 32 x 32 pixels in 10 classes.

    Downloaded on first use (170 MB) and verified by checksum.

    Args:
        root: Folder that holds, or will hold, `cifar-10-batches-py`.
        download: Whether a missing set is downloaded.
        mean: Mean of each channel on the 0..1 scale; the default is that of the training images.
        std: Standard deviation of each channel on the 0..1 scale; the default is that of the training images.
        **common: The arguments of `ImageDataModule`.

    References:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    _source = datasets.CIFAR10

    def __init__(
        self,
        *,
        root: str | Path = "data",
        download: bool = True,
        mean: tuple[float, ...] = CIFAR10_MEAN,
        std: tuple[float, ...] = CIFAR10_STD,
        **common: Any,  # the base's typed arguments; jsonargparse follows them there
    ) -> None:
        super().__init__(root=root, download=download, mean=mean, std=std, **common)

    @property
    def num_classes(self) -> int:
        """Ten, known before anything is downloaded."""
        return 10


class CIFAR100(_Cifar):
    """CIFAR-100: 50,000 train and 10,000 test photographs of 32 x 32 pixels in 100 classes.

    Downloaded on first use (169 MB) and verified by checksum. The labels are the 100 fine ones.

    Args:
        root: Folder that holds, or will hold, `cifar-100-python`.
        download: Whether a missing set is downloaded.
        mean: Mean of each channel on the 0..1 scale; the default is that of the training images.
        std: Standard deviation of each channel on the 0..1 scale; the default is that of the training images.
        **common: The arguments of `ImageDataModule`.

    References:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    _source = datasets.CIFAR100

    def __init__(
        self,
        *,
        root: str | Path = "data",
        download: bool = True,
        mean: tuple[float, ...] = CIFAR100_MEAN,
        std: tuple[float, ...] = CIFAR100_STD,
        **common: Any,  # the base's typed arguments; jsonargparse follows them there
    ) -> None:
        super().__init__(root=root, download=download, mean=mean, std=std, **common)

    @property
    def num_classes(self) -> int:
        """One hundred, known before anything is downloaded."""
        return 100
