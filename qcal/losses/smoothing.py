"""Label smoothing and its relatives: pulls towards the uniform distribution, or, with a negative sign, away from it."""

from typing import ClassVar

from torch import Tensor

from qcal.functional.smoothing_losses import (
    CONFIDENCE_PENALTY,
    EPSILON,
    MARGIN,
    PENALTY_WEIGHT,
    confidence_penalty_loss,
    label_smoothing_loss,
    margin_label_smoothing_loss,
    max_sup_loss,
)
from qcal.losses.regime import Neutral, RegimeLoss

__all__ = ["ConfidencePenaltyLoss", "LabelSmoothingLoss", "MarginLabelSmoothingLoss", "MaxSupLoss"]


class LabelSmoothingLoss(RegimeLoss):
    """Cross-entropy against labels mixed with the uniform distribution: epsilon > 0 pushes confidence under, < 0 over.

        L = -sum_k q_k log p_k,    q = (1 - epsilon) y + epsilon / K

    with softmax p, target y and K classes; the mass goes to all classes, the true one included. One class for label
    smoothing and negative label smoothing, because they are one formula. Negative epsilon has no lower bound: keep it
    small. Details: `qcal.functional.label_smoothing_loss`.

    Args:
        epsilon: Share of the uniform distribution, below 1; 0 is cross-entropy. 0.1 is the value of the first paper.

    Raises:
        ValueError: `epsilon` is not below 1.

    Example:
        >>> import torch
        >>> round(LabelSmoothingLoss(epsilon=0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.2269

    References:
        Szegedy et al., Rethinking the Inception architecture for computer vision, CVPR 2016, section 7.
        Wei et al., To smooth or not? When label smoothing meets noisy labels, ICML 2022 (epsilon < 0).
    """

    direction = "either"
    neutral: ClassVar[Neutral] = {"epsilon": 0.0}

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = EPSILON.check(epsilon)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return label_smoothing_loss(logits, target, epsilon=self.epsilon)


class MarginLabelSmoothingLoss(RegimeLoss):
    """Cross-entropy plus a penalty on logits more than a margin below the largest (MbLS): pushes confidence under.

        L = CE + penalty_weight * mean_{n,k} max(0, max_j l_j - l_k - margin)

    Without effect while all logit distances are within the margin. Averaged over classes as in the authors' code, not
    summed as in the paper. Details: `qcal.functional.margin_label_smoothing_loss`.

    Args:
        margin: Logit distance that is free, >= 0. 10 is the authors' default.
        penalty_weight: >= 0; 0 is cross-entropy. 0.1 is the authors' default.

    Raises:
        ValueError: an argument is negative.

    Example:
        >>> import torch
        >>> loss = MarginLabelSmoothingLoss(margin=6.0, penalty_weight=0.1)
        >>> round(loss(torch.tensor([[8.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1003

    References:
        Liu, Ben Ayed, Galdran, Dolz, The devil is in the margin: margin-based label smoothing for network calibration,
            CVPR 2022.
    """

    direction = "under"
    neutral: ClassVar[Neutral] = {"penalty_weight": 0.0}

    def __init__(self, margin: float = 10.0, penalty_weight: float = 0.1) -> None:
        super().__init__()
        self.margin = MARGIN.check(margin)
        self.penalty_weight = PENALTY_WEIGHT.check(penalty_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return margin_label_smoothing_loss(logits, target, margin=self.margin, penalty_weight=self.penalty_weight)


class MaxSupLoss(RegimeLoss):
    """Cross-entropy plus a penalty on the largest logit's distance from the mean (MaxSup): pushes confidence under.

        L = CE + penalty_weight * mean_n (max_k l_k - mean_k l_k)

    Label smoothing with the largest logit in place of the true class's. Details: `qcal.functional.max_sup_loss`.

    Args:
        penalty_weight: >= 0; 0 is cross-entropy. 0.1 as label smoothing's epsilon, to which it corresponds.

    Raises:
        ValueError: `penalty_weight` is negative.

    Example:
        >>> import torch
        >>> round(MaxSupLoss(penalty_weight=0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.2269

    References:
        Zhou et al., MaxSup: overcoming representation collapse in label smoothing, NeurIPS 2025, arXiv 2502.15798.
    """

    direction = "under"
    neutral: ClassVar[Neutral] = {"penalty_weight": 0.0}

    def __init__(self, penalty_weight: float = 0.1) -> None:
        super().__init__()
        self.penalty_weight = PENALTY_WEIGHT.check(penalty_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return max_sup_loss(logits, target, penalty_weight=self.penalty_weight)


class ConfidencePenaltyLoss(RegimeLoss):
    """Cross-entropy plus a penalty on low entropy: a weight > 0 pushes confidence under, < 0 (a bonus) over.

        L = CE + penalty_weight * mean_n (log K - H(p_n))

    with entropy H and K classes; the constant log K, not in the paper, makes the penalty 0 at the uniform prediction.
    Details: `qcal.functional.confidence_penalty_loss`.

    Args:
        penalty_weight: >= -3.59 (below, the loss would rise with the true class's probability somewhere); 0 is
            cross-entropy. 0.5 moves confidence clearly; 0.1, a common choice, hardly.

    Raises:
        ValueError: `penalty_weight` is below -3.59.

    Example:
        >>> import torch
        >>> round(ConfidencePenaltyLoss(penalty_weight=0.1)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1597

    References:
        Pereyra et al., Regularizing neural networks by penalizing confident output distributions, ICLR workshop 2017.
    """

    direction = "either"
    neutral: ClassVar[Neutral] = {"penalty_weight": 0.0}

    def __init__(self, penalty_weight: float = 0.5) -> None:
        super().__init__()
        self.penalty_weight = CONFIDENCE_PENALTY.check(penalty_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return confidence_penalty_loss(logits, target, penalty_weight=self.penalty_weight)
