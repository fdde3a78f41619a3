"""What the operations of an exported graph mean to quantization, and how a graph is asked about them.

An int8 backend knows four kinds: layers with weights, merges of several tensors, element-wise functions, and operations
that only move numbers and so keep the scale of what they move. Anything else is arithmetic it would do in float.
"""

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument, map_arg

from qcal.quantization.made_weights import MadeWeight, Rounding

aten = torch.ops.aten

CONVOLUTIONS = {aten.conv1d, aten.conv2d, aten.conv3d}
TRANSPOSED_CONVOLUTIONS = {aten.conv_transpose1d, aten.conv_transpose2d, aten.conv_transpose3d}
LAYERS = CONVOLUTIONS | TRANSPOSED_CONVOLUTIONS | {aten.linear}
BATCH_NORMS = {aten.batch_norm}
MERGES = {aten.add, aten.mul, aten.cat, aten.concat, aten.concatenate, aten.stack}
ACTIVATIONS = {
    aten.relu,
    aten.relu6,
    aten.hardtanh,
    aten.clamp,
    aten.clamp_min,
    aten.leaky_relu,
    aten.prelu,
    aten.elu,
    aten.celu,
    aten.selu,
    aten.gelu,
    aten.silu,
    aten.mish,
    aten.softplus,
    aten.hardswish,
    aten.hardsigmoid,
    aten.sigmoid,
    aten.tanh,
}
# ReLU of stored integers is a maximum with the zero point: no new scale. So it keeps the scale where it is not fused.
KEEPS_SCALE = {
    aten.relu,
    aten.max_pool1d,
    aten.max_pool2d,
    aten.max_pool3d,
    aten.max_pool2d_with_indices,
    aten.adaptive_max_pool1d,
    aten.adaptive_max_pool2d,
    aten.adaptive_max_pool3d,
    aten.amax,
    aten.reshape,
    aten.view,
    aten.flatten,
    aten.unflatten,
    aten.squeeze,
    aten.unsqueeze,
    aten.permute,
    aten.transpose,
    aten.swapaxes,
    aten.movedim,
    aten.t,
    aten.contiguous,
    aten.clone,
    aten.expand,
    aten.repeat,
    aten.roll,
    aten.flip,
    aten.slice,
    aten.select,
    aten.narrow,
    aten.index,
    aten.index_select,
    aten.split,
    aten.split_with_sizes,
    aten.chunk,
    aten.unbind,
    aten.pad,
    aten.constant_pad_nd,
    aten.reflection_pad2d,
    aten.replication_pad2d,
    aten.channel_shuffle,
    aten.pixel_shuffle,
    aten.pixel_unshuffle,
    aten.upsample_nearest2d,
    operator.getitem,
}
# Averages of stored integers are rounded to the scale of what they read: in the backends both share an observer (fbgemm
# and x86 in torch.ao's backend config: OUTPUT_SHARE_OBSERVER_WITH_INPUT; X86InductorQuantizer: SharedQuantizationSpec).
AVERAGES = {
    aten.avg_pool1d,
    aten.avg_pool2d,
    aten.avg_pool3d,
    aten.adaptive_avg_pool1d,
    aten.adaptive_avg_pool2d,
    aten.adaptive_avg_pool3d,
    aten.mean,
}
# Products of two tensors that depend on the images: integers in, float out.
PRODUCTS = {aten.matmul, aten.bmm, aten.mm, aten.baddbmm, aten.einsum}
# Read the shape of a tensor and none of its numbers.
_READS_SHAPE_ONLY = {
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.new_empty,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
}


def kind(node: Node) -> object:
    """The operation of a node whatever its overload: `aten.add` for `aten.add.Tensor`; None if it calls none."""
    if node.op != "call_function":
        return None
    return getattr(node.target, "overloadpacket", node.target)


def argument(node: Node, name: str, default: Argument = None) -> Argument:
    """The value of an operation's argument by its name in the schema, wherever it stands."""
    if name in node.kwargs:
        return node.kwargs[name]
    schema = getattr(node.target, "_schema", None)
    names = [a.name for a in schema.arguments] if schema is not None else []
    position = names.index(name) if name in names else len(node.args)
    return node.args[position] if position < len(node.args) else default


def keeps_scale(node: Node) -> bool:
    """Whether an operation leaves the stored integers of its input as they are.

    A product with a number does: it is the scale that is multiplied.
    """
    by_number = kind(node) in (aten.mul, aten.div) and len(node.args) == 2 and isinstance(node.args[1], int | float)
    return kind(node) in KEEPS_SCALE or by_number


def channel_axis(layer: Node) -> int:
    """The axis of a layer's weight that runs over its output channels."""
    return 1 if kind(layer) in TRANSPOSED_CONVOLUTIONS else 0


def is_floating(node: Node) -> bool:
    """Whether a node yields a floating tensor, or several of them."""
    value = node.meta.get("val")
    values = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(v, Tensor) and v.is_floating_point() for v in values)


