"""Calibration errors as sums over images, so that they can be resampled: columns to add up, and what is made of them.

Binned and smooth calibration error have one form: with residuals `r_i = p_i - c_i` (confidence minus correctness) and
weights `w_ij >= 0` that share image i among places j,

    error = sum_j |sum_i w_ij r_i| / N.

For the ECE the places are bins and `w` is 0 or 1; for the smooth ECE they are points of [0, 1] and `w` is a kernel.
The table `w_ij r_i` is made once; every resample of the images then costs its column sums.
"""

import math

import torch
from torch import Tensor

from qcal.functional.calibration import bin_index, check_binning
from qcal.functional.score_inputs import check_confidence

__all__ = ["error_from_sums", "residuals_by_bin", "residuals_by_kernel"]

_POINTS_PER_BANDWIDTH = 2  # the midpoint rule then errs less on the smoothed residuals than float32 does
_FEWEST_POINTS, _MOST_POINTS = 32, 512


def residuals_by_bin(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> Tensor:
    """Residuals `p_i - c_i`, each in the column of its equal-width bin `(lo, hi]`, `(N, B)` float64.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        num_bins: B >= 1; 15 as for `ece`.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN, `num_bins` < 1.

    Example:
        >>> terms = residuals_by_bin(torch.tensor([0.75, 0.75, 0.25]), torch.tensor([True, False, False]), num_bins=2)
        >>> terms.tolist(), round(error_from_sums(terms.sum(dim=0), 3).item(), 6)
        ([[0.0, -0.25], [0.0, 0.75], [0.25, 0.0]], 0.25)
    """
    check_binning(num_bins, "qcal")
    check_confidence(confidence, correct)
    residual = confidence.double() - correct.double()
    table = residual.new_zeros(len(residual), num_bins)
    return table.scatter_(1, bin_index(confidence, num_bins)[:, None], residual[:, None])


def residuals_by_kernel(confidence: Tensor, correct: Tensor, *, bandwidth: float) -> Tensor:
    """Residuals `p_i - c_i`, each shared among points of [0, 1] by a reflected Gaussian, `(N, J)` float64.

    The J points are the midpoints of equal cells, two to a bandwidth (at least 32, at most 512); rows sum to their
    residual. Below 1/256 the kernel is as wide as the cells can show, 1/256.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        bandwidth: Standard deviation of the Gaussian before reflection, in (0, 1]; `smooth_ece_bandwidth` finds the
            one of the smooth ECE.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN, `bandwidth` outside (0, 1].

    Example:
        >>> terms = residuals_by_kernel(torch.tensor([0.75, 1.0]), torch.tensor([False, False]), bandwidth=0.1)
        >>> terms.shape, round(error_from_sums(terms.sum(dim=0), 2).item(), 9)
        (torch.Size([2, 32]), 0.875)

    References:
        Blasiok, Nakkiran: Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing, ICLR 2024, section 3.
    """
    if not 0 < bandwidth <= 1:
        raise ValueError(f"`bandwidth` must be in (0, 1], got {bandwidth}. It is a width on the axis of confidence.")
    check_confidence(confidence, correct)
    num_points = min(_MOST_POINTS, max(_FEWEST_POINTS, math.ceil(_POINTS_PER_BANDWIDTH / bandwidth)))
    width = max(bandwidth, _POINTS_PER_BANDWIDTH / num_points) if num_points == _MOST_POINTS else bandwidth
    point = (torch.arange(num_points, dtype=torch.float64, device=confidence.device) + 0.5) / num_points
    at = confidence.double()[:, None]
    weight = torch.zeros(len(confidence), num_points, dtype=torch.float64, device=confidence.device)
    # Mirror images at -p and 2 - p, and their own; four widths beyond, nothing is left of a Gaussian.
    for turn in range(-math.ceil(4 * width), math.ceil(4 * width) + 1):
        for mirrored in (at, -at):
            weight += (((point - mirrored - 2 * turn) / width).square_().mul_(-0.5)).exp_()
    weight /= weight.sum(dim=1, keepdim=True)
    return weight.mul_(at - correct.double()[:, None])


def error_from_sums(sums: Tensor, num_samples: int) -> Tensor:
    """The calibration error of column sums `(..., J)` over `num_samples` images: `sum_j |sums_j| / N`, `(...)` float64.

    Example:
        >>> error_from_sums(torch.tensor([[1.0, -1.0], [0.5, 0.0]]), 4).tolist()
        [0.5, 0.125]
    """
    return sums.double().abs().sum(dim=-1) / num_samples
