"""Fold batch norm into the layer in front of it without a graph: where a run shows them in a row and it is right to.

Which modules stand in a row is read off a run (`module_trace`): the batch norm was given the very tensor that the layer
returned. Whether something else reads that tensor too cannot be seen; so each fold is tried, and undone unless the
logits stay the same on the images of that run.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from qcal.quantization.fold import Unfolded, channel_map, folded
from qcal.quantization.graph import AGREEMENT
from qcal.quantization.module_kinds import (
    BATCH_NORMS,
    LAYERS,
    channel_axis_of,
    has_own_forward,
    has_plain_weight,
    in_groups,
)
from qcal.quantization.module_trace import Call, Trace
from qcal.quantization.operators import set_tensor


def fold_modules(network: nn.Module, x: Tensor, seen: Trace) -> list[Unfolded]:
    """Fold what can be folded; change `network` in place, batch norms become `nn.Identity`.

    Args:
        network: A network in eval mode that nobody else uses.
        x: The images that `seen` was noted on.
        seen: A run of `network`.

    Returns:
        The batch norms that stay, with the reason.
    """
    expected = seen.output
    if not isinstance(expected, Tensor):
        raise TypeError(f"`seen` must be a run that returned logits, got {type(expected).__name__}.")
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, BATCH_NORMS)}
    layers = {name: _layer_of(norm, seen) for name, norm in norms.items()}
    reasons = {name: layer for name, layer in layers.items() if isinstance(layer, str)}
    pairs = {name: layer for name, layer in layers.items() if isinstance(layer, Call)}
    undo = [_replace(network, name, norms[name], layer) for name, layer in pairs.items()]
    if _disagreement(network, x, expected) is not None:  # then find out which, one by one
        for undo_one in reversed(undo):
            undo_one()
        for name, layer in pairs.items():
            undo_one = _replace(network, name, norms[name], layer)
            disagreement = _disagreement(network, x, expected)
            if disagreement is not None:
                undo_one()
                reasons[name] = f"folding it into {layer.name} {disagreement}"
    return [Unfolded(name, reasons[name]) for name in norms if name in reasons]


def _layer_of(norm: nn.modules.batchnorm._BatchNorm, seen: Trace) -> Call | str:
    """The call of the layer that a batch norm can be folded into, or why there is none."""
    calls = seen.calls_of(norm)
    if len(calls) != 1:
        return "it is called several times" if calls else "it is not called on `example_input`"
    layer = _layer_in_front(calls[0], seen)
    if layer is None:
        return "no convolution or linear layer directly in front of it"
    return _obstacle(layer, norm, seen) or layer


def _layer_in_front(call: Call, seen: Trace) -> Call | None:
    """The call of a layer that returned the very tensor that a batch norm reads, as yet unchanged."""
    for earlier in seen.calls:
        if isinstance(earlier.module, LAYERS) and earlier.returned is not None and earlier.returned is call.read:
            return earlier
    return None


def _obstacle(layer: Call, norm: nn.modules.batchnorm._BatchNorm, seen: Trace) -> str | None:
    if len(seen.calls_of(layer.module)) > 1:
        return f"{layer.name} is called several times"
    if has_own_forward(layer.module) or not has_plain_weight(layer.module):
        return f"{layer.name} computes its weight in its forward pass"
    if in_groups(layer.module):
        return f"{layer.name} is a transposed convolution with groups"
    if norm.running_mean is None or norm.running_var is None:
        return "it uses the statistics of the batch, not running ones"
    if isinstance(layer.module, nn.Linear) and layer.returned is not None and layer.returned.dim() != 2:
        return f"it does not normalise the output channels of {layer.name}"
    return None


def _replace(network: nn.Module, name: str, norm: nn.modules.batchnorm._BatchNorm, layer: Call) -> Callable[[], None]:
    """Fold without asking; returns what undoes it."""
    owner = network.get_submodule(name.rpartition(".")[0])
    module, leaf = layer.module, name.rpartition(".")[2]
    weight, bias = _tensor(module, "weight"), _tensor(module, "bias")
    mean, variance = _tensor(norm, "running_mean"), _tensor(norm, "running_var")
    if weight is None or mean is None or variance is None:
        raise TypeError(f"`{name}` and `{layer.name}` must have weights and statistics.")
    factor, offset = channel_map(mean, variance, _tensor(norm, "weight"), _tensor(norm, "bias"), norm.eps)
    new_weight, new_bias = folded(weight, bias, factor, offset, channel_axis=channel_axis_of(module))
    set_tensor(module, "weight", new_weight)
    set_tensor(module, "bias", new_bias)
    setattr(owner, leaf, nn.Identity())

    def undo() -> None:
        set_tensor(module, "weight", weight)
        del module.bias
        if bias is None:
            module.register_parameter("bias", None)
        else:
            module.register_buffer("bias", bias)
        setattr(owner, leaf, norm)

    return undo


def _disagreement(network: nn.Module, x: Tensor, expected: Tensor) -> str | None:
    """What is wrong with the network after a fold; None if it computes the same."""
    try:
        logits = network(x.clone())
    except AttributeError as error:  # a forward may use the batch norm's own tensors, which an identity lacks
        return f"breaks the forward pass: {error}"
    scale = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    if not bool((logits - expected).abs().max() <= AGREEMENT * scale):
        return "changes the logits: the tensor between them is read or written elsewhere"
    return None


def _tensor(module: nn.Module, name: str) -> Tensor | None:
    value = getattr(module, name)
    return value if isinstance(value, Tensor) else None