def data_dependent(graph: Graph) -> set[Node]:
    """The nodes whose numbers depend on the images; those that know only their number or shape do not count."""
    dependent: set[Node] = set()
    for node in graph.nodes:
        is_data = node.op == "placeholder" or any(source in dependent for source in node.all_input_nodes)
        value = node.meta.get("val")
        is_size = isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float | bool)
        if is_data and not is_size and kind(node) not in _READS_SHAPE_ONLY:
            dependent.add(node)
    return dependent


def constant(module: GraphModule, source: Argument) -> Tensor | None:
    """The tensor a node always yields: a parameter, or what is computed from parameters alone; else None."""
    if not isinstance(source, Node):
        return None
    needed = _ancestors(source)
    if any(attribute(node) is None and node.op != "call_function" for node in needed):
        return None
    values: dict[Node, Argument] = {}
    for node in module.graph.nodes:
        if node in needed and callable(node.target):
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
        elif node in needed:
            values[node] = get_tensor(module, str(node.target))
    value = values[source]
    return value.detach() if isinstance(value, Tensor) else None


def attribute(source: Argument) -> str | None:
    """The dotted name of the tensor that a node fetches, a `MadeWeight` too; None if it does anything else."""
    if not isinstance(source, Node):
        return None
    fetches = source.op == "get_attr" or (source.op == "call_module" and not source.args)
    return str(source.target) if fetches else None


def get_tensor(module: nn.Module, target: str) -> Tensor:
    """The parameter or buffer under a dotted name, or what a `MadeWeight` there makes at this moment."""
    owner, _, name = target.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if isinstance(value, MadeWeight):
        value = value()
    if not isinstance(value, Tensor):
        raise TypeError(f"`{target}` must name a tensor of the graph, got {type(value).__name__}.")
    return value


def set_tensor(module: nn.Module, target: str, value: Tensor) -> None:
    """Bind a dotted name to another tensor, without writing into the one it had."""
    owner_name, _, name = target.rpartition(".")
    owner = module.get_submodule(owner_name)
    made = owner._modules.get(name)
    if isinstance(made, MadeWeight):
        made.replace(value)
        return
    owner._parameters.pop(name, None)
    owner.register_buffer(name, value)


def add_tensor(module: GraphModule, before: Node, target: str, value: Tensor) -> Node:
    """A node in front of `before` that yields a new tensor of the graph, stored under `target`."""
    set_tensor(module, target, value)
    with module.graph.inserting_before(before):
        node = module.graph.get_attr(target)
    node.meta["val"] = value
    return node


def give_own(module: GraphModule, layer: Node, name: str, value: Tensor, *, target: str) -> str:
    """Make a new tensor of the graph, stored under `target`, the argument `name` of a layer; return `target`."""
    _pass_to(layer, name, add_tensor(module, layer, target, value))
    return target


def give_made(module: GraphModule, layer: Node, weight: MadeWeight, *, target: str) -> str:
    """Let a layer read a weight that is made just before it runs, stored under `target`; return `target`."""
    owner_name, _, name = target.rpartition(".")
    owner = module.get_submodule(owner_name)
    for tensors in (owner._parameters, owner._buffers):
        tensors.pop(name, None)
    owner.add_module(name, weight)
    with module.graph.inserting_before(layer):
        node = module.graph.call_module(target)
    node.meta["val"] = weight.source
    _pass_to(layer, "weight", node)
    return target


def _pass_to(layer: Node, name: str, node: Node) -> None:
    position = {"weight": 1, "bias": 2}[name]
    if len(layer.args) > position:
        layer.update_arg(position, node)
    else:
        layer.update_kwarg(name, node)


def _ancestors(source: Node) -> set[Node]:
    needed = {source}
    waiting = [source]
    while waiting:
        fresh = [node for node in waiting.pop().all_input_nodes if node not in needed]
        needed.update(fresh)
        waiting.extend(fresh)
    return needed


@contextmanager
def bound(module: nn.Module, tensors: Mapping[str, Tensor | Rounding]) -> Iterator[None]:
    """Other tensors under these names for the length of a with block; afterwards the very same ones as before.

    Args:
        module: A prepared network.
        tensors: By dotted name; for a `MadeWeight` also a function, what to make of its float weight.
    """
    made = {target: weight for target in tensors if (weight := made_weight(module, target)) is not None}
    before = {target: get_tensor(module, target) for target in tensors if target not in made}
    try:
        for target, value in tensors.items():
            if target in made:
                made[target].binding = value
            elif isinstance(value, Tensor):
                set_tensor(module, target, value)
            else:
                raise TypeError(f"`{target}` is no weight that is made: bind a tensor to it, got a function.")
        yield
    finally:
        for weight in made.values():
            weight.binding = None
        for target, value in before.items():
            set_tensor(module, target, value)


def made_weight(module: nn.Module, target: str) -> MadeWeight | None:
    """The weight under a dotted name if it is made when it is read; None for a tensor."""
    owner, _, name = target.rpartition(".")
    weight = module.get_submodule(owner)._modules.get(name)
    return weight if isinstance(weight, MadeWeight) else None
