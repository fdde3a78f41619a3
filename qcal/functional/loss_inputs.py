"""What every training loss asks of its inputs, and the two readings of a target it needs.

One door for all losses: `checked_logits` looks at shapes and types (never at values, which would make the host wait for
the device in every training step) and lifts half precision to float32, so that a loss is the same number inside and
outside autocast. `Interval` is the allowed range of a hyper-parameter, checked when a loss module is built and again by
its functional form.

A target is a class index per sample, `(N,)` int64, or (where a loss is linear in the target) a distribution per sample,
`(N, C)`, as mixup and CutMix make it. `target_log_probs` turns both into log-probabilities and the mass they carry, so
that a loss is written once.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["STEEPEST", "Interval", "checked_logits", "cross_entropy", "target_distribution", "target_log_probs"]

# Largest strength of a confidence bonus (inverse focal's gamma, a negative confidence penalty) at which the loss still
# falls everywhere as the true class's probability p rises: 1 / max(-p log(p) / (1 + p)) = 1 / max(p log((1 - p) / p)) =
# 1 / W(1/e) = 3.5911, with Lambert's W. Beyond it a wrong sample can be pushed further from its label.
STEEPEST = 3.59


@dataclass(frozen=True)
class Interval:
    """The range of one hyper-parameter, and what to tell a user who leaves it.

    Args:
        name: Argument name, as the user writes it.
        low: Smallest value; itself allowed unless it is infinite or `open_low`.
        high: Largest value; itself allowed unless it is infinite or `open_high`.
        open_low: Whether `low` itself is excluded.
        open_high: Whether `high` itself is excluded.
        advice: How to fix a value outside; one sentence.

    Example:
        >>> Interval("gamma", low=0.0).check(2)
        2.0
        >>> str(Interval("temperature", low=0.0, open_low=True))
        '(0, inf)'
    """

    name: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    advice: str = ""

    def check(self, value: float) -> float:
        """Return `value` as a float.

        Raises:
            TypeError: `value` is not a number (a bool is not one either).
            ValueError: `value` is outside the range or not finite.
        """
        given = f"`{self.name}` must be a number in {self}, got {value!r}. {self.advice}".rstrip()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(given)
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        if not (above and below and math.isfinite(value)):
            raise ValueError(given)
        return float(value)

    def __str__(self) -> str:
        left = "(" if self.open_low or math.isinf(self.low) else "["
        right = ")" if self.open_high or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


def checked_logits(logits: Tensor, target: Tensor, *, hard_only: str = "") -> Tensor:
    """Return `logits` in float32 or better, after checking that they and `target` fit together.

    Only shapes and types are looked at. A class index outside `0..C-1` is raised by the gather in the loss (on a GPU as
    a device-side assertion); there is no "ignore" index. NaN logits give a NaN loss.

    Args:
        logits: `(N, C)`, floating, N >= 1 and C >= 2.
        target: `(N,)` int64 class indices, or `(N, C)` floating distributions whose rows sum to 1 (taken on trust).
        hard_only: Why this loss takes class indices only; empty if it takes distributions as well.

    Raises:
        TypeError: `logits` are not floating, or `target` is neither int64 `(N,)` nor floating `(N, C)`.
        ValueError: a shape does not fit.
    """
    if not logits.is_floating_point():
        raise TypeError(
            f"`logits` must be a floating tensor, got {logits.dtype}. Pass the model's output before argmax."
        )
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 2:
        raise ValueError(
            f"`logits` must have shape (N, C) with N >= 1 and C >= 2, got {tuple(logits.shape)}. "
            "Pass one row of class scores per sample."
        )
    if target.is_floating_point():
        _check_soft_target(logits, target, hard_only)
    else:
        _check_hard_target(logits, target)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _check_soft_target(logits: Tensor, target: Tensor, hard_only: str) -> None:
    given = f"got {tuple(target.shape)} {target.dtype}"
    if hard_only:
        raise TypeError(
            f"`target` must hold class indices, shape (N,) int64, {given}. {hard_only}; "
            "train without mixup and CutMix, or with a loss that takes distributions."
        )
    if target.shape != logits.shape:
        raise ValueError(
            f"A floating `target` must hold one distribution per sample, shape {tuple(logits.shape)}, {given}. "
            "Pass class indices as int64 with `.long()`, or a row per sample."
        )


def _check_hard_target(logits: Tensor, target: Tensor) -> None:
    given = f"got {tuple(target.shape)} {target.dtype}"
    if target.dtype != torch.int64:
        raise TypeError(f"`target` must be int64 class indices, {given}. Convert it with `.long()`.")
    if target.shape != logits.shape[:1]:
        raise ValueError(
            f"`target` must have shape {tuple(logits.shape[:1])}, one class index per row of `logits`, {given}. "
            "Flatten it, or pass distributions as a floating (N, C) tensor."
        )


def target_log_probs(log_probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities that the target weighs, and their weights.

    A loss `sum_k y_k f(p_k)` needs only the column of the true class when the target is an index; all columns when it
    is a distribution.

    Returns:
        `(N, 1)` and ones for class indices; `(N, C)` and the distribution otherwise.

    Example:
        >>> log_p, mass = target_log_probs(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1]))
        >>> round(log_p.exp().item(), 4), mass.item()
        (0.75, 1.0)
    """
    if target.is_floating_point():
        return log_probs, target.to(log_probs.dtype)
    log_p = log_probs.gather(1, target.unsqueeze(1))
    return log_p, torch.ones_like(log_p)


def target_distribution(target: Tensor, like: Tensor) -> Tensor:
    """Return the target as `(N, C)` distributions, in the type and on the device of `like`.

    Example:
        >>> target_distribution(torch.tensor([1]), like=torch.zeros(1, 3))
        tensor([[0., 1., 0.]])
    """
    if target.is_floating_point():
        return target.to(like.dtype)
    return torch.zeros_like(like).scatter_(1, target.unsqueeze(1), 1.0)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of already checked logits, 0-dim.

    Unlike `torch.nn.functional.cross_entropy` it has no ignored index: a target of -100 is an error, not a sample less.

    Example:
        >>> round(cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.6931
    """
    log_p, mass = target_log_probs(F.log_softmax(logits, dim=1), target)
    return (mass * -log_p).sum(1).mean()
