"""Classwise calibration error: every class's probability is judged, not only that of the top class.

The bin rule is that of `qcal.functional.calibration`: equal-width bins `(lo, hi]`, edges in float64.

References:
    Nixon, Dusenberry, Zhang, Jerfel, Tran: Measuring Calibration in Deep Learning, CVPR workshops 2019 (static
    calibration error); Kull et al.: Beyond Temperature Scaling, NeurIPS 2019 (classwise ECE).
"""

import torch
from torch import Tensor

from qcal.functional.calibration import BinSums, bin_index, check_binning
from qcal.functional.score_inputs import check_class_target, check_probs

__all__ = ["class_bin_sums", "classwise_ece", "classwise_ece_from_sums"]


def classwise_ece(probs: Tensor, target: Tensor, *, num_bins: int = 15) -> Tensor:
    """Classwise ECE: the mean over classes of the ECE of "is it class k" with probability `p_k`.

    `1/C * sum_k sum_b n_bk / N * |mean p_k in b - share of class k in b|`, equal-width bins `(lo, hi]` per class.

    Args:
        probs: `(N, C)` floating rows that sum to 1.
        target: `(N,)` int64 class indices.
        num_bins: Number of bins per class.

    Returns:
        0-dim float64 in [0, 1]. It shrinks with the number of classes, since most `p_k` are near 0.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, rows that are no distributions, targets out of range, `num_bins` < 1.

    Example:
        >>> round(classwise_ece(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])).item(), 12)
        0.25
    """
    check_binning(num_bins, "qcal")
    probs = check_probs(probs)
    check_class_target(target, probs.shape[0], probs.shape[1])
    return classwise_ece_from_sums(class_bin_sums(probs, target, num_bins=num_bins))


def class_bin_sums(probs: Tensor, target: Tensor, *, num_bins: int) -> BinSums:
    """Counts and sums per class and bin, `(C, B)` each, of checked inputs; "correct" counts samples of the class."""
    num_classes = probs.shape[1]
    probs = probs.clamp(max=1)  # a row that sums to 1 + rounding
    offset = torch.arange(num_classes, device=probs.device) * num_bins
    index = bin_index(probs, num_bins) + offset
    own = index.gather(1, target[:, None]).squeeze(1)
    flat, size = index.flatten(), num_classes * num_bins
    shape = (num_classes, num_bins)
    return BinSums(
        count=flat.new_zeros(size).index_add_(0, flat, torch.ones_like(flat)).view(shape),
        confidence=probs.new_zeros(size, dtype=torch.float64).index_add_(0, flat, probs.double().flatten()).view(shape),
        correct=flat.new_zeros(size).index_add_(0, own, torch.ones_like(own)).view(shape),
    )


def classwise_ece_from_sums(sums: BinSums) -> Tensor:
    """Classwise ECE from `BinSums` of shape `(C, B)`, 0-dim float64."""
    # count * |mean p - share of the class| is the difference of the sums; an empty bin gives 0 without a division.
    gaps = (sums.confidence - sums.correct).abs().sum(dim=1) / sums.count.sum(dim=1)
    return gaps.mean()
