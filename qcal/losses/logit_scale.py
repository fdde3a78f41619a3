"""Losses that train through rescaled logits and leave the raw ones over- or underconfident; among them the dial."""

from typing import ClassVar

from torch import Tensor

from qcal.functional.logit_scale_losses import (
    MIX,
    STRENGTH,
    TAU,
    TEMPERATURE,
    confidence_dial_loss,
    logit_norm_loss,
    training_temperature_loss,
)
from qcal.losses.regime import Neutral, RegimeLoss

__all__ = ["ConfidenceDial", "LogitNormLoss", "TrainingTemperatureLoss"]


class TrainingTemperatureLoss(RegimeLoss):
    """Cross-entropy of logits divided by a temperature: below 1 pushes the raw logits' confidence under, above 1 over.

        L = T * CE(softmax(l / T), y)

    The factor T keeps gradients at the logits of cross-entropy's size, so that one learning rate serves every T.
    Details: `qcal.functional.training_temperature_loss`.

    Args:
        temperature: T > 0; 1 is cross-entropy.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> import torch
        >>> loss = TrainingTemperatureLoss(temperature=2.0)
        >>> round(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.6265

    References:
        Agarwala et al., Temperature check: theory and practice for training models with softmax-cross-entropy losses,
            TMLR 2023 (their beta is 1 / T).
    """

    direction = "either"
    neutral: ClassVar[Neutral] = {"temperature": 1.0}

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = TEMPERATURE.check(temperature)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return training_temperature_loss(logits, target, temperature=self.temperature)


class LogitNormLoss(RegimeLoss):
    """Cross-entropy of logits scaled to length 1 / tau (LogitNorm): pushes the raw logits' confidence under.

        L = mix * CE(softmax(l / (tau |l|)), y) + (1 - mix) * CE(softmax(l), y)

    Under as long as the raw logits are shorter than 1 / tau, which nothing in the first term makes them exceed. `mix`
    is not in the paper. Details: `qcal.functional.logit_norm_loss`.

    Args:
        tau: Inverse length that the logits are scaled to, > 0. 0.04 is the paper's value for CIFAR-10.
        mix: Share of the normalized term in [0, 1]; 0 is cross-entropy, 1 the paper's loss.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> import torch
        >>> round(LogitNormLoss(tau=0.1)(torch.tensor([[3.0, 4.0]]), torch.tensor([0])).item(), 4)
        2.1269

    References:
        Wei et al., Mitigating neural network overconfidence with logit normalization, ICML 2022.
    """

    direction = "under"
    neutral: ClassVar[Neutral] = {"mix": 0.0}

    def __init__(self, tau: float = 0.04, mix: float = 1.0) -> None:
        super().__init__()
        self.tau = TAU.check(tau)
        self.mix = MIX.check(mix)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return logit_norm_loss(logits, target, tau=self.tau, mix=self.mix)


class ConfidenceDial(RegimeLoss):
    """One signed number for a sweep: pushes confidence under at -1, is cross-entropy at 0, pushes it over at +1.

        L = T * CE(softmax(l / T), y),    T = 4^strength

    Why this family, and what it does not move (swaps, as far as it only rescales logits):
    `qcal.functional.confidence_dial_loss`.

    Args:
        strength: In [-1, 1]; 0 is cross-entropy.

    Raises:
        ValueError: `strength` is outside [-1, 1].

    Example:
        >>> import torch
        >>> round(ConfidenceDial(strength=0.5)(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.6265

    References:
        As `TrainingTemperatureLoss`; the base 4 is ours.
    """

    direction = "either"
    neutral: ClassVar[Neutral] = {"strength": 0.0}

    def __init__(self, strength: float = 0.0) -> None:
        super().__init__()
        self.strength = STRENGTH.check(strength)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of `logits` `(N, C)` against class indices or distributions, 0-dim."""
        return confidence_dial_loss(logits, target, strength=self.strength)
