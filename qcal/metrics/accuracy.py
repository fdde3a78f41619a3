"""Top-k accuracy."""

from typing import Any

import torch
from torch import Tensor

from qcal.functional.confidence import top_k_correct
from qcal.metrics.base import Inputs, ScoreMetric

__all__ = ["Accuracy"]


class Accuracy(ScoreMetric):
    """Share of samples whose target is among the `top_k` highest scores, 0-dim float64 in [0, 1].

    Classes that tie are ranked by index, lowest first. State: two counts.

    Args:
        top_k: 1 for accuracy, 5 for the usual top-5; at most the number of classes.
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`. With `top_k` above 1 values are always looked at.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: `top_k` < 1; in `update`: wrong shapes or values, more than the classes; in `compute`: no samples.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.5000, dtype=torch.float64)
    """

    higher_is_better = True
    hits: Tensor
    count: Tensor

    def __init__(
        self, top_k: int = 1, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        if top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}. 1 is plain accuracy.")
        self.top_k = top_k
        self.add_state("hits", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the hits of a batch."""
        if self.top_k == 1:
            correct = self._top_label(preds, target)[1]
        else:
            scores = self._probs(preds, target) if self.inputs == "probs" else preds
            correct = top_k_correct(scores, target, k=self.top_k)
        self.hits = self.hits + correct.sum()
        self.count = self.count + len(correct)

    def compute(self) -> Tensor:
        """Hits over samples."""
        return self.hits / self._require_samples(self.count)
