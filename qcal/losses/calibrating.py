"""Losses that aim at confidence equal to accuracy."""

from typing import ClassVar

from torch import Tensor

from qcal.functional.calibrating_losses import WIDTH, brier_loss, dca_loss, mdca_loss, mmce_loss
from qcal.functional.logit_scale_losses import MIX
from qcal.functional.smoothing_losses import PENALTY_WEIGHT
from qcal.losses.regime import Neutral, RegimeLoss

__all__ = ["BrierLoss", "DCALoss", "MDCALoss", "MMCELoss"]


class MMCELoss(RegimeLoss):
    """Cross-entropy plus the maximum mean calibration error of the batch: calibrating.

        L = CE + penalty_weight * sqrt( (1/N^2) sum_{i,j} (a_i - c_i) (a_j - c_j) exp(-|c_i - c_j| / width) )

    with confidence c and correctness a of each sample; the plain, not the reweighted, estimator. Details:
    `qcal.functional.mmce_loss`. It takes class indices only.

    Args:
        penalty_weight: >= 0; 0 is cross-entropy. 2 as in the comparison by Mukhoti et al. (NeurIPS 2020).
        width: Width of the Laplacian kernel on confidences, > 0. 0.4 is the paper's.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> round(MMCELoss(penalty_weight=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([1])).item(), 4)
        3.0077

    References:
        Kumar, Sarawagi, Jain, Trainable calibration measures for neural networks from kernel mean embeddings, ICML
            2018.
    """

    direction = "calibrating"
    neutral: ClassVar[Neutral] = {"penalty_weight": 0.0}

    def __init__(self, penalty_weight: float = 2.0, width: float = 0.4) -> None:
        super().__init__()
        self.penalty_weight = PENALTY_WEIGHT.check(penalty_weight)
        self.width = WIDTH.check(width)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices, 0-dim."""
        return mmce_loss(logits, target, penalty_weight=self.penalty_weight, width=self.width)


class DCALoss(RegimeLoss):
    """Cross-entropy plus the distance between the batch's mean confidence and its accuracy: calibrating on average.

        L = CE + penalty_weight * | mean_n c_n - mean_n a_n |

    with confidence c and correctness a of each sample. Details: `qcal.functional.dca_loss`. It takes class indices
    only.

    Args:
        penalty_weight: >= 0; 0 is cross-entropy. 1 as in the comparison by Hebbalaguppe et al. (CVPR 2022).

    Raises:
        ValueError: `penalty_weight` is negative.

    Example:
        >>> import torch
        >>> round(DCALoss(penalty_weight=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([1])).item(), 4)
        3.0077

    References:
        Liang, Zhang, Wang, Jacobs, Improved trainable calibration method for neural networks on medical imaging
            classification, BMVC 2020.
    """

    direction = "calibrating"
    neutral: ClassVar[Neutral] = {"penalty_weight": 0.0}

    def __init__(self, penalty_weight: float = 1.0) -> None:
        super().__init__()
        self.penalty_weight = PENALTY_WEIGHT.check(penalty_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices, 0-dim."""
        return dca_loss(logits, target, penalty_weight=self.penalty_weight)


class MDCALoss(RegimeLoss):
    """Cross-entropy plus the classwise distance between mean probability and frequency: calibrating, for every class.

        L = CE + penalty_weight * (1/K) sum_k | mean_n p_nk - mean_n y_nk |

    Details: `qcal.functional.mdca_loss`.

    Args:
        penalty_weight: >= 0; 0 is cross-entropy. 1 is the value of the authors' CIFAR scripts.

    Raises:
        ValueError: `penalty_weight` is negative.

    Example:
        >>> import torch
        >>> round(MDCALoss(penalty_weight=1.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([1])).item(), 4)
        3.0077

    References:
        Hebbalaguppe, Prakash, Madan, Arora, A stitch in time saves nine: a train-time regularizing loss for improved
            neural network calibration, CVPR 2022.
    """

    direction = "calibrating"
    neutral: ClassVar[Neutral] = {"penalty_weight": 0.0}

    def __init__(self, penalty_weight: float = 1.0) -> None:
        super().__init__()
        self.penalty_weight = PENALTY_WEIGHT.check(penalty_weight)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return mdca_loss(logits, target, penalty_weight=self.penalty_weight)


class BrierLoss(RegimeLoss):
    """The Brier score, summed over classes, or a mixture of it with cross-entropy: calibrating.

        L = mix * mean_n sum_k (p_nk - y_nk)^2 + (1 - mix) * CE

    Details: `qcal.functional.brier_loss`.

    Args:
        mix: Share of the Brier score in [0, 1]; 0 is cross-entropy, 1 Brier's score.

    Raises:
        ValueError: `mix` is outside [0, 1].

    Example:
        >>> import torch
        >>> BrierLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item()
        0.5

    References:
        Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.
    """

    direction = "calibrating"
    neutral: ClassVar[Neutral] = {"mix": 0.0}

    def __init__(self, mix: float = 1.0) -> None:
        super().__init__()
        self.mix = MIX.check(mix)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return brier_loss(logits, target, mix=self.mix)
