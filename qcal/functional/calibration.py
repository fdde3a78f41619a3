"""Binned calibration error of the top label: reliability bins, ECE, MCE, RMS, and their one-sided parts.

The bin rule, once. `num_bins` equal-width bins with edges `i / num_bins` in float64; a bin is `(lo, hi]`, so that
confidence 1 is in the last one, and confidence 0 in the first. Confidences are compared with the edges in float64,
whatever their own type. A bin that is empty contributes 0. Sums over a bin are float64, counts are int64.

Other packages bin otherwise; `convention=` reproduces two of them, for comparison with older tables:

- `"torchmetrics"` (1.9): `[lo, hi)`, confidences and edges in float32, and one more bin for confidence exactly 1.
- `"netcal"` (1.4, given float64): `[lo, hi)`, the last bin closed; confidences are first clipped to `[eps, 1 - eps]`.
  (Given float32, netcal counts by float64 edges and averages by float32 edges; that is not reproduced.)

References:
    Naeini, Cooper, Hauskrecht: Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015 (ECE, MCE).
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017 (equations 3 and 5).
    Hendrycks, Mazeika, Dietterich: Deep Anomaly Detection with Outlier Exposure, ICLR 2019 (RMS).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_confidence

__all__ = [
    "BinSums",
    "Convention",
    "Norm",
    "ReliabilityBins",
    "bin_index",
    "bin_sums",
    "calibration_error",
    "check_binning",
    "ece",
    "mce",
    "num_stored_bins",
    "over_ece",
    "reliability_bins",
    "reliability_from_sums",
    "rms_calibration_error",
    "under_ece",
]

Convention = Literal["qcal", "torchmetrics", "netcal"]
Norm = Literal["l1", "max", "l2"]

_EXACT_PRODUCTS = 1 << 28  # float32 (24 bits) times an integer below this fits the 53 bits of float64


@dataclass(frozen=True)
class ReliabilityBins:
    """What a reliability diagram shows: B bins of confidence.

    Attributes:
        edges: `(B + 1,)` float64, from 0 to 1.
        count: `(B,)` int64, samples in each bin.
        confidence: `(B,)` float64, mean confidence in each bin; NaN where it is empty.
        accuracy: `(B,)` float64, share of correct predictions in each bin; NaN where it is empty.
    """

    edges: Tensor
    count: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def gap(self) -> Tensor:
        """`confidence - accuracy` of each bin, `(B,)` float64; 0 where the bin is empty."""
        return torch.where(self.count > 0, self.confidence - self.accuracy, 0)

    @property
    def share(self) -> Tensor:
        """Share of all samples in each bin, `(B,)` float64; sums to 1."""
        return self.count.double() / self.count.sum()


@dataclass(frozen=True)
class BinSums:
    """Sums from which every binned score follows; those of two batches add up to those of both.

    Attributes:
        count: `(..., B)` int64, samples.
        confidence: `(..., B)` float64, sum of confidences.
        correct: `(..., B)` int64, correct predictions.
    """

    count: Tensor
    confidence: Tensor
    correct: Tensor


def reliability_bins(
    confidence: Tensor, correct: Tensor, *, num_bins: int = 15, convention: Convention = "qcal"
) -> ReliabilityBins:
    """Sort predictions into equal-width bins of confidence, `(lo, hi]`.

    Args:
        confidence: `(N,)` floating in [0, 1], top-class probabilities.
        correct: `(N,)` bool.
        num_bins: B >= 1; 15 as in Guo et al. 2017.
        convention: Whose bin rule; see the module. `"torchmetrics"` gives B + 1 bins, the last holding confidence 1.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN, `num_bins` < 1, an unknown convention.

    Example:
        >>> bins = reliability_bins(torch.tensor([0.5, 0.6, 1.0]), torch.tensor([True, False, True]), num_bins=2)
        >>> bins.count.tolist(), bins.accuracy.tolist()
        ([1, 2], [1.0, 0.5])
    """
    check_binning(num_bins, convention)
    check_confidence(confidence, correct)
    sums = bin_sums(confidence, correct, num_bins=num_bins, convention=convention)
    return reliability_from_sums(sums, num_bins=num_bins, convention=convention)


def ece(confidence: Tensor, correct: Tensor, *, num_bins: int = 15, convention: Convention = "qcal") -> Tensor:
    """Expected calibration error: `sum_b n_b / N * |conf_b - acc_b|` over equal-width bins `(lo, hi]`.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        num_bins: Number of bins; 15 as in Guo et al. 2017.
        convention: Whose bin rule; see the module.

    Returns:
        0-dim float64 in [0, 1]; an empty bin contributes 0. It is biased upwards on small samples (see `debiased_l2`).

    Raises:
        TypeError: wrong types.
        ValueError: as `reliability_bins`.

    Example:
        >>> ece(torch.tensor([0.75, 0.75]), torch.tensor([True, False])).item()
        0.25
    """
    return calibration_error(reliability_bins(confidence, correct, num_bins=num_bins, convention=convention), norm="l1")


def mce(confidence: Tensor, correct: Tensor, *, num_bins: int = 15, convention: Convention = "qcal") -> Tensor:
    """Maximum calibration error: the largest `|conf_b - acc_b|` of a non-empty bin; arguments as `ece`.

    Example:
        >>> mce(torch.tensor([0.75, 0.75, 0.25]), torch.tensor([True, False, False])).item()
        0.25
    """
    return calibration_error(
        reliability_bins(confidence, correct, num_bins=num_bins, convention=convention), norm="max"
    )


def rms_calibration_error(
    confidence: Tensor, correct: Tensor, *, num_bins: int = 15, convention: Convention = "qcal"
) -> Tensor:
    """Root mean square calibration error: `sqrt(sum_b n_b / N * (conf_b - acc_b)^2)`; arguments as `ece`.

    Example:
        >>> rms_calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([True, False])).item()
        0.25
    """
    return calibration_error(reliability_bins(confidence, correct, num_bins=num_bins, convention=convention), norm="l2")


def over_ece(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> Tensor:
    """The part of `ece` from bins more confident than accurate: `sum_b n_b / N * max(conf_b - acc_b, 0)`.

    Example:
        >>> over_ece(torch.tensor([0.75, 0.75, 0.25, 0.25]), torch.tensor([True, False, True, False])).item()
        0.125
    """
    bins = reliability_bins(confidence, correct, num_bins=num_bins)
    return (bins.gap.clamp(min=0) * bins.share).sum()


def under_ece(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> Tensor:
    """The part of `ece` from bins less confident than accurate, as a positive number; `over_ece + under_ece = ece`.

    Example:
        >>> under_ece(torch.tensor([0.25, 0.25]), torch.tensor([True, False])).item()
        0.25
    """
    bins = reliability_bins(confidence, correct, num_bins=num_bins)
    return (bins.gap.clamp(max=0).neg() * bins.share).sum()


def calibration_error(bins: ReliabilityBins, *, norm: Norm = "l1") -> Tensor:
    """One number from reliability bins: `"l1"` is ECE, `"max"` MCE, `"l2"` RMS; 0-dim float64 in [0, 1].

    Raises:
        ValueError: an unknown norm.

    Example:
        >>> bins = reliability_bins(torch.tensor([0.75, 0.75]), torch.tensor([True, False]))
        >>> calibration_error(bins, norm="max").item()
        0.25
    """
    if norm == "l1":
        return (bins.gap.abs() * bins.share).sum()
    if norm == "max":
        return bins.gap.abs().amax()
    if norm == "l2":
        return (bins.gap.square() * bins.share).sum().sqrt()
    raise ValueError(f"`norm` must be one of {get_args(Norm)}, got {norm!r}. Use 'l1' for ECE.")


def check_binning(num_bins: int, convention: str) -> None:
    """Check the two choices of a bin rule.

    Raises:
        ValueError: `num_bins` < 1 or an unknown convention.
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}. 15 is the usual choice.")
    if convention not in get_args(Convention):
        raise ValueError(
            f"`convention` must be one of {get_args(Convention)}, got {convention!r}. Use 'qcal' for (lo, hi]."
        )


