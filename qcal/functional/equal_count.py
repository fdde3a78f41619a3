"""Calibration error over equal-count bins: adaptive ECE, and the L2 error with its sampling bias taken out.

The bin rule. Confidences are sorted and cut into `num_bins` runs whose lengths differ by at most one (the longer ones
first). The edge between two runs is half-way between the confidences on both sides, and a bin is `(lo, hi]`. Samples
are then put into bins by their value: equal confidences are never separated, so the result does not depend on the order
of the samples. Where many are equal, bins are uneven and some stay empty; an empty bin contributes 0.
"""

import torch
from torch import Tensor

from qcal.functional.calibration import ReliabilityBins, calibration_error, check_binning
from qcal.functional.score_inputs import check_confidence

__all__ = ["adaptive_ece", "debiased_l2", "equal_count_bins"]


def equal_count_bins(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> ReliabilityBins:
    """Sort predictions into bins of (nearly) equal count.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        num_bins: B >= 1. With fewer samples than bins there is one bin a sample.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN, `num_bins` < 1.

    Example:
        >>> bins = equal_count_bins(torch.tensor([0.2, 0.4, 0.5, 0.9]), torch.tensor([True] * 4), num_bins=2)
        >>> bins.count.tolist(), [round(edge, 4) for edge in bins.edges.tolist()]
        ([2, 2], [0.0, 0.45, 1.0])
    """
    check_binning(num_bins, "qcal")
    check_confidence(confidence, correct)
    values = confidence.double()
    inner = _inner_edges(values.sort().values, min(num_bins, len(values)))
    index = torch.bucketize(values, inner)
    zeros = values.new_zeros(len(inner) + 1)
    count = zeros.long().index_add_(0, index, torch.ones_like(index))
    return ReliabilityBins(
        edges=torch.cat([values.new_zeros(1), inner, values.new_ones(1)]),
        count=count,
        confidence=zeros.index_add(0, index, values) / count,
        accuracy=zeros.index_add(0, index, correct.double()) / count,
    )


def adaptive_ece(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> Tensor:
    """Expected calibration error over equal-count bins: `sum_b n_b / N * |conf_b - acc_b|`.

    Equal-width bins put most samples of a confident network into one bin; these follow the data.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        num_bins: Number of bins; 15 as for `ece`.

    Returns:
        0-dim float64 in [0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: as `equal_count_bins`.

    Example:
        >>> adaptive_ece(torch.tensor([0.75, 0.75, 1.0]), torch.tensor([True, False, True]), num_bins=1).item()
        0.16666666666666674

    References:
        Nguyen, O'Connor: Posterior Calibration and Exploratory Analysis for NLP Models, EMNLP 2015 (section 3).
    """
    return calibration_error(equal_count_bins(confidence, correct, num_bins=num_bins), norm="l1")


def debiased_l2(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> Tensor:
    """L2 calibration error over equal-count bins, without the bias that sampling adds to it.

    `sqrt(max(0, sum_b n_b / N * [(conf_b - acc_b)^2 - acc_b (1 - acc_b) / (n_b - 1)]))`: the second term is the
    expected squared error of `acc_b` itself, so that a calibrated model scores about 0 rather than `sqrt(B / N)` or so.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        num_bins: Number of bins; each needs two samples.

    Returns:
        0-dim float64 in [0, 1]; 0 also where the estimate under the root is negative.

    Raises:
        TypeError: wrong types.
        ValueError: as `equal_count_bins`; a bin with a single sample, whose variance is unknown.

    Example:
        >>> debiased_l2(torch.tensor([0.75, 0.75]), torch.tensor([True, False]), num_bins=1).item()
        0.0

    References:
        Kumar, Liang, Ma: Verified Uncertainty Calibration, NeurIPS 2019, definition 5.1.
    """
    bins = equal_count_bins(confidence, correct, num_bins=num_bins)
    if bool((bins.count == 1).any()):
        raise ValueError(
            f"`debiased_l2` needs two samples or more in each bin, got {int((bins.count == 1).sum())} bins with one "
            f"({len(confidence)} samples, num_bins={num_bins}). Use fewer bins or more samples."
        )
    rate = torch.where(bins.count > 0, bins.accuracy, 0)
    noise = rate * (1 - rate) / (bins.count - 1)
    return ((bins.gap.square() - noise) * bins.share).sum().clamp(min=0).sqrt()


def _inner_edges(ordered: Tensor, num_bins: int) -> Tensor:
    """Half-way points between consecutive runs of the sorted confidences, `(num_bins - 1,)`."""
    short, longer = divmod(len(ordered), num_bins)
    run = torch.arange(1, num_bins, device=ordered.device)
    start = run * short + run.clamp(max=longer)
    return (ordered[start - 1] + ordered[start]) / 2
