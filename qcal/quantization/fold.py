"""Fold batch norm into the layer in front of it, as every int8 backend does before it quantizes.

In eval mode batch norm is an affine map of each channel, so a convolution followed by it is another convolution:

    factor = gamma / sqrt(running_var + eps)
    weight' = weight * factor        bias' = (bias - running_mean) * factor + beta

References:
    Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR
    2018, eq. 14.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcal.quantization.made_weights import MadeWeight, is_large
from qcal.quantization.names import layer_name
from qcal.quantization.operators import (
    BATCH_NORMS,
    LAYERS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    channel_axis,
    constant,
    give_made,
    give_own,
    kind,
)
from qcal.quantization.rules import PlacementName, rules_of


@dataclass(frozen=True)
class Unfolded:
    """A batch norm that stays in the graph.

    Args:
        name: Qualified name of the batch norm.
        reason: Why it could not be folded.
    """

    name: str
    reason: str


def fold_batch_norms(module: GraphModule, placement: PlacementName = "graph") -> list[Unfolded]:
    """Fold every batch norm of the graph that directly follows a layer nobody else reads; change `module` in place.

    The arithmetic is float64, the result float32, so folding moves the logits by float rounding only.

    Args:
        module: An exported and simplified graph.
        placement: "graph" (default) folds what can be folded, "xia2021" leaves projection shortcuts; see
            `qcal.quantization.rules`.

    Returns:
        The batch norms that stay, with the reason, in the order of the graph.

    Example:
        >>> from qcal.quantization.graph import export_graph
        >>> from torch.nn import BatchNorm1d, Linear, ReLU, Sequential
        >>> net = Sequential(Linear(4, 2), BatchNorm1d(2), ReLU(), BatchNorm1d(2))
        >>> graph = export_graph(net, torch.randn(2, 4))
        >>> fold_batch_norms(graph)
        [Unfolded(name='3', reason='no convolution or linear layer directly in front of it')]
    """
    rules = rules_of(placement)
    makes_weights = is_large(module)
    unfolded = []
    for node in list(module.graph.nodes):
        if kind(node) in BATCH_NORMS:
            reason = rules.keeps_norm(node) or _fold(module, node, makes_weights=makes_weights)
            if reason is not None:
                unfolded.append(Unfolded(layer_name(node), reason))
    module.graph.eliminate_dead_code()
    module.recompile()
    return unfolded


def _fold(module: GraphModule, norm: Node, *, makes_weights: bool) -> str | None:
    """Fold one batch norm, or say why not."""
    layer = norm.args[0]
    if not isinstance(layer, Node) or kind(layer) not in LAYERS:
        return "no convolution or linear layer directly in front of it"
    if not _normalises_channels(layer):
        return f"it does not normalise the output channels of {layer_name(layer)}"
    if len(layer.users) > 1:
        return f"the output of {layer_name(layer)} is also read elsewhere"
    if kind(layer) in TRANSPOSED_CONVOLUTIONS and argument(layer, "groups", 1) != 1:
        return f"{layer_name(layer)} is a transposed convolution with groups"
    statistics = _affine_map(norm, module)
    weight = constant(module, layer.args[1])
    bias = constant(module, argument(layer, "bias"))
    if statistics is None:
        return "it uses the statistics of the batch, not running ones"
    if weight is None or (bias is None and argument(layer, "bias") is not None):
        return f"the weights of {layer_name(layer)} are computed from its input"
    if makes_weights:
        _make_weight(module, layer, weight, bias, *statistics)
    else:
        _set_weights(module, layer, *folded(weight, bias, *statistics, channel_axis=channel_axis(layer)))
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)
    return None


def _affine_map(norm: Node, module: GraphModule) -> tuple[Tensor, Tensor] | None:
    """The factor and the offset of each channel in float64; None if the map depends on the batch."""
    mean = constant(module, argument(norm, "running_mean"))
    variance = constant(module, argument(norm, "running_var"))
    if argument(norm, "training") is not False or mean is None or variance is None:
        return None
    gamma, beta = constant(module, argument(norm, "weight")), constant(module, argument(norm, "bias"))
    eps = argument(norm, "eps")
    return channel_map(mean, variance, gamma, beta, eps if isinstance(eps, float) else 0.0)


def channel_map(
    mean: Tensor, variance: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Batch norm in eval mode as a factor and an offset of each channel, both float64 (C,)."""
    factor = torch.rsqrt(variance.double() + eps)
    if gamma is not None:
        factor = factor * gamma.double()
    offset = -mean.double() * factor
    return factor, offset if beta is None else offset + beta.double()


def folded(
    weight: Tensor, bias: Tensor | None, factor: Tensor, offset: Tensor, *, channel_axis: int
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the layer that computes `layer(x) * factor + offset`, in the dtype of `weight`.

    Example:
        >>> folded(torch.ones(2, 1), None, torch.tensor([2.0, 3.0]), torch.tensor([0.5, 0.0]), channel_axis=0)
        (tensor([[2.], [3.]]), tensor([0.5000, 0.0000]))
    """
    shape = [1] * weight.dim()
    shape[channel_axis] = -1
    new_weight = weight.double() * factor.double().reshape(shape)
    return new_weight.to(weight.dtype), _folded_bias(bias, factor, offset).to(weight.dtype)


def _folded_bias(bias: Tensor | None, factor: Tensor, offset: Tensor) -> Tensor:
    return offset if bias is None else bias.double() * factor + offset


def _normalises_channels(layer: Node) -> bool:
    """Whether axis 1, the channels of batch norm, is the axis of the layer's output channels."""
    value = layer.meta.get("val")
    return kind(layer) is not aten.linear or (isinstance(value, Tensor) and value.dim() == 2)


def _set_weights(module: GraphModule, layer: Node, weight: Tensor, bias: Tensor) -> None:
    """Give the layer tensors of its own: another layer may share the old ones but not the batch norm."""
    give_own(module, layer, "weight", weight, target=f"folded_{layer.name}_weight")
    give_own(module, layer, "bias", bias, target=f"folded_{layer.name}_bias")


def _make_weight(
    module: GraphModule, layer: Node, weight: Tensor, bias: Tensor | None, factor: Tensor, offset: Tensor
) -> None:
    """The same for a large network, whose folded weights are made when they are read."""
    made = MadeWeight(weight, factor, channel_axis(layer))
    give_made(module, layer, made, target=f"folded_{layer.name}_weight")
    new_bias = _folded_bias(bias, factor, offset).to(weight.dtype)
    give_own(module, layer, "bias", new_bias, target=f"folded_{layer.name}_bias")
