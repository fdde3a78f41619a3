"""Logits of a float network and of a quantized one, drawn from a model of which everything is known."""

import torch
from torch import Tensor

from qcal.robustness.repair import Recalibration

Pair = tuple[Tensor, Tensor, Tensor]


def quantized_pair(
    num: int, *, classes: int = 5, overconfidence: float = 1.5, noise: float = 1.0, seed: int = 0
) -> Pair:
    """Float logits `overconfidence` times those of the true model, the same with Gaussian noise, and targets."""
    generator = torch.Generator().manual_seed(seed)
    true = 2.5 * torch.randn(num, classes, generator=generator)
    target = torch.multinomial(torch.softmax(true, dim=1), 1, generator=generator).squeeze(1)
    float_logits = overconfidence * true
    return float_logits, float_logits + noise * torch.randn(num, classes, generator=generator), target


def held_out(num: int, **model: float) -> Recalibration:
    """Other images of the same model."""
    return Recalibration(*quantized_pair(num, seed=10_000, **model))  # type: ignore[arg-type]  # classes stay as they are
