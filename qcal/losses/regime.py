"""What every training loss says about itself."""

import inspect
from collections.abc import Mapping
from typing import ClassVar, Literal

from torch import Tensor, nn

__all__ = ["Direction", "Neutral", "RegimeLoss"]

Direction = Literal["under", "over", "calibrating", "either"]
Neutral = Mapping[str, float]


class RegimeLoss(nn.Module):
    """A training loss that moves confidence on purpose: `loss(logits, target)` gives the batch's mean, 0-dim.

    Subclasses take plain numbers, keep each under its argument's name, and refuse values out of range when they are
    built, with the same message as their functional form.

    Attributes:
        direction: Where training with it moves the confidence of the raw logits, beside the posterior's: "under",
            "over", "calibrating" (towards it), or "either", by the sign of its argument.
        neutral: Arguments at which the loss *is* cross-entropy.

    Example:
        >>> from qcal.losses import FocalLoss
        >>> FocalLoss(gamma=2), FocalLoss.direction, FocalLoss.neutral
        (FocalLoss(gamma=2.0), 'under', {'gamma': 0.0})
    """

    direction: ClassVar[Direction]
    neutral: ClassVar[Neutral]

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against `target`, 0-dim."""
        raise NotImplementedError(f"{type(self).__name__} must define `forward(logits, target)`.")

    def extra_repr(self) -> str:
        """Return the arguments the loss was built with."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in inspect.signature(type(self)).parameters)
