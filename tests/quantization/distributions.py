"""Distributions as activations have them, and the error that a grid makes on them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.affine import fake_quantize
from qcal.quantization.observers import RangeObserver
from qcal.quantization.quantizer import Grid


def distributions() -> dict[str, Tensor]:
    normal = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    other = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    return {
        "normal": normal,
        "relu": normal.relu(),
        "silu": F.silu(3 * normal),
        "log-normal": normal.exp(),
        "heavy tails": normal / other.abs().clamp(min=0.05),
        "two clusters": torch.cat([normal * 0.1 - 3, other * 0.2 + 8]),
        "uniform": torch.linspace(-1, 3, 4000),
        "negative": -normal.relu(),
        "one outlier": torch.cat([torch.linspace(0, 1, 4000), torch.tensor([20.0])]),
    }


def seen(*batches: Tensor) -> RangeObserver:
    """An observer of these batches."""
    observer = RangeObserver()
    for batch in batches:
        observer.update(batch)
    return observer


def quantized(x: Tensor, grid: Grid) -> Tensor:
    return fake_quantize(x, grid.scale, grid.zero_point, grid.quant_min, grid.quant_max)


def mse(x: Tensor, grid: Grid) -> float:
    """Mean squared error that a grid makes, computed from the numbers themselves."""
    return (quantized(x, grid) - x).double().square().mean().item()
