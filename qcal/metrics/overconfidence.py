"""Signed difference of confidence and accuracy, and its parts."""

from typing import Any

import torch
from torch import Tensor

from qcal.metrics.base import Inputs, ScoreMetric

__all__ = ["MeanConfidence", "Overconfidence", "OverconfidenceOnCorrect", "OverconfidenceOnWrong"]


class _ConfidenceSums(ScoreMetric):
    """Sums of confidence on correct and on wrong predictions: two float64 sums and two counts."""

    confidence_correct: Tensor
    confidence_wrong: Tensor
    num_correct: Tensor
    num_wrong: Tensor

    def __init__(
        self, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        for name in ("confidence_correct", "confidence_wrong"):
            self.add_state(name, default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("num_correct", "num_wrong"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch to the sums."""
        confidence, correct = self._top_label(preds, target)
        confidence, hits = confidence.double(), correct.sum()
        on_correct = torch.where(correct, confidence, 0).sum()
        self.confidence_correct = self.confidence_correct + on_correct
        self.confidence_wrong = self.confidence_wrong + confidence.sum() - on_correct
        self.num_correct = self.num_correct + hits
        self.num_wrong = self.num_wrong + len(correct) - hits

    def _count(self) -> Tensor:
        return self._require_samples(self.num_correct + self.num_wrong)


class Overconfidence(_ConfidenceSums):
    """Mean confidence minus accuracy, signed, 0-dim float64 in [-1, 1]; positive: more confident than right.

    It is the sum of `OverconfidenceOnCorrect` and `OverconfidenceOnWrong`. State: two sums and two counts.

    Args:
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: in `update`: wrong shapes or values; in `compute`: no samples.

    Example:
        >>> metric = Overconfidence(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.3750, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Mean confidence minus accuracy."""
        count = self._count()
        return (self.confidence_correct - self.num_correct + self.confidence_wrong) / count


class OverconfidenceOnCorrect(_ConfidenceSums):
    """Part of overconfidence from correct predictions: `sum over correct (p_i - 1) / N`, in [-1, 0].

    Example:
        >>> metric = OverconfidenceOnCorrect(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(-0.1250, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Missing confidence of the correct predictions, over all samples."""
        count = self._count()
        return (self.confidence_correct - self.num_correct) / count


class OverconfidenceOnWrong(_ConfidenceSums):
    """Part of overconfidence from wrong predictions: `sum over wrong (p_i) / N`, in [0, 1].

    Example:
        >>> metric = OverconfidenceOnWrong(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Confidence of the wrong predictions, over all samples."""
        count = self._count()
        return self.confidence_wrong / count


class MeanConfidence(_ConfidenceSums):
    """Mean top-class probability, 0-dim float64 in (0, 1].

    Example:
        >>> metric = MeanConfidence(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.8750, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """Sum of confidences over samples."""
        count = self._count()
        return (self.confidence_correct + self.confidence_wrong) / count