def num_stored_bins(num_bins: int, convention: Convention) -> int:
    """How many bins a convention keeps: `num_bins`, and one more for torchmetrics' bin of confidence exactly 1."""
    return num_bins + 1 if convention == "torchmetrics" else num_bins


def bin_sums(confidence: Tensor, correct: Tensor, *, num_bins: int, convention: Convention = "qcal") -> BinSums:
    """Counts and sums per bin, `(B,)` each; the inputs are taken as checked, so that an update waits for no device.

    Example:
        >>> bin_sums(torch.tensor([0.5, 0.6]), torch.tensor([True, False]), num_bins=2).count
        tensor([1, 1])
    """
    if convention == "netcal":
        eps = torch.finfo(torch.float64).eps
        confidence = confidence.double().clamp(eps, 1 - eps)
    elif convention == "torchmetrics":
        confidence = confidence.float()
    index = bin_index(confidence, num_bins, convention)
    size = num_stored_bins(num_bins, convention)
    # index_add_, not bincount: it has a deterministic form on GPUs and does not read the largest index back.
    return BinSums(
        count=correct.new_zeros(size, dtype=torch.int64).index_add_(0, index, torch.ones_like(index)),
        confidence=confidence.new_zeros(size, dtype=torch.float64).index_add_(0, index, confidence.double()),
        correct=correct.new_zeros(size, dtype=torch.int64).index_add_(0, index, correct.long()),
    )


