"""Find the pairs of layers between which channels can be scaled without changing what the network computes."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from qcal.quantization.operators import (
    CONVOLUTIONS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    aten,
    attribute,
    kind,
)
from qcal.quantization.placement import Layer, Placement
from qcal.quantization.quantizer import Quantizer

# f(x / s) = f(x) / s for s > 0, element by element.
_SCALING = {aten.relu, aten.leaky_relu, aten.prelu, aten.clone, aten.contiguous}
_CLAMPS = {aten.relu6, aten.hardtanh, aten.clamp, aten.clamp_min, aten.clamp_max}
# The same within each channel of an image.
_POOLS = {
    aten.max_pool1d,
    aten.max_pool2d,
    aten.max_pool3d,
    aten.avg_pool1d,
    aten.avg_pool2d,
    aten.avg_pool3d,
    aten.adaptive_max_pool1d,
    aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d,
    aten.adaptive_avg_pool1d,
    aten.adaptive_avg_pool2d,
    aten.adaptive_avg_pool3d,
}
_FLATTENS = {aten.flatten, aten.reshape, aten.squeeze}
_SPATIAL_LAYERS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS


@dataclass(frozen=True)
class Clamp:
    """A clamp between two layers: it needs bounds of its own for each channel once they are scaled.

    Args:
        node: Where it is in the graph.
        bounds: Lowest and highest value, None for none.
        channel_dim: The dimension of its tensor that runs over the channels.
        features: How many neighbouring entries of that dimension belong to one channel: more than one after `flatten`.
    """

    node: Node
    bounds: tuple[float | None, float | None]
    channel_dim: int
    features: int


@dataclass(frozen=True)
class Pair:
    """Two neighbouring layers.

    Args:
        first: The layer whose output channels can be divided.
        second: The layer that alone reads them.
        groups: Groups of the second layer.
        features: How many inputs of the second layer a channel of the first has: more than one after `flatten`.
        clamps: The clamps on the way.
    """

    first: Layer
    second: Layer
    groups: int
    features: int
    clamps: tuple[Clamp, ...]


def find_pairs(module: GraphModule, placement: Placement) -> tuple[Pair, ...]:
    """All pairs, in the order of the graph.

    On the way from one layer to the other there may be quantizers, ReLU, leaky ReLU, PReLU, clamps with fixed bounds,
    pooling, the mean over positions, padding with zeros, and flattening; each result must be read once.
    """
    layers = {layer.node: layer for layer in placement.layers}
    nodes = {node.name: node for node in module.graph.nodes}
    pairs = (_pair_from(module, nodes[layer.node], layers) for layer in placement.layers)
    return tuple(pair for pair in pairs if pair is not None)


def _pair_from(module: GraphModule, first: Node, layers: dict[str, Layer]) -> Pair | None:
    """The pair that a layer is the first of, if it is of one."""
    channel_dim = 1 if kind(first) in _SPATIAL_LAYERS else len(_shape(first)) - 1
    channels = _shape(first)[channel_dim]
    node, features = first, 1
    clamps: list[Clamp] = []
    while (reader := _only_reader(node)) is not None:
        if reader.name in layers:
            if not _reads_channels(reader, node, channel_dim):
                return None
            if not all(_alone(module.graph, layers[layer.name].target) for layer in (first, reader)):
                return None
            groups = argument(reader, "groups", 1)
            assert isinstance(groups, int)
            return Pair(layers[first.name], layers[reader.name], groups, features, tuple(clamps))
        if kind(reader) in _CLAMPS:
            bounds = _bounds(reader)
            if bounds is None:
                return None
            clamps.append(Clamp(reader, bounds, channel_dim, features))
        elif kind(reader) in _FLATTENS and channel_dim == 1:
            features *= prod(_shape(node)[2:])
            if len(_shape(reader)) != 2 or _shape(reader)[1] != channels * features:
                return None
        elif not _scales_with_input(module, reader, is_spatial=channel_dim == 1 and len(_shape(node)) > 2):
            return None
        node = reader
    return None


def _scales_with_input(module: GraphModule, node: Node, *, is_spatial: bool) -> bool:
    """Whether an operation makes `f(x) / s` of `x / s`, for a scale s of each channel."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), Quantizer)
    if kind(node) in _SCALING:
        return True
    if not is_spatial:
        return False
    dims = len(_shape(node.all_input_nodes[0]))
    if kind(node) is aten.mean:
        over = argument(node, "dim")
        return isinstance(over, list | tuple) and all(isinstance(d, int) and d % dims >= 2 for d in over)
    if kind(node) in (aten.pad, aten.constant_pad_nd):
        widths, value = argument(node, "pad"), argument(node, "value")
        return isinstance(widths, list | tuple) and len(widths) <= 2 * (dims - 2) and value in (None, 0)
    return kind(node) in _POOLS


def _bounds(clamp: Node) -> tuple[float | None, float | None] | None:
    """The bounds of a clamp; None if they are not plain numbers."""
    if kind(clamp) is aten.relu6:
        return 0.0, 6.0
    names = ("min_val", "max_val") if kind(clamp) is aten.hardtanh else ("min", "max")
    defaults = (-1.0, 1.0) if kind(clamp) is aten.hardtanh else (None, None)
    found = []
    for name, default in zip(names, defaults, strict=True):
        bound = argument(clamp, name, default)
        if bound is not None and not isinstance(bound, int | float):
            return None
        found.append(None if bound is None else float(bound))
    return found[0], found[1]


def _only_reader(node: Node) -> Node | None:
    """The one node that reads the numbers of a tensor; those that ask for its size do not count."""
    readers = [user for user in node.users if not isinstance(user.meta.get("val"), torch.SymInt | int)]
    if len(readers) != 1 or readers[0].op == "output":
        return None
    return readers[0] if readers[0].args and readers[0].args[0] is node else None


def _reads_channels(layer: Node, source: Node, channel_dim: int) -> bool:
    """Whether the dimension of the channels in `source` is what a layer takes for its input channels."""
    dims = len(_shape(source))
    if kind(layer) in _SPATIAL_LAYERS:
        return channel_dim == 1 and dims == len(_shape(layer)) > 2
    return channel_dim == dims - 1


def _alone(graph: Graph, target: str) -> bool:
    """Whether one layer alone reads a weight."""
    return sum(len(node.users) for node in graph.nodes if attribute(node) == target) == 1


def _shape(node: Node) -> tuple[int, ...]:
    """Sizes of the tensor a node yields, the number of images as it is: perhaps a symbol."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()
