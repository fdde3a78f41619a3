"""Losses that weigh a sample's cross-entropy by the probability it already gives to the true class.

Focal weights shrink as a sample is learned and leave confidence under the posterior's; inverse focal weights grow and
leave it over. All weights come from log-probabilities: `1 - p = -expm1(log p)` is never negative, and 0 only where
log p itself is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.loss_inputs import STEEPEST, Interval, checked_logits, target_log_probs

__all__ = ["FLSD_GAMMAS", "GAMMA", "INVERSE_GAMMA", "dual_focal_loss", "flsd_loss", "focal_loss", "inverse_focal_loss"]

GAMMA = Interval("gamma", low=0.0, advice="Use 0 for cross-entropy, 2 to 5 for a focal loss.")
FLSD_GAMMAS = tuple(
    Interval(name, low=0.0, advice=GAMMA.advice) for name in ("gamma", "gamma_below_half", "gamma_below_fifth")
)
INVERSE_GAMMA = Interval(
    "gamma",
    low=0.0,
    high=STEEPEST,
    advice="Beyond 1/W(1/e) = 3.591 the loss rises with the true class's probability near 0.28.",
)


def focal_loss(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return the focal loss, averaged over the batch.

        L = -sum_k y_k (1 - p_k)^gamma log p_k,    for a class index -(1 - p_t)^gamma log p_t

    with softmax p, target y and true class t. Pushes confidence under: a sample's gradient fades before its probability
    reaches the posterior.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions (the loss of each class, weighed by its mass, as mixup defines
            it).
        gamma: Exponent >= 0; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `gamma` is negative, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> round(focal_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), gamma=2.0).item(), 6)
        0.001804

    References:
        Lin et al., Focal loss for dense object detection, ICCV 2017, equation 4 (without class weights).
        Mukhoti et al., Calibrating deep neural networks using focal loss, NeurIPS 2020.
    """
    gamma = GAMMA.check(gamma)
    log_p, mass = _target_terms(logits, target)
    return _weighted(log_p, mass, _one_minus(log_p) ** gamma)


def flsd_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 3.0,
    gamma_below_half: float = 3.0,
    gamma_below_fifth: float = 5.0,
) -> Tensor:
    """Return the focal loss with an exponent that depends on the sample (FLSD; FLSD-53 by default).

        L = -(1 - p_t)^g log p_t,    g = gamma_below_fifth if p_t < 0.2, gamma_below_half if p_t < 0.5, else gamma

    g is constant between its steps and no gradient goes through it; the loss jumps at the steps. Pushes confidence
    under.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        gamma: Exponent where p_t >= 0.5, >= 0.
        gamma_below_half: Exponent where 0.2 <= p_t < 0.5, >= 0.
        gamma_below_fifth: Exponent where p_t < 0.2, >= 0. With all three 0 the loss is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: an exponent is negative, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> round(flsd_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([0])).item(), 4)
        1.1275

    References:
        Mukhoti et al., Calibrating deep neural networks using focal loss, NeurIPS 2020 ("FLSD-53").
    """
    given = (gamma, gamma_below_half, gamma_below_fifth)
    high, middle, low = (allowed.check(value) for allowed, value in zip(FLSD_GAMMAS, given, strict=True))
    log_p, mass = _target_terms(logits, target)
    p = log_p.detach().exp()
    exponent = torch.where(p < 0.2, low, torch.where(p < 0.5, middle, high))
    return _weighted(log_p, mass, _one_minus(log_p) ** exponent)


def dual_focal_loss(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return the focal loss whose weight also sees the runner-up below the true class.

        L = -(1 - p_t + p_j)^gamma log p_t,    p_j = max { p_k : p_k < p_t },    0 if there is none

    Where the true class leads clearly this is close to the focal loss; where a competitor is near, the weight stays
    near 1. Pushes confidence under, less than the focal loss of the same gamma. Gradients go through p_j too, as in the
    authors' code.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64.
        gamma: Exponent >= 0; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `gamma` is negative, or shapes do not fit.
        TypeError: types do not fit, or `target` holds distributions.

    Example:
        >>> round(dual_focal_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), gamma=2.0).item(), 6)
        0.007214

    References:
        Tao, Dong, Xu, Dual focal loss for calibration, ICML 2023.
    """
    gamma = GAMMA.check(gamma)
    logits = checked_logits(
        logits, target, hard_only="The dual focal loss compares one true class with the classes below it"
    )
    log_probs = F.log_softmax(logits, dim=1)
    log_p, mass = target_log_probs(log_probs, target)
    runner_up = log_probs.masked_fill(log_probs >= log_p, -torch.inf).amax(1, keepdim=True).exp()
    return _weighted(log_p, mass, (_one_minus(log_p) + runner_up) ** gamma)


def inverse_focal_loss(logits: Tensor, target: Tensor, *, gamma: float) -> Tensor:
    """Return cross-entropy with a weight that grows with the probability of the true class.

        L = -sum_k y_k (1 + p_k)^gamma log p_k,    for a class index -(1 + p_t)^gamma log p_t

    Pushes confidence over: samples that are already right keep being pushed. For gamma > 1/W(1/e) = 3.591 the loss
    would rise with p_t around 0.28 (its slope there is proportional to gamma p log p + 1 + p), so larger values are
    refused.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        gamma: Exponent in [0, 3.59]; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `gamma` is out of range, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> round(inverse_focal_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), gamma=2.0).item(), 4)
        0.449

    References:
        Wang, Feng, Zhang, Rethinking calibration of deep neural networks: do not be afraid of overconfidence, NeurIPS
            2021 ("inverse focal loss").
    """
    gamma = INVERSE_GAMMA.check(gamma)
    log_p, mass = _target_terms(logits, target)
    return _weighted(log_p, mass, (1.0 + log_p.exp()) ** gamma)


def _target_terms(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return target_log_probs(F.log_softmax(checked_logits(logits, target), dim=1), target)


def _one_minus(log_p: Tensor) -> Tensor:
    # The floor keeps x**gamma differentiable at p = 1 for gamma < 1, where its slope is infinite though the loss's own
    # is 0.
    return (-torch.expm1(log_p)).clamp_min(torch.finfo(log_p.dtype).tiny)


def _weighted(log_p: Tensor, mass: Tensor, weight: Tensor) -> Tensor:
    return (mass * weight * -log_p).sum(1).mean()
