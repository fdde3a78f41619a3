"""Losses that aim at confidence equal to accuracy: cross-entropy plus a calibration error, and the Brier score.

The added errors are those of the training batch in this process. A large network brings its accuracy to 1, and the
error with it to 0; they calibrate only as far as training and test behave alike, and the better the larger the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.logit_scale_losses import MIX
from qcal.functional.loss_inputs import Interval, checked_logits, cross_entropy, target_distribution
from qcal.functional.smoothing_losses import PENALTY_WEIGHT

__all__ = ["WIDTH", "brier_loss", "dca_loss", "mdca_loss", "mmce_loss"]

WIDTH = Interval("width", low=0.0, open_low=True, advice="It is a distance between confidences; Kumar et al. use 0.4.")


def mmce_loss(logits: Tensor, target: Tensor, *, penalty_weight: float, width: float = 0.4) -> Tensor:
    """Return cross-entropy plus the maximum mean calibration error of the batch (MMCE).

        L = CE + penalty_weight * sqrt( (1/N^2) sum_{i,j} (a_i - c_i) (a_j - c_j) exp(-|c_i - c_j| / width) )

    with confidence c (top probability) and correctness a in {0, 1} of each sample. Calibrating: the error is 0 only if
    no group of samples of like confidence is wrong more, or less, often than its confidence says. No gradient goes
    through a. This is the plain estimator; the paper's reweighted one (MMCE_w), which averages right and wrong samples
    separately, is not offered: it is undefined for a batch without errors.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better. Memory grows with N^2.
        target: `(N,)` int64.
        penalty_weight: >= 0; 0 is cross-entropy.
        width: Width of the Laplacian kernel on confidences, > 0.

    Returns:
        0-dim loss.

    Raises:
        ValueError: a hyper-parameter is out of range, or shapes do not fit.
        TypeError: types do not fit, or `target` holds distributions.

    Example:
        >>> round(mmce_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), penalty_weight=1.0).item(), 4)
        3.0077

    References:
        Kumar, Sarawagi, Jain, Trainable calibration measures for neural networks from kernel mean embeddings, ICML
            2018.
    """
    penalty_weight, width = PENALTY_WEIGHT.check(penalty_weight), WIDTH.check(width)
    logits = checked_logits(logits, target, hard_only="MMCE asks whether the predicted class is the true one")
    confidence, gap = _confidence_and_gap(logits, target)
    kernel = torch.exp(-(confidence[:, None] - confidence[None, :]).abs() / width)
    squared = (gap[:, None] * gap[None, :] * kernel).mean()
    # The floor gives the root a gradient of 0, not NaN, where every confidence is already exact.
    error = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()
    return cross_entropy(logits, target) + penalty_weight * error


def dca_loss(logits: Tensor, target: Tensor, *, penalty_weight: float) -> Tensor:
    """Return cross-entropy plus the distance between the batch's mean confidence and its accuracy (DCA).

        L = CE + penalty_weight * | mean_n c_n - mean_n a_n |

    with confidence c and correctness a of each sample. Calibrating on average only: over- and underconfident samples of
    a batch cancel. No gradient goes through a.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64.
        penalty_weight: >= 0; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `penalty_weight` is negative, or shapes do not fit.
        TypeError: types do not fit, or `target` holds distributions.

    Example:
        >>> round(dca_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), penalty_weight=1.0).item(), 4)
        3.0077

    References:
        Liang, Zhang, Wang, Jacobs, Improved trainable calibration method for neural networks on medical imaging
            classification, BMVC 2020.
    """
    penalty_weight = PENALTY_WEIGHT.check(penalty_weight)
    logits = checked_logits(logits, target, hard_only="DCA asks whether the predicted class is the true one")
    _, gap = _confidence_and_gap(logits, target)
    return cross_entropy(logits, target) + penalty_weight * gap.mean().abs()


def mdca_loss(logits: Tensor, target: Tensor, *, penalty_weight: float) -> Tensor:
    """Return cross-entropy plus the classwise distance between mean probability and frequency (MDCA).

        L = CE + penalty_weight * (1/K) sum_k | mean_n p_nk - mean_n y_nk |

    Calibrating, for every class and not only the predicted one: all probabilities carry gradient, and no argmax is
    taken. The paper adds the term to cross-entropy and to the focal loss; this is the former.

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
        >>> round(mdca_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), penalty_weight=1.0).item(), 4)
        3.0077

    References:
        Hebbalaguppe, Prakash, Madan, Arora, A stitch in time saves nine: a train-time regularizing loss for improved
            neural network calibration, CVPR 2022.
    """
    penalty_weight = PENALTY_WEIGHT.check(penalty_weight)
    logits = checked_logits(logits, target)
    probs = F.softmax(logits, dim=1)
    frequency = target_distribution(target, probs).mean(0)
    return cross_entropy(logits, target) + penalty_weight * (probs.mean(0) - frequency).abs().mean()


def brier_loss(logits: Tensor, target: Tensor, *, mix: float = 1.0) -> Tensor:
    """Return the Brier score, or a mixture of it with cross-entropy.

        L = mix * mean_n sum_k (p_nk - y_nk)^2 + (1 - mix) * CE

    Calibrating: the score is proper, so the posterior is its best prediction, and bounded by 2, so that no sample
    rewards an ever larger logit. It is summed, not averaged, over classes. `mix` is ours (Brier's score is mix = 1) and
    gives the regime a neutral point.

    Args:
        logits: `(N, C)`, any floating type; computed in float32 or better.
        target: `(N,)` int64, or `(N, C)` distributions.
        mix: Share of the Brier score in [0, 1]; 0 is cross-entropy.

    Returns:
        0-dim loss.

    Raises:
        ValueError: `mix` is outside [0, 1], or shapes do not fit.
        TypeError: types do not fit.

    Example:
        >>> round(brier_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        0.5

    References:
        Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.
    """
    mix = MIX.check(mix)
    logits = checked_logits(logits, target)
    probs = F.softmax(logits, dim=1)
    score = (probs - target_distribution(target, probs)).square().sum(1).mean()
    return score if mix == 1.0 else mix * score + (1.0 - mix) * cross_entropy(logits, target)


def _confidence_and_gap(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    confidence, prediction = F.softmax(logits, dim=1).max(1)
    return confidence, confidence - (prediction == target).to(confidence.dtype)
