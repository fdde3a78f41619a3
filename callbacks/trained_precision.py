"""The precision a network was trained in: its float logits are taken in it, quantization is simulated in float32."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from qcal.robustness import Baseline

_MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
_TRUE = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
_FLOAT32 = "32-true"


def is_known(precision: str) -> bool:
    """Whether the float network can be run in it; in another one it is run in float32, and the record says so."""
    return precision == _FLOAT32 or precision in _MIXED or precision in _TRUE


def trained_baseline(network: nn.Module, precision: str, device: torch.device) -> Baseline | None:
    """The float network as it was trained; None where that is float32.

    Args:
        network: The copy that is studied, still in the precision of training. With autocast it is the baseline itself,
            in true half precision a second copy is made, of half the size.
        precision: Lightning's name of it.
        device: Where to run.
    """
    if precision in _MIXED:
        kind, dtype = device.type, _MIXED[precision]

        def autocast() -> AbstractContextManager[Any]:  # Any: what it yields is not used
            return torch.autocast(kind, dtype=dtype)

        return Baseline(network, torch.float32, autocast)
    if precision in _TRUE:
        dtype = _TRUE[precision]
        return Baseline(copy.deepcopy(network).to(device, dtype).eval(), dtype, nullcontext)
    return None
