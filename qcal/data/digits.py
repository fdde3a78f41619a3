"""The embedded data set: scikit-learn's handwritten digits, made hard enough to err on."""

from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcal.data.augment import CropAndFlip
from qcal.data.base import ImageDataModule
from qcal.data.images import Images
from qcal.data.roles import PoolName, check_count, shuffled

TEST_SIZE = 597  # leaves 1,200 for training; an accuracy of 80 % on 597 images has a standard error of 1.6 points
# Of the train pool's pixels on the 0..1 scale, before noise.
CLEAN_MEAN = 0.305
CLEAN_STD = 0.376
_WHITE = 16  # the set's largest grey value
_SPLIT_SEED = 0  # of the cut into train and test pool, which stands for a published split and so has no argument


class Digits(ImageDataModule):
    """1,797 real handwritten digits of 8 x 8 pixels with fixed pixel noise; needs no download.

    Clean, these digits are too easy to tell quantization settings apart. Gaussian noise is added once to each image,
    the same in every epoch and run, so that a good small network lands near 80 % accuracy. 1,200 images are the train
    pool, 597 the test pool.

    Args:
        noise_std: Standard deviation of the noise on the 0..1 scale of pixel values; 0 adds none. 0.35
            makes a good network err on about one image in five (measured: 78 to 83 % right, 8 to 32 channels wide).
        noise_seed: Seed of the noise.
        batch_size: Images per training step and device; small, for enough steps an epoch.
        val_size: Images for model selection, taken from the train pool.
        recalibration_size: Images for recalibrating probabilities, taken from the train pool.
        range_estimation_size: Images from train, without augmentation, on which activation ranges are estimated.
        augment: Whether training images are moved by up to one pixel (never mirrored: digits have a left and a right);
            off, because it was not seen to help on these 8 x 8 images.
        **common: The arguments of `ImageDataModule`.

    Raises:
        ValueError: `noise_std` is negative or not finite.

    Example:
        >>> data = Digits()
        >>> data.setup()
        >>> {name: role.size for name, role in data.roles.items()}
        {'train': 900, 'val': 150, 'recalibration': 150, 'range_estimation': 512, 'test': 597}

    References:
        E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
    """

    def __init__(
        self,
        *,
        noise_std: float = 0.35,
        noise_seed: int = 0,
        batch_size: int = 64,
        val_size: int = 150,
        recalibration_size: int = 150,
        range_estimation_size: int = 512,
        augment: bool = False,
        **common: Any,  # the base's typed arguments; jsonargparse follows them there
    ) -> None:
        if not 0 <= noise_std < float("inf"):
            raise ValueError(f"`noise_std` must be at least 0 and finite, got {noise_std}. Pass 0 for clean digits.")
        super().__init__(
            mean=(CLEAN_MEAN,),
            std=(sqrt(CLEAN_STD**2 + noise_std**2),),  # variances of independent things add
            batch_size=batch_size,
            val_size=val_size,
            recalibration_size=recalibration_size,
            range_estimation_size=range_estimation_size,
            augment=augment,
            **common,
        )
        self.noise_std = noise_std
        self.noise_seed = check_count("noise_seed", noise_seed, minimum=0)

    @property
    def num_classes(self) -> int:
        """Ten, known before anything is read."""
        return 10

    def augmentation(self) -> CropAndFlip:
        """Moves by one pixel; four would push an 8 x 8 digit out of the picture."""
        return CropAndFlip(padding=1, flip=False)

    def load(self, pool: PoolName) -> Images:
        """The images of `pool`, with noise."""
        from sklearn.datasets import (
            load_digits,
        )  # here, because importing it costs seconds that `--help` need not spend

        bunch = load_digits()
        order = shuffled(len(bunch.target), seed=_SPLIT_SEED)
        chosen = order[:TEST_SIZE] if pool == "test" else order[TEST_SIZE:]
        y = torch.from_numpy(bunch.target.astype(np.int64))[chosen]
        x = self._with_noise(bunch.images).float().unsqueeze(1)[chosen]
        return Images(x, y, tuple(str(name) for name in bunch.target_names), source=f"digits ({pool})")

    def _with_noise(self, grey: "np.ndarray[Any, np.dtype[np.float64]]") -> Tensor:  # Any: numpy's own shape parameter
        noise = np.random.default_rng(self.noise_seed).standard_normal(grey.shape)
        return torch.from_numpy(grey / _WHITE + self.noise_std * noise)
