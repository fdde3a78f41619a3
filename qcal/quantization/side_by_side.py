"""Run the float and the quantized network side by side, layer by layer, so that each layer can be set right in turn.

Methods that make up for the error of earlier layers need, at each layer, what it reads in the network quantized so far
and what it makes in the float network. Here all images pass one node before any passes the next. So each node is
computed once in either network, two passes in all, however many layers there are; where nothing quantized was met yet,
once for both. The price is memory: of all images at once, the tensors that are still to be read, twice. `MAX_BYTES`
bounds it: `max_images` says how many images that is for a network.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from qcal.quantization.operators import ACTIVATIONS, attribute, constant, get_tensor, kind
from qcal.quantization.placement import Layer, Placement

# Of the tensors of both networks at the widest place. 20,000 images of CIFAR's size in a ResNet20; 200 to 500 of
# ImageNet's in a ResNet50 or MobileNetV2.
MAX_BYTES = 4 << 30

_Values = dict[Node, list[Any]]  # Any: a node yields a tensor, several, or a number; one entry a batch


@dataclass(frozen=True)
class LayerInTurn:
    """A layer at the moment when it is its turn.

    Attributes:
        layer: Which.
        inputs: What it reads in the network quantized so far, a tensor a batch.
        expected: What it makes in the float network, likewise.
        activation: The function that alone reads the layer; the identity if there is none.
        channel_dim: The dimension of what it makes that runs over its output channels.
    """

    layer: Layer
    inputs: list[Tensor]
    expected: list[Tensor]
    activation: Callable[[Tensor], Tensor]
    channel_dim: int
    _module: GraphModule
    _node: Node

    def output(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the layer makes of `x` with another weight and, if given, another bias."""
        args = [x, weight, *self._node.args[2:]]
        kwargs = dict(self._node.kwargs)
        own = get_tensor(self._module, self.layer.bias) if bias is None else bias
        if len(args) > 2:
            args[2] = own
        else:
            kwargs["bias"] = own
        assert callable(self._node.target)
        result: Tensor = self._node.target(*args, **kwargs)
        return result


def side_by_side(
    module: GraphModule,
    placement: Placement,
    batches: Iterable[Tensor],
    visit: Callable[[LayerInTurn], list[Tensor] | None],
) -> None:
    """Show every layer with its inputs to `visit`, in the order of the graph; stop after the last one.

    Args:
        module: The prepared graph, float weights bound, grids of its quantizers off.
        placement: What was placed in it.
        batches: Images (N, ...).
        visit: Returns what the layer makes in the quantized network, a tensor a batch; None if that is what it always
            makes of its inputs.
    """
    layers = {layer.node: layer for layer in placement.layers}
    # Clones of tensors made in inference mode (Lightning's test loop): those cannot take part in learning anything.
    images = [x.clone() if x.is_inference() else x for x in batches]
    float_values: _Values = {}
    values: _Values = {}
    last_read = _last_read(module.graph)
    # An operation that writes to what it reads must not do so twice, once for either network.
    shares = not any(_writes(node) for node in module.graph.nodes)
    copies = images if shares else [x.clone() for x in images]
    for node in module.graph.nodes:
        if node.op == "output" or not layers:
            return
        float_values[node] = _computed(module, node, float_values, images)
        made = None
        if node.name in layers:
            made = visit(_in_turn(module, node, layers.pop(node.name), values, float_values))
        if made is not None:
            values[node] = made
        elif shares and all(values[source] is float_values[source] for source in node.all_input_nodes):
            values[node] = float_values[node]
        else:
            values[node] = _computed(module, node, values, copies)
        for read in last_read[node]:
            del float_values[read], values[read]


def max_images(module: GraphModule) -> int:
    """How many images `side_by_side` can take within `MAX_BYTES`; at least 1.

    An upper bound of what they need is counted: a view counts as a tensor of its own.
    """
    last_read = _last_read(module.graph)
    now = widest = 0
    for node in module.graph.nodes:
        now += _bytes_an_image(node)
        widest = max(widest, now)
        now -= sum(_bytes_an_image(read) for read in last_read[node])
    return max(1, MAX_BYTES // max(1, 2 * widest))


def _bytes_an_image(node: Node) -> int:
    """Size of one image's share of what a node yields; parameters are no image's."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    tensors = [v for v in values if isinstance(v, Tensor) and attribute(node) is None]
    return sum(v.element_size() * prod(size for size in v.shape if isinstance(size, int)) for v in tensors)


def _in_turn(module: GraphModule, node: Node, layer: Layer, values: _Values, float_values: _Values) -> LayerInTurn:
    source = node.args[0]
    assert isinstance(source, Node)
    is_linear = kind(node) is torch.ops.aten.linear
    return LayerInTurn(
        layer, values[source], float_values[node], _activation(module, node), -1 if is_linear else 1, module, node
    )


def _activation(module: GraphModule, node: Node) -> Callable[[Tensor], Tensor]:
    """The activation function fused to a layer: the one that alone reads it."""
    reader = next(iter(node.users))
    if len(node.users) > 1 or kind(reader) not in ACTIVATIONS or reader.args[0] is not node:
        return lambda y: y
    args, kwargs = map_arg((reader.args[1:], reader.kwargs), lambda source: constant(module, source))
    function = reader.target
    assert callable(function)
    return lambda y: function(y, *args, **kwargs)


def _computed(module: GraphModule, node: Node, values: _Values, images: list[Tensor]) -> list[Any]:  # Any: see _Values
    """What a node yields for every batch."""
    if node.op == "placeholder":
        return images
    if attribute(node) is not None:
        return [get_tensor(module, str(node.target))] * len(images)
    function = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    assert callable(function)
    results = []
    for batch in range(len(images)):
        of_batch = {source: values[source][batch] for source in node.all_input_nodes}
        args, kwargs = map_arg((node.args, node.kwargs), of_batch.__getitem__)
        results.append(function(*args, **kwargs))
    return results


def _last_read(graph: Graph) -> dict[Node, list[Node]]:
    """For each node those whose values nobody reads after it, itself if nobody reads it at all."""
    last: dict[Node, Node] = {}
    for node in graph.nodes:
        for source in (node, *node.all_input_nodes):
            last[source] = node
    read: dict[Node, list[Node]] = defaultdict(list)
    for source, node in last.items():
        read[node].append(source)
    return read


def _writes(node: Node) -> bool:
    """Whether an operation writes to what it reads."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)
