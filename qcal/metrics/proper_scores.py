"""Negative log-likelihood and Brier scores, kept as one sum and one count each."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from qcal.functional.proper_scores import brier_per_sample, nll_from_probs, nll_per_sample
from qcal.metrics.base import Inputs, ScoreMetric

__all__ = ["BrierScore", "NegativeLogLikelihood", "TopLabelBrier"]


class _MeanScore(ScoreMetric):
    """Mean of a score per sample: one float64 sum and one count."""

    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(
        self, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        self.add_state("total", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch to the sum."""
        self.total = self.total + self._batch_total(preds, target)
        self.count = self.count + len(target)

    def compute(self) -> Tensor:
        """Sum over samples, divided by their number."""
        return self.total / self._require_samples(self.count)

    @abstractmethod
    def _batch_total(self, preds: Tensor, target: Tensor) -> Tensor:
        """Sum of the scores of a batch, 0-dim float64."""


class NegativeLogLikelihood(_MeanScore):
    """Mean `-log p[target]`, in nats, 0-dim float64 >= 0.

    From logits it is finite. From probabilities it is infinite if a target has probability 0: nothing is clipped.
    State: one sum and one count.

    Args:
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: in `update`: wrong shapes or values; in `compute`: no samples.

    Example:
        >>> metric = NegativeLogLikelihood()
        >>> metric.update(torch.zeros(3, 10), torch.tensor([0, 4, 9]))
        >>> metric.compute()
        tensor(2.3026, dtype=torch.float64)
    """

    def _batch_total(self, preds: Tensor, target: Tensor) -> Tensor:
        if self.inputs == "probs":
            return nll_from_probs(preds, target) * len(target)
        return nll_per_sample(preds, target, validate=self.validate_args).sum()


class BrierScore(_MeanScore):
    """Mean of `sum_k (p_k - [k = target])^2`, 0-dim float64 in [0, 2].

    State: one sum and one count.

    Args:
        inputs: `"logits"` or `"probs"`.
        validate_args: See `ScoreMetric`; values are always looked at here.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: in `update`: wrong shapes or values; in `compute`: no samples.

    Example:
        >>> metric = BrierScore()
        >>> metric.update(torch.zeros(1, 2), torch.tensor([0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    def _batch_total(self, preds: Tensor, target: Tensor) -> Tensor:
        return brier_per_sample(self._probs(preds, target), target).sum()


class TopLabelBrier(_MeanScore):
    """Mean of `(confidence - correct)^2`, 0-dim float64 in [0, 1]; arguments as `NegativeLogLikelihood`.

    Example:
        >>> metric = TopLabelBrier()
        >>> metric.update(torch.zeros(2, 2), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def _batch_total(self, preds: Tensor, target: Tensor) -> Tensor:
        confidence, correct = self._top_label(preds, target)
        return (confidence.double() - correct.double()).square().sum()
