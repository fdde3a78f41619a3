"""Decide where a graph is quantized, and put the quantizers there.

Quantized is what an int8 backend would store, and nothing twice:

- the input;
- the output of every convolution and linear layer, and of every add, mul and cat, after the activation function that
  alone reads it (the activation is computed before the result is stored);
- the output of every batch norm that could not be folded and of every activation that could not be fused, likewise.

Max-pooling, reshaping, slicing, padding, and ReLU of a stored tensor keep the scale of what they read. All other
arithmetic (average pooling, softmax, layer norm, attention, division...) is left in float, and reported.

The tensor that becomes the logits has a quantizer too; whether it is used is a part of the setting.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from qcal.quantization.names import Names, layer_name, operation_name
from qcal.quantization.operators import (
    ACTIVATIONS,
    BATCH_NORMS,
    KEEPS_SCALE,
    LAYERS,
    MERGES,
    TRANSPOSED_CONVOLUTIONS,
    add_tensor,
    argument,
    channel_axis,
    constant,
    data_dependent,
    is_floating,
    kind,
)
from qcal.quantization.quantizer import Quantizer

_STORES_ITS_OUTPUT = LAYERS | MERGES | BATCH_NORMS


@dataclass(frozen=True)
class Layer:
    """A layer whose weights can be quantized.

    Args:
        name: Qualified name of the layer.
        target: Where the graph keeps its weight; two layers may share it.
        channel_axis: Axis of the output channels in that weight.
    """

    name: str
    target: str
    channel_axis: int


@dataclass(frozen=True)
class FloatOperation:
    """Arithmetic that no setting quantizes.

    Args:
        name: Qualified name of the operation.
        operation: What it does, such as `adaptive_avg_pool2d`.
        reason: Why it stays in float.
    """

    name: str
    operation: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """What `place_quantizers` did, in the order of the graph."""

    quantizers: tuple[Quantizer, ...]
    layers: tuple[Layer, ...]
    float_operations: tuple[FloatOperation, ...]


def place_quantizers(module: GraphModule) -> Placement:
    """Insert a `Quantizer` wherever the head of this file says; change `module` in place.

    Raises:
        ValueError: the graph has no convolution or linear layer.

    Example:
        >>> from torch import nn, randn
        >>> from qcal.quantization.graph import export_graph
        >>> graph = export_graph(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), randn(2, 4))
        >>> [(q.name, q.is_output) for q in place_quantizers(graph).quantizers]
        [('input', False), ('0', False), ('2', True)]
    """
    layers, float_layers = _layers(module)
    if not layers:
        raise ValueError(
            "`model` must have a convolution or linear layer to quantize, found none in its graph. "
            "Pass the part of the network that produces the logits."
        )
    stored, float_operations = _stored_tensors(module.graph)
    logits = _logits_tensor(module.graph, stored)
    names = Names()
    quantizers = tuple(
        _insert(module, value, name=names.unique(name), is_output=value is logits) for value, name in stored.items()
    )
    module.graph.lint()
    module.recompile()
    return Placement(quantizers, layers, (*float_layers, *float_operations))


def _layers(module: GraphModule) -> tuple[tuple[Layer, ...], tuple[FloatOperation, ...]]:
    """The layers with quantizable weights, and those without."""
    layers, in_float, names = [], [], Names()
    for node in list(module.graph.nodes):
        if kind(node) not in LAYERS:
            continue
        name = names.unique(layer_name(node))
        target = _weight_target(module, node)
        if target is None:
            in_float.append(FloatOperation(name, operation_name(node), "its weights are computed from the images"))
        elif kind(node) in TRANSPOSED_CONVOLUTIONS and argument(node, "groups", 1) != 1:
            in_float.append(FloatOperation(name, operation_name(node), "weights of a transposed convolution in groups"))
        else:
            layers.append(Layer(name, target, channel_axis(node)))
    return tuple(layers), tuple(in_float)


def _weight_target(module: GraphModule, layer: Node) -> str | None:
    """Where the weight of a layer is kept for it (and other layers) alone; None if it depends on the images."""
    weight = layer.args[1]
    if not isinstance(weight, Node):
        return None
    if weight.op == "get_attr" and all(kind(user) in LAYERS and user.args[1] is weight for user in weight.users):
        return str(weight.target)
    value = constant(module, weight)
    if value is None:
        return None
    target = f"constant_{layer.name}_weight"
    layer.update_arg(1, add_tensor(module, layer, target, value.clone()))
    return target


def _stored_tensors(graph: Graph) -> tuple[dict[Node, str], list[FloatOperation]]:
    """The nodes to quantize with the name of the layer that makes them, and the arithmetic left in float."""
    dependent = data_dependent(graph)
    stored: dict[Node, str] = {}
    scaled: set[Node] = set()  # holds numbers of a stored tensor
    float_operations = []
    for node in graph.nodes:
        if node in scaled or node not in dependent or node.op == "output" or not is_floating(node):
            continue
        keeps_scale = kind(node) in KEEPS_SCALE
        if keeps_scale and any(source in scaled for source in node.all_input_nodes):
            scaled.add(node)
        elif node.op == "placeholder" or kind(node) in _STORES_ITS_OUTPUT | ACTIVATIONS:
            value = _after_activation(node)
            stored[value] = layer_name(node)
            scaled |= {node, value}
        elif not keeps_scale:
            float_operations.append(FloatOperation(layer_name(node), operation_name(node), "no integer form"))
    return stored, float_operations


def _after_activation(node: Node) -> Node:
    """The activation function that alone reads `node`, or `node` itself."""
    if node.op != "placeholder" and len(node.users) == 1:
        (reader,) = node.users
        if kind(reader) in ACTIVATIONS and reader.args[0] is node and kind(node) in _STORES_ITS_OUTPUT:
            return reader
    return node


def _logits_tensor(graph: Graph, stored: dict[Node, str]) -> Node:
    """The stored tensor whose numbers are the logits; the logits themselves become one if none is."""
    (logits,) = graph.output_node().all_input_nodes
    node = logits
    while node not in stored and kind(node) in KEEPS_SCALE:
        node = node.all_input_nodes[0]
    if node not in stored:
        stored[logits] = "output"
        return logits
    return node


def _insert(module: GraphModule, value: Node, *, name: str, is_output: bool) -> Quantizer:
    """Put a quantizer between a node and all its readers."""
    meta = value.meta.get("val")
    shape = tuple(int(size) for size in meta.shape[1:]) if isinstance(meta, Tensor) else ()
    # The quantizer is the only reader, so it may overwrite what it reads if that is a new tensor and not a view.
    is_new = kind(value) in _STORES_ITS_OUTPUT | ACTIVATIONS
    quantizer = Quantizer(name, shape, is_output=is_output, inplace=is_new)
    target = f"quantizer_{value.name}"
    module.add_module(target, quantizer)
    with module.graph.inserting_after(value):
        node = module.graph.call_module(target, (value,))
    node.meta["val"] = meta
    value.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return quantizer