def reliability_from_sums(sums: BinSums, *, num_bins: int, convention: Convention = "qcal") -> ReliabilityBins:
    """Means per bin from `BinSums` of shape `(B,)`; 0 / 0 is NaN, as `ReliabilityBins` says of an empty bin."""
    edges = _edges(num_bins, convention, sums.count.device)
    return ReliabilityBins(
        edges=edges,
        count=sums.count,
        confidence=sums.confidence / sums.count,
        accuracy=sums.correct.double() / sums.count,
    )


def bin_index(confidence: Tensor, num_bins: int, convention: Convention = "qcal") -> Tensor:
    """The bin of each confidence, int64 of the same shape; values are taken as checked.

    Example:
        >>> bin_index(torch.tensor([0.0, 0.5, 0.75, 1.0]), 2)
        tensor([0, 0, 1, 1])
    """
    if convention == "torchmetrics":
        edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float32, device=confidence.device)
        return torch.bucketize(confidence.float(), edges, right=True) - 1
    if convention == "qcal" and confidence.dtype == torch.float32 and num_bins < _EXACT_PRODUCTS:
        # The product is exact in float64, and no float32 lies between i / num_bins and its rounding to float64: this is
        # the comparison with the edges, without a search. The bin below 0 is that of confidence 0.
        return (confidence.double() * num_bins).ceil_().sub_(1).long().clamp_(0, num_bins - 1)
    inner = _edges(num_bins, convention, confidence.device)[1:-1]
    return torch.bucketize(confidence.double(), inner, right=convention == "netcal")


def _edges(num_bins: int, convention: Convention, device: torch.device) -> Tensor:
    steps = torch.arange(num_bins + 1, dtype=torch.float64, device=device)
    if convention == "qcal":
        return steps / num_bins  # each edge is the float64 nearest to i / num_bins
    if convention == "torchmetrics":
        edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float32, device=device).double()
        return torch.cat([edges, edges[-1:]])
    edges = steps * (1 / num_bins)  # as numpy.linspace computes it
    edges[-1] = 1.0
    return edges
