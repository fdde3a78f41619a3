"""Focal losses, which leave confidence under the posterior's, and the inverse focal loss, which drives it over."""

from typing import ClassVar

from torch import Tensor

from qcal.functional.focal_losses import (
    FLSD_GAMMAS,
    GAMMA,
    INVERSE_GAMMA,
    dual_focal_loss,
    flsd_loss,
    focal_loss,
    inverse_focal_loss,
)
from qcal.losses.regime import Neutral, RegimeLoss

__all__ = ["DualFocalLoss", "FLSDLoss", "FocalLoss", "InverseFocalLoss"]


class FocalLoss(RegimeLoss):
    """Cross-entropy weighed by how far the true class's probability is from 1: pushes confidence under.

        L = -(1 - p_t)^gamma log p_t

    Details: `qcal.functional.focal_loss`.

    Args:
        gamma: Exponent >= 0; 0 is cross-entropy. 3 is the fixed value that Mukhoti et al. recommend for calibration.

    Raises:
        ValueError: `gamma` is negative.

    Example:
        >>> import torch
        >>> round(FocalLoss(gamma=2.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 6)
        0.001804

    References:
        Lin et al., Focal loss for dense object detection, ICCV 2017, equation 4 (without class weights).
        Mukhoti et al., Calibrating deep neural networks using focal loss, NeurIPS 2020.
    """

    direction = "under"
    neutral: ClassVar[Neutral] = {"gamma": 0.0}

    def __init__(self, gamma: float = 3.0) -> None:
        super().__init__()
        self.gamma = GAMMA.check(gamma)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return focal_loss(logits, target, gamma=self.gamma)


class FLSDLoss(RegimeLoss):
    """Focal loss with a larger exponent for samples of low probability (FLSD-53): pushes confidence under.

        L = -(1 - p_t)^g log p_t,    g = gamma_below_fifth if p_t < 0.2, gamma_below_half if p_t < 0.5, else gamma

    No gradient goes through g. Details: `qcal.functional.flsd_loss`.

    Args:
        gamma: Exponent where p_t >= 0.5, >= 0.
        gamma_below_half: Exponent where 0.2 <= p_t < 0.5, >= 0.
        gamma_below_fifth: Exponent where p_t < 0.2, >= 0. With all three 0 the loss is cross-entropy; 3, 3, 5 is the
            paper's FLSD-53.

    Raises:
        ValueError: an exponent is negative.

    Example:
        >>> import torch
        >>> round(FLSDLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([0])).item(), 4)
        1.1275

    References:
        Mukhoti et al., Calibrating deep neural networks using focal loss, NeurIPS 2020 ("FLSD-53").
    """

    direction = "under"
    neutral: ClassVar[Neutral] = {"gamma": 0.0, "gamma_below_half": 0.0, "gamma_below_fifth": 0.0}

    def __init__(self, gamma: float = 3.0, gamma_below_half: float = 3.0, gamma_below_fifth: float = 5.0) -> None:
        super().__init__()
        given = (gamma, gamma_below_half, gamma_below_fifth)
        self.gamma, self.gamma_below_half, self.gamma_below_fifth = (
            allowed.check(value) for allowed, value in zip(FLSD_GAMMAS, given, strict=True)
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return flsd_loss(
            logits,
            target,
            gamma=self.gamma,
            gamma_below_half=self.gamma_below_half,
            gamma_below_fifth=self.gamma_below_fifth,
        )


class DualFocalLoss(RegimeLoss):
    """Focal loss whose weight also sees the runner-up below the true class: pushes confidence under, less than focal.

        L = -(1 - p_t + p_j)^gamma log p_t,    p_j = max { p_k : p_k < p_t },    0 if there is none

    Details: `qcal.functional.dual_focal_loss`. It takes class indices only.

    Args:
        gamma: Exponent >= 0; 0 is cross-entropy. 5 is a value of the authors' experiments.

    Raises:
        ValueError: `gamma` is negative.

    Example:
        >>> import torch
        >>> round(DualFocalLoss(gamma=2.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 6)
        0.007214

    References:
        Tao, Dong, Xu, Dual focal loss for calibration, ICML 2023.
    """

    direction = "under"
    neutral: ClassVar[Neutral] = {"gamma": 0.0}

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        self.gamma = GAMMA.check(gamma)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices, 0-dim."""
        return dual_focal_loss(logits, target, gamma=self.gamma)


class InverseFocalLoss(RegimeLoss):
    """Cross-entropy with a weight that grows with the true class's probability: pushes confidence over.

        L = -(1 + p_t)^gamma log p_t

    Details: `qcal.functional.inverse_focal_loss`.

    Args:
        gamma: Exponent in [0, 3.59] (above, the loss would rise with p_t near 0.28); 0 is cross-entropy.

    Raises:
        ValueError: `gamma` is out of range.

    Example:
        >>> import torch
        >>> round(InverseFocalLoss(gamma=2.0)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.449

    References:
        Wang, Feng, Zhang, Rethinking calibration of deep neural networks: do not be afraid of overconfidence, NeurIPS
            2021 ("inverse focal loss").
    """

    direction = "over"
    neutral: ClassVar[Neutral] = {"gamma": 0.0}

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = INVERSE_GAMMA.check(gamma)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return inverse_focal_loss(logits, target, gamma=self.gamma)
