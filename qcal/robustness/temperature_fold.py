"""A temperature as a part of the network: the last layer's weights and bias divided by it, nothing else changed."""

import copy
import math

import torch
from torch import Tensor, nn

from qcal.quantization import PlacementName, prepare
from qcal.quantization.graph import AGREEMENT, unwrap

__all__ = ["find_last_layer", "fold_temperature"]


def find_last_layer(network: nn.Module, images: Tensor, *, placement: PlacementName = "graph") -> str:
    """Name of the last layer with weights in the traced network, which for a classifier makes the logits.

    Args:
        network: Maps images `(N, ...)` to logits `(N, C)`; not changed.
        images: A few of them.
        placement: How to trace; "modules" for a network that cannot be exported.

    Raises:
        ValueError: as `qcal.quantization.prepare`.

    Example:
        >>> find_last_layer(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(2, 4))
        '3'
    """
    return prepare(network, images, placement=placement).layers[-1].name


def fold_temperature(network: nn.Module, temperature: float, images: Tensor, *, layer: str) -> nn.Module:
    """A copy of a network, float32 and in evaluation mode, whose logits are divided by a temperature in one layer.

    Args:
        network: Maps images `(N, ...)` to logits `(N, C)`; not changed.
        temperature: T, positive and finite.
        images: A few, on the device where the copy is to be; its logits of them must be the network's, divided by T.
        layer: Name of the layer to divide the weight and the bias of, such as `fc`.

    Raises:
        ValueError: a temperature that is not positive and finite; no such layer; a layer that does not scale the
            logits, because something follows it that is not linear, or its weights are computed from others.

    Example:
        >>> network = nn.Linear(2, 2)
        >>> folded = fold_temperature(network, 4.0, torch.ones(1, 2), layer="")
        >>> bool((folded.weight == network.weight / 4).all())
        True
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` must be positive and finite, got {temperature}. 1 changes nothing.")
    folded = unwrap(copy.deepcopy(network)).to(device=images.device, dtype=torch.float32).eval()
    with torch.inference_mode(False), torch.no_grad():
        expected = folded(images.clone()) / temperature
        head = _layer(folded, layer)
        for name in ("weight", "bias"):
            parameter = getattr(head, name, None)
            if isinstance(parameter, Tensor):
                parameter.div_(temperature)
        difference = (folded(images.clone()) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    if not bool(difference <= AGREEMENT):  # so written that NaN fails
        raise ValueError(
            f"`layer` must scale the logits, got {layer!r}: divided by {temperature:g}, it leaves logits that are off "
            f"by {float(difference):.2g} of the largest. Name the layer whose output, with nothing but scaling and "
            "pooling after it, is the logits."
        )
    return folded


def _layer(network: nn.Module, name: str) -> nn.Module:
    try:
        layer = network.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"`layer` must name a module of the network, got {name!r}. Choose one of network.named_modules()."
        ) from error
    if not isinstance(getattr(layer, "weight", None), Tensor):
        raise ValueError(
            f"`layer` must have a weight, got {name!r}, a {type(layer).__name__}. Name the last linear layer."
        )
    return layer
