"""ImageNet (ILSVRC 2012), from its official archives or from extracted folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torchvision import datasets  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped
from torchvision.datasets.imagenet import ARCHIVE_META, META_FILE, load_meta_file  # type: ignore[import-untyped, unused-ignore]  # no annotations shipped

from qcal.data.image_files import ImageFiles
from qcal.data.image_folder import ImageFolder
from qcal.data.roles import PoolName

# The folders into which torchvision extracts each pool.
_SPLITS: dict[PoolName, str] = {"train": "train", "test": "val"}


class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012): 1.28 million train and 50,000 validation photographs in 1,000 classes.

    The set may not be downloaded without registering. Either put the official archives into `root`
    (`ILSVRC2012_devkit_t12.tar.gz` with `ILSVRC2012_img_train.tar`, `ILSVRC2012_img_val.tar`): they are verified by
    checksum and extracted on first use. Or point `root` to extracted folders, `train/<wnid>/*.JPEG` and
    `val/<wnid>/*.JPEG`. The validation images are the test pool.

    Args:
        root: Folder with the archives or with the folders `train` and `val`.
        train: `train`; null where no role needs training images.
        test: `val`; null where no role needs test images.
        batch_size: Images per training step and device; 256 as He et al. (2016) train.
        val_size: Images for model selection, taken from the train pool.
        recalibration_size: Images for recalibrating probabilities, taken from the train pool.
        **common: The arguments of `ImageFolder` and `ImageDataModule`.

    References:
        O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV, 2015.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        train: str | None = "train",
        test: str | None = "val",
        batch_size: int = 256,
        val_size: int = 10000,
        recalibration_size: int = 10000,
        **common: Any,  # the bases' typed arguments; jsonargparse follows them there
    ) -> None:
        super().__init__(
            root=root,
            train=train,
            test=test,
            batch_size=batch_size,
            val_size=val_size,
            recalibration_size=recalibration_size,
            **common,
        )

    def prepare_data(self) -> None:
        """Verify and extract the official archives of the pools that have no folder yet."""
        for pool, split in _SPLITS.items():
            archive = self.root / ARCHIVE_META[split][0]
            if self.has_pool(pool) and archive.is_file() and not (self.root / split).is_dir():
                datasets.ImageNet(self.root, split=split)

    def load(self, pool: PoolName) -> ImageFiles:
        """List the files of a pool; classes are named in words if the development kit was there, else by their wnid.

        Raises:
            ValueError: No folder was named for the pool, its extraction was interrupted, or it does not hold images of
                at least two classes.
            FileNotFoundError: The folder is not there.
        """
        folder = self.folders[pool]
        if folder is not None:
            _check_extracted(self.root / folder, archive=ARCHIVE_META[_SPLITS[pool]][0])
        files = super().load(pool)
        if not (self.root / META_FILE).is_file():
            return files
        names, _ = load_meta_file(self.root)
        return replace(files, classes=tuple(", ".join(names[wnid]) for wnid in files.classes))


def _check_extracted(folder: Path, *, archive: str) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"ImageNet needs the archives {ARCHIVE_META['devkit'][0]} and {archive} in {str(folder.parent)!r}, "
            f"or the folder {str(folder)!r} with a folder per class; got neither (seen from {Path.cwd()}). "
            "Correct `root`."
        )
    # Extraction leaves archives or images beside the class folders until its last step.
    loose = next((path for pattern in ("*.tar", "*.JPEG") for path in folder.glob(pattern)), None)
    if loose is not None:
        raise ValueError(
            f"{str(folder)!r} must hold nothing but class folders, got {loose.name} beside them: an extraction was "
            "interrupted. Remove the folder, so that the next run extracts it again."
        )
