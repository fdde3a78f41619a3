"""Your own image files, one folder per class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from qcal.data.base import ImageDataModule
from qcal.data.image_files import ImageFiles, center_decode, find_image_files, random_decode
from qcal.data.images import Pool
from qcal.data.roles import PoolName, check_count

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageFolder(ImageDataModule):
    """Image files below `root/train/<class>/` and `root/val/<class>/`, decoded as they are needed.

    Training images are randomly cropped and mirrored, all others scaled and cropped at their centre. The second folder
    is the test pool; images for model selection and recalibration are taken from the first.

    Args:
        root: Folder that holds the two folders.
        train: Folder of the train pool, relative to root; null where no role needs training images.
        test: Folder of the test pool, relative to root; null where no role needs test images. `val` is where ImageNet
            and sets that follow it keep the images with public labels.
        image_size: Height and width in pixels of the images that the network gets.
        resize_size: Pixels that the shorter side is scaled to before the central crop.
        mean: Mean of each channel on the 0..1 scale; the default is ImageNet's, which pretrained networks expect.
        std: Standard deviation of each channel on the 0..1 scale; the default is ImageNet's.
        num_workers: Processes that decode. 2 is what any machine has; give each GPU as many as there are cores for it,
            because decoding is what it waits for.
        **common: The arguments of `ImageDataModule`.

    Raises:
        ValueError: Neither `train` nor `test` is given, or `resize_size` is smaller than `image_size`.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        train: str | None = "train",
        test: str | None = "val",
        image_size: int = 224,
        resize_size: int = 256,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        num_workers: int = 2,
        **common: Any,  # the base's typed arguments; jsonargparse follows them there
    ) -> None:
        if not train and not test:
            raise ValueError(
                f"{type(self).__name__} needs `train`, `test` or both, got neither. Name the folder of one of them."
            )
        if check_count("resize_size", resize_size) < check_count("image_size", image_size):
            raise ValueError(
                f"`resize_size` must be at least `image_size` ({image_size}), got {resize_size}: the central crop "
                "would get a black frame. Raise `resize_size`; 8/7 of `image_size` is usual."
            )
        super().__init__(mean=mean, std=std, num_workers=num_workers, **common)
        self.root = Path(root).expanduser()
        self.folders: dict[PoolName, str | None] = {"train": train or None, "test": test or None}
        self.image_size = image_size
        self.resize_size = resize_size

    def has_pool(self, pool: PoolName) -> bool:
        """Whether a folder was named for it."""
        return self.folders[pool] is not None

    def load(self, pool: PoolName) -> ImageFiles:
        """List the files of a pool; none is opened yet.

        Raises:
            ValueError: No folder was named for the pool, or it does not hold images of at least two classes.
            FileNotFoundError: The folder is not there.
        """
        folder = self.folders[pool]
        if folder is None:
            raise ValueError(
                f"{type(self).__name__} was asked for {pool} images, got `{pool}` null. Name their folder in `{pool}`, "
                "or leave out what needs them."
            )
        return find_image_files(
            self.root / folder,
            decode=center_decode(resize_size=self.resize_size, image_size=self.image_size),
            shape=(3, self.image_size, self.image_size),
        )

    def augmented(self, pool: Pool) -> Pool:
        """The same files, decoded with a random crop and mirrored half of the time."""
        if not isinstance(pool, ImageFiles):
            raise TypeError(
                f"`pool` must be the ImageFiles that `load` returned, got {type(pool).__name__}. "
                "Override `augmented` together with `load`."
            )
        return replace(pool, decode=random_decode(image_size=self.image_size))
