"""Find the layers of a graph whose weights can be quantized, and give each a weight and a bias that can be replaced."""

from collections.abc import Sequence

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from qcal.quantization.made_weights import MadeWeight
from qcal.quantization.names import Names, layer_name, operation_name
from qcal.quantization.operators import (
    LAYERS,
    TRANSPOSED_CONVOLUTIONS,
    argument,
    attribute,
    channel_axis,
    constant,
    get_tensor,
    give_made,
    give_own,
    kind,
    made_weight,
)
from qcal.quantization.placement import FloatOperation, Layer


def find_layers(module: GraphModule) -> tuple[tuple[Layer, ...], tuple[FloatOperation, ...]]:
    """The layers with quantizable weights, and those without; in the order of the graph.

    Weights that are computed from parameters become constants, and every layer gets a bias of its own, which bias
    correction can move; the numbers that the graph computes stay the same.

    Example:
        >>> from torch import nn, randn
        >>> from qcal.quantization.graph import export_graph
        >>> graph = export_graph(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)), randn(2, 4))
        >>> [(layer.name, layer.target, layer.bias) for layer in find_layers(graph)[0]]
        [('0', '0.weight', '0.bias'), ('2', '2.weight', 'constant_linear_1_bias')]
    """
    layers, in_float, names = [], [], Names()
    for node in list(module.graph.nodes):
        if kind(node) not in LAYERS:
            continue
        name = names.unique(layer_name(node))
        reason = _obstacle(module, node)
        if reason is not None:
            in_float.append(FloatOperation(name, operation_name(node), reason))
            continue
        weight = _weight_target(module, node)
        layers.append(Layer(name, weight, channel_axis(node), _bias_target(module, node, weight), node.name))
    return tuple(layers), tuple(in_float)


def make_weights(module: GraphModule, layers: Sequence[Layer]) -> None:
    """Let the weights of a large network be made when they are read, so that a setting rounds one at a time."""
    nodes = {node.name: node for node in module.graph.nodes}
    readers = {layer.target: _readers(module, layer.target) for layer in layers}
    quantized = {nodes[layer.node] for layer in layers}
    for layer in layers:
        if not quantized.issuperset(readers[layer.target]):
            continue  # another layer shares the weight and stays in float
        made = made_weight(module, layer.target)
        if made is None:
            made = MadeWeight(get_tensor(module, layer.target), channel_axis=layer.channel_axis)
        give_made(module, nodes[layer.node], made, target=layer.target)
    module.graph.eliminate_dead_code()
    module.recompile()


def _obstacle(module: GraphModule, layer: Node) -> str | None:
    """Why the weights of a layer cannot be quantized; None if they can."""
    if constant(module, layer.args[1]) is None:
        return "its weights are computed from the images"
    bias = argument(layer, "bias")
    if bias is not None and constant(module, bias) is None:
        return "its bias is computed from the images"
    if kind(layer) in TRANSPOSED_CONVOLUTIONS and argument(layer, "groups", 1) != 1:
        return "weights of a transposed convolution in groups"
    return None


def _weight_target(module: GraphModule, layer: Node) -> str:
    """Where the weight of a layer is kept for it, and other layers, alone."""
    weight = layer.args[1]
    target = attribute(weight)
    if target is not None and all(
        kind(reader) in LAYERS and attribute(reader.args[1]) == target for reader in _readers(module, target)
    ):
        return target
    return give_own(module, layer, "weight", _constant(module, weight).clone(), target=f"constant_{layer.name}_weight")


def _bias_target(module: GraphModule, layer: Node, weight: str) -> str:
    """Where the bias of a layer is kept for it alone."""
    bias = argument(layer, "bias")
    target = attribute(bias)
    if target is not None and _readers(module, target) == [layer]:
        return target
    if bias is None:
        values = get_tensor(module, weight)
        own = values.new_zeros(values.shape[channel_axis(layer)])
    else:
        own = _constant(module, bias).clone()
    return give_own(module, layer, "bias", own, target=f"constant_{layer.name}_bias")


def _readers(module: GraphModule, target: str) -> list[Node]:
    """Every node that reads the tensor kept under a dotted name."""
    return [reader for node in module.graph.nodes if attribute(node) == target for reader in node.users]


def _constant(module: GraphModule, source: Argument) -> Tensor:
    value = constant(module, source)
    if value is None:
        raise TypeError(f"{source} must be computed from parameters alone. This is a defect of qcal: please report it.")
    return value
