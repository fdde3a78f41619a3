"""Random crops and flips of whole batches: tensor operations, no loop over images.

The usual augmentation of small images (He et al. 2016, section 4.2): zeros around the *raw* image, so black before
normalisation, a random crop of the old size, and a mirror image half of the time.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, *, padding: int) -> Tensor:
    """Each image moved by its own whole number of pixels in `[-padding, padding]`, zeros moving in.

    Args:
        images: `(N, C, H, W)`, any dtype; raw pixel values, in which 0 is black.
        padding: Largest move in pixels along each axis, at least 0.

    Returns:
        `(N, C, H, W)` of the same dtype. Draws from torch's global generator.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> random_crop(torch.ones(1, 1, 3, 3), padding=1).sum()
        tensor(4.)
    """
    count, _, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 2p+1, 2p+1, H, W)
    top, left = torch.randint(0, 2 * padding + 1, (2, count), device=images.device)
    return windows[torch.arange(count, device=images.device), :, top, left]


def random_flip(images: Tensor) -> Tensor:
    """Each image mirrored left to right with probability one half.

    Args:
        images: `(N, C, H, W)`, any dtype.

    Returns:
        `(N, C, H, W)` of the same dtype. Draws from torch's global generator.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> random_flip(torch.arange(2).expand(4, 1, 1, 2)).flatten(1)
        tensor([[1, 0],
                [0, 1],
                [1, 0],
                [1, 0]])
    """
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


@dataclass(frozen=True)
class CropAndFlip:
    """`random_crop`, then `random_flip` if `flip`; a value that worker processes can be sent.

    Args:
        padding: Largest move in pixels; 0 moves nothing.
        flip: Whether a mirror image is still an image of its class.

    Example:
        >>> CropAndFlip(padding=4, flip=True)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 3, 32, 32])
    """

    padding: int
    flip: bool

    def __call__(self, images: Tensor) -> Tensor:
        """`(N, C, H, W)` to the same shape and dtype."""
        moved = random_crop(images, padding=self.padding) if self.padding else images
        return random_flip(moved) if self.flip else moved
