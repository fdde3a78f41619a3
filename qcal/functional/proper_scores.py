"""Proper scores: negative log-likelihood and Brier scores.

A proper score is best, on average, for the true probabilities; unlike ECE it cannot be made small by throwing
information away. Row scores are computed in float32 or better and averaged in float64.
"""

import torch
from torch import Tensor

from qcal.functional.score_inputs import (
    check_class_target,
    check_confidence,
    check_probs,
    check_rows,
    lift_half,
    raise_if_bad_rows,
)

__all__ = ["brier_per_sample", "brier_score", "nll", "nll_from_probs", "nll_per_sample", "top_label_brier"]


def nll(logits: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood from logits: `mean_i (logsumexp(z_i) - z_i[y_i])`, in nats.

    Args:
        logits: `(N, C)` floating, finite.
        target: `(N,)` int64 class indices.

    Returns:
        0-dim float64 >= 0; `log(C)` for uniform predictions.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; rows with NaN or infinite values; targets out of range (with their numbers).

    Example:
        >>> round(nll(torch.zeros(3, 10), torch.tensor([0, 4, 9])).item(), 6)
        2.302585

    References:
        Good: Rational Decisions, Journal of the Royal Statistical Society B 14, 1952 (the logarithmic score).
    """
    return nll_per_sample(logits, target).mean()


def nll_per_sample(logits: Tensor, target: Tensor, *, validate: bool = True) -> Tensor:
    """The summands of `nll`, `(N,)` float64; `validate=False` skips the look at values, which waits for the device."""
    check_rows(logits, "logits")
    num_classes = logits.shape[1]
    check_class_target(target, logits.shape[0])
    logits = lift_half(logits)
    top = logits.amax(dim=1, keepdim=True)
    own = logits.gather(1, target.clamp(0, num_classes - 1)[:, None])
    log_sum = (logits - top).exp().sum(dim=1, keepdim=True).double().log()
    # top - own in float64: logits that are large and close would lose digits in float32.
    score = (log_sum + (top.double() - own.double())).squeeze(1)
    if validate:
        raise_if_bad_rows(score.detach(), target, num_classes)
    return score


def nll_from_probs(probs: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood from probabilities: `mean_i -log(p_i[y_i])`, in nats.

    Args:
        probs: `(N, C)` floating rows that sum to 1.
        target: `(N,)` int64 class indices.

    Returns:
        0-dim float64 >= 0; infinite if a target has probability 0, which float32 probabilities of a confident network
        do have. Nothing is clipped: use `nll` on the logits.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, rows that are no distributions, targets out of range.

    Example:
        >>> round(nll_from_probs(torch.tensor([[0.5, 0.5]]), torch.tensor([1])).item(), 6)
        0.693147
    """
    probs = check_probs(probs)
    check_class_target(target, *probs.shape)
    return probs.gather(1, target[:, None]).double().log().neg().mean()


def brier_score(probs: Tensor, target: Tensor) -> Tensor:
    """Brier score over all classes: `mean_i sum_k (p_ik - [k = y_i])^2`.

    Args:
        probs: `(N, C)` floating rows that sum to 1.
        target: `(N,)` int64 class indices.

    Returns:
        0-dim float64 in [0, 2], Brier's own scale; some packages halve it for two classes.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, rows that are no distributions, targets out of range.

    Example:
        >>> brier_score(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1])).item()
        0.25

    References:
        Brier: Verification of Forecasts Expressed in Terms of Probability, Monthly Weather Review 78, 1950, eq. 2.
    """
    probs = check_probs(probs)
    check_class_target(target, *probs.shape)
    return brier_per_sample(probs, target).mean()


def brier_per_sample(probs: Tensor, target: Tensor) -> Tensor:
    """The summands of `brier_score`, `(N,)` float64, of inputs taken as checked."""
    own = torch.zeros_like(probs).scatter_(1, target[:, None], 1.0)
    return (probs - own).square().sum(dim=1, dtype=torch.float64)


def top_label_brier(confidence: Tensor, correct: Tensor) -> Tensor:
    """Brier score of "the prediction is right" with probability confidence: `mean_i (p_i - c_i)^2`.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Returns:
        0-dim float64 in [0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> top_label_brier(torch.tensor([0.5, 1.0]), torch.tensor([True, True])).item()
        0.125
    """
    check_confidence(confidence, correct)
    return (confidence.double() - correct.double()).square().mean()
