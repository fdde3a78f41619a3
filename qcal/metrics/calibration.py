"""Calibration errors over equal-width bins, kept as sums per bin; the rule is in `qcal.functional.calibration`."""

from typing import Any

import torch
from torch import Tensor

from qcal.functional.calibration import (
    BinSums,
    Convention,
    ReliabilityBins,
    bin_sums,
    calibration_error,
    check_binning,
    num_stored_bins,
    reliability_from_sums,
)
from qcal.functional.classwise import class_bin_sums, classwise_ece_from_sums
from qcal.metrics.base import Inputs, ScoreMetric

__all__ = [
    "ClasswiseECE",
    "ExpectedCalibrationError",
    "MaximumCalibrationError",
    "OverECE",
    "RMSCalibrationError",
    "UnderECE",
]


class _Binned(ScoreMetric):
    """Sums per bin of confidence: three vectors, whatever the number of samples."""

    higher_is_better = False
    bin_count: Tensor
    bin_confidence: Tensor
    bin_correct: Tensor

    def __init__(
        self,
        num_bins: int = 15,
        convention: Convention = "qcal",
        inputs: Inputs = "logits",
        validate_args: bool = True,
        **kwargs: Any,  # torchmetrics'
    ) -> None:
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        check_binning(num_bins, convention)
        self.num_bins = num_bins
        self.convention: Convention = convention
        size = num_stored_bins(num_bins, convention)
        self.add_state("bin_count", default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("bin_confidence", default=torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("bin_correct", default=torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch to the sums."""
        confidence, correct = self._top_label(preds, target)
        sums = bin_sums(confidence, correct, num_bins=self.num_bins, convention=self.convention)
        self.bin_count = self.bin_count + sums.count
        self.bin_confidence = self.bin_confidence + sums.confidence
        self.bin_correct = self.bin_correct + sums.correct

    def bins(self) -> ReliabilityBins:
        """What a reliability diagram of all samples so far shows; of this process only, unless within `compute`.

        Raises:
            ValueError: no samples.
        """
        self._require_samples(self.bin_count.sum())
        sums = BinSums(count=self.bin_count, confidence=self.bin_confidence, correct=self.bin_correct)
        return reliability_from_sums(sums, num_bins=self.num_bins, convention=self.convention)


class ExpectedCalibrationError(_Binned):
    """ECE: `sum_b n_b / N * |conf_b - acc_b|`, 0-dim float64 in [0, 1]; an empty bin contributes 0.

    State: three vectors of `num_bins`.

    Args:
        num_bins: Equal-width bins `(lo, hi]`; 15 as in Guo et al. 2017.
        convention: `"qcal"`, or `"torchmetrics"` / `"netcal"` to bin as these packages do, for older tables.
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: `num_bins` < 1, an unknown convention; in `update`: wrong shapes or values; in `compute`: nothing
            seen.

    Example:
        >>> metric = ExpectedCalibrationError(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """L1 norm of the gaps."""
        return calibration_error(self.bins(), norm="l1")


class MaximumCalibrationError(_Binned):
    """MCE: the largest `|conf_b - acc_b|` of a non-empty bin; arguments as `ExpectedCalibrationError`.

    Example:
        >>> metric = MaximumCalibrationError(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Largest gap."""
        return calibration_error(self.bins(), norm="max")


class RMSCalibrationError(_Binned):
    """`sqrt(sum_b n_b / N * (conf_b - acc_b)^2)`; arguments as `ExpectedCalibrationError`.

    Example:
        >>> metric = RMSCalibrationError(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """L2 norm of the gaps."""
        return calibration_error(self.bins(), norm="l2")


class OverECE(_Binned):
    """Part of ECE from bins more confident than accurate, in [0, 1]; arguments as `ExpectedCalibrationError`.

    Example:
        >>> metric = OverECE(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Weighted positive gaps."""
        bins = self.bins()
        return (bins.gap.clamp(min=0) * bins.share).sum()


class UnderECE(_Binned):
    """Part of ECE from bins less confident than accurate, in [0, 1]; `OverECE + UnderECE = ECE`.

    Example:
        >>> metric = UnderECE(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Weighted negative gaps, as a positive number."""
        bins = self.bins()
        return (bins.gap.clamp(max=0).neg() * bins.share).sum()


class ClasswiseECE(ScoreMetric):
    """Mean over classes of the ECE of "is it class k" with probability `p_k`, 0-dim float64 in [0, 1].

    State: three tables `(num_classes, num_bins)`.

    Args:
        num_classes: C >= 2.
        num_bins: Equal-width bins `(lo, hi]` per class.
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`. Values are always looked at here.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: `num_classes` < 2, `num_bins` < 1; in `update`: wrong shapes or values; in `compute`: no samples.

    Example:
        >>> metric = ClasswiseECE(num_classes=2, inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False
    bin_count: Tensor
    bin_probability: Tensor
    bin_hits: Tensor

    def __init__(
        self,
        num_classes: int,
        num_bins: int = 15,
        inputs: Inputs = "logits",
        validate_args: bool = True,
        **kwargs: Any,  # torchmetrics'
    ) -> None:
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        check_binning(num_bins, "qcal")
        if num_classes < 2:
            raise ValueError(f"`num_classes` must be at least 2, got {num_classes}. Pass the number of model outputs.")
        self.num_classes = num_classes
        self.num_bins = num_bins
        shape = (num_classes, num_bins)
        self.add_state("bin_count", default=torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("bin_probability", default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("bin_hits", default=torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch to the sums.

        Raises:
            ValueError: another number of classes than the metric was built for.
        """
        probs = self._probs(preds, target)
        if probs.shape[1] != self.num_classes:
            raise ValueError(
                f"`preds` must have {self.num_classes} classes, got {probs.shape[1]}. "
                f"Build the metric with num_classes={probs.shape[1]}."
            )
        sums = class_bin_sums(probs, target, num_bins=self.num_bins)
        self.bin_count = self.bin_count + sums.count
        self.bin_probability = self.bin_probability + sums.confidence
        self.bin_hits = self.bin_hits + sums.correct

    def compute(self) -> Tensor:
        """Mean of the ECE of each class."""
        self._require_samples(self.bin_count.sum())
        return classwise_ece_from_sums(
            BinSums(count=self.bin_count, confidence=self.bin_probability, correct=self.bin_hits)
        )
