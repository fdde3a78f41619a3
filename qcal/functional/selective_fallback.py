"""Selective fallback: a quantized network answers, and its least confident predictions are asked of the float one.

With images ordered by the quantized network's confidence, least confident first, `accuracy(k)` is that of a cascade in
which the first k images are answered by the float network and the others by the quantized one. Which of equally
confident images goes first is chance; everything here is the expected value over it, as in `qcal.functional.selective`.

References:
    Viola, Jones: Rapid Object Detection using a Boosted Cascade of Simple Features, CVPR 2001 (the idea of a cascade).
    Kouris, Venieris, Bouganis: CascadeCNN: Pushing the Performance Limits of Quantisation in Convolutional Neural
    Networks, FPL 2018 (a low-precision network that hands uncertain images to a high-precision one).
"""

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_confidence

__all__ = ["fallback_accuracy", "fallback_threshold", "smallest_fallback"]

_ROUNDING = 1e-12  # accuracies are counts over N: closer than this they are equal


def fallback_accuracy(quant_confidence: Tensor, quant_correct: Tensor, float_correct: Tensor) -> Tensor:
    """Accuracy when the k least confident images go to the float network, for k = 0..N, `(N + 1,)` float64.

    Args:
        quant_confidence: `(N,)` floating in [0, 1], of the quantized network (only the order matters).
        quant_correct: `(N,)` bool, whether the quantized network is right.
        float_correct: `(N,)` bool, whether the float network is right.

    Returns:
        Entry 0 is the accuracy of the quantized network, entry N that of the float network.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, confidences outside [0, 1] or NaN.

    Example:
        >>> confidence, quant = torch.tensor([0.9, 0.2, 0.6]), torch.tensor([True, False, False])
        >>> fallback_accuracy(confidence, quant, torch.tensor([True, True, False])).tolist()
        [0.3333333333333333, 0.6666666666666666, 0.6666666666666666, 0.6666666666666666]
    """
    check_confidence(quant_confidence, quant_correct)
    check_confidence(quant_confidence, float_correct)
    _, group, size = torch.unique(quant_confidence, return_inverse=True, return_counts=True)
    gain = torch.zeros_like(size).index_add_(0, group, float_correct.long() - quant_correct.long())
    # Whole numbers up to the start of each group, so that rounding cannot add up; inside a group the gain grows evenly.
    member = torch.repeat_interleave(torch.arange(len(size), device=size.device), size)
    rank = torch.arange(1, len(member) + 1, device=size.device)
    inside = (rank - (size.cumsum(0) - size)[member]).double()
    gained = (gain.cumsum(0) - gain)[member] + inside * (gain.double() / size)[member]
    right = quant_correct.sum() + torch.cat([gained.new_zeros(1), gained])
    return right / len(member)


def smallest_fallback(accuracy: Tensor, *, tolerance: float = 0.0) -> int:
    """The smallest k whose accuracy is that of the float network or better, less a tolerance.

    Args:
        accuracy: `(N + 1,)`, from `fallback_accuracy`; its last entry is the float network's.
        tolerance: Accuracy that may be missing, as a fraction in [0, 1].

    Returns:
        k in [0, N]; 0 when the quantized network is good enough by itself.

    Raises:
        ValueError: `accuracy` is not one-dimensional or is empty, or `tolerance` is out of its range.

    Example:
        >>> smallest_fallback(torch.tensor([0.5, 0.58, 0.6, 0.61, 0.6])), smallest_fallback(
        ...     torch.tensor([0.5, 0.58, 0.6, 0.61, 0.6]), tolerance=0.03)
        (2, 1)
    """
    if accuracy.ndim != 1 or len(accuracy) == 0:
        raise ValueError(
            f"`accuracy` must have shape (N + 1,), got {tuple(accuracy.shape)}. Pass the result of `fallback_accuracy`."
        )
    check_tolerance(tolerance)
    enough = accuracy >= accuracy[-1] - tolerance - _ROUNDING
    return int(torch.arange(len(accuracy), device=accuracy.device)[enough].amin())


def fallback_threshold(quant_confidence: Tensor, k: int) -> float:
    """The confidence up to which images are handed over so that at least the k least confident are; -inf for none.

    Example:
        >>> fallback_threshold(torch.tensor([0.9, 0.2, 0.6]), 2), fallback_threshold(torch.tensor([0.5, 0.5]), 0)
        (0.6000000238418579, -inf)
    """
    if not 0 <= k <= len(quant_confidence):
        raise ValueError(f"`k` must be in [0, {len(quant_confidence)}], the number of images, got {k}. Pass a count.")
    return float(quant_confidence.sort().values[k - 1]) if k else float("-inf")


def check_tolerance(tolerance: float) -> None:
    """Raise ValueError unless a tolerance is in [0, 1]."""
    if not 0 <= tolerance <= 1:
        raise ValueError(f"`tolerance` must be in [0, 1], got {tolerance}. Pass a share such as 0.001, not percent.")
