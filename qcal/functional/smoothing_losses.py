"""Losses that pull every prediction towards the uniform distribution, or push it away.

All are cross-entropy plus a coefficient times a pull: label smoothing pulls the true class's logit to the mean logit,
MaxSup the largest logit, the margin-based form only what exceeds a margin, the confidence penalty the whole
distribution. With a negative coefficient the first and the last push away from uniform, and so raise confidence.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from qcal.functional.loss_inputs import STEEPEST, Interval, checked_logits, cross_entropy, target_log_probs

__all__ = [
    "CONFIDENCE_PENALTY",
    "EPSILON",
    "MARGIN",
    "PENALTY_WEIGHT",
    "confidence_penalty_loss",
    "label_smoothing_loss",
    "margin_label_smoothing_loss",
    "max_sup_loss",
]

EPSILON = Interval(
    "epsilon",
    high=1.0,
    open_high=True,
    advice="Use 0.05 to 0.2 to smooth, 0 for cross-entropy, about -0.1 to sharpen.",
)
PENALTY_WEIGHT = Interval("penalty_weight", low=0.0, advice="Use 0 for cross-entropy.")
CONFIDENCE_PENALTY = Interval(
    "penalty_weight",
    low=-STEEPEST,
    advice="Below -1/W(1/e) = -3.591 the loss rises with the true class's probability somewhere.",
)
MARGIN = Interval("margin", low=0.0, advice="It is a distance between logits; Liu et al. use 6 to 10.")


def label_smoothing_loss(logits: Tensor, target: Tensor, *, epsilon: float) -> Tensor:
    """Return cross-entropy against labels mixed with the uniform distribution, averaged over the batch.

        L = -sum_k q_k log p_k,    q = (1 - epsilon) y + epsilon / K    =    CE + epsilon (l_t - mean_k l_k)

    with logits l, their softmax p, target y, number of classes K and true class t: the mass goes to *all* classes, the
    true one included. For a fixed posterior the best prediction is q itself, so epsilon > 0 pushes confidence under the
    posterior's and epsilon < 0 over it.

    With epsilon < 0 the loss has no lower bound wherever q has a negative entry (always, for hard labels of separable
    data): logits grow until training or weight decay stops them. Keep |epsilon| small and watch their size.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        epsilon: Share of the uniform distribution, below 1; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `epsilon` is not below 1, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> round(label_smoothing_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), epsilon=0.1).item(), 4)
        0.2269

    References:
        Szegedy et al., Rethinking the Inception architecture for computer vision, CVPR 2016, section 7.
        Wei et al., To smooth or not? When label smoothing meets noisy labels, ICML 2022 (epsilon < 0).
    """
    epsilon = EPSILON.check(epsilon)
    log_probs = F.log_softmax(checked_logits(logits, target), dim=1)
    log_p, mass = target_log_probs(log_probs, target)
    return -(1.0 - epsilon) * (mass * log_p).sum(1).mean() - epsilon * log_probs.mean()


def margin_label_smoothing_loss(logits: Tensor, target: Tensor, *, margin: float, penalty_weight: float) -> Tensor:
    """Return cross-entropy plus a penalty on logits that lie more than a margin below the largest (MbLS).

        L = CE + penalty_weight * mean_{n,k} max(0, max_j l_j - l_k - margin)

    Pushes confidence under, but leaves logit distances within the margin alone: a margin of 0 acts as label smoothing
    does, one larger than any logit distance of the trained network not at all. Departure from the paper: its equation
    sums over classes; as in its published code we average, so that `penalty_weight` does not depend on the number of
    classes.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        margin: Logit distance that is free, >= 0.
        penalty_weight: >= 0; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: a hyper-parameter is out of range, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> logits, target = torch.tensor([[8.0, 0.0]]), torch.tensor([0])
        >>> round(margin_label_smoothing_loss(logits, target, margin=6.0, penalty_weight=0.1).item(), 4)
        0.1003

    References:
        Liu, Ben Ayed, Galdran, Dolz, The devil is in the margin: margin-based label smoothing for network calibration,
            CVPR 2022.
    """
    margin, penalty_weight = MARGIN.check(margin), PENALTY_WEIGHT.check(penalty_weight)
    logits = checked_logits(logits, target)
    excess = F.relu(logits.amax(1, keepdim=True) - logits - margin)
    return cross_entropy(logits, target) + penalty_weight * excess.mean()


def max_sup_loss(logits: Tensor, target: Tensor, *, penalty_weight: float) -> Tensor:
    """Return cross-entropy plus a penalty on the distance of the largest logit from the mean logit (MaxSup).

        L = CE + penalty_weight * mean_n (max_k l_k - mean_k l_k)

    Label smoothing is the same with the true class's logit in place of the largest, which on a wrong prediction pushes
    the true class down; this does not. Pushes confidence under.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        penalty_weight: >= 0; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `penalty_weight` is negative, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> round(max_sup_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), penalty_weight=0.1).item(), 4)
        0.2269

    References:
        Zhou et al., MaxSup: overcoming representation collapse in label smoothing, NeurIPS 2025, arXiv 2502.15798.
    """
    penalty_weight = PENALTY_WEIGHT.check(penalty_weight)
    logits = checked_logits(logits, target)
    return cross_entropy(logits, target) + penalty_weight * (logits.amax(1) - logits.mean(1)).mean()


def confidence_penalty_loss(logits: Tensor, target: Tensor, *, penalty_weight: float) -> Tensor:
    """Return cross-entropy plus a penalty on how far the prediction's entropy is below its maximum.

        L = CE + penalty_weight * mean_n (log K - H(p_n)),    H(p) = -sum_k p_k log p_k

    A positive weight pushes confidence under, a negative one (a bonus for certainty) over. Departure from the paper: it
    writes `- beta H`; the constant log K makes the penalty 0 at the uniform prediction and never negative, and changes
    no gradient.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        penalty_weight: >= -3.59; 0 is cross-entropy. Below -1/W(1/e) = -3.591 the loss would rise with the true class's
            probability somewhere.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `penalty_weight` is out of range, or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> import torch
        >>> round(confidence_penalty_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), penalty_weight=0.1).item(), 4)
        0.1597

    References:
        Pereyra et al., Regularizing neural networks by penalizing confident output distributions, ICLR workshop 2017.
    """
    penalty_weight = CONFIDENCE_PENALTY.check(penalty_weight)
    log_probs = F.log_softmax(checked_logits(logits, target), dim=1)
    log_p, mass = target_log_probs(log_probs, target)
    certainty = math.log(log_probs.shape[1]) + (log_probs.exp() * log_probs).sum(1).mean()
    return (mass * -log_p).sum(1).mean() + penalty_weight * certainty
