"""Bring an exported graph into the plain form that folding and placement read.

Dropped: what does nothing in eval mode (dropout, same-dtype casts, assertions). Replaced: in-place operations by those
that return a new tensor, so that a quantizer in between cannot change what another reader sees, and `view` by
`reshape`, which also takes tensors laid out as channels_last. The numbers stay the same.
"""

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from qcal.quantization.operators import argument, aten, data_dependent, kind

_DROPOUTS = {aten.dropout, aten.dropout_, aten.feature_dropout, aten.feature_dropout_, aten.alpha_dropout}
_COPIES_NOTHING = {aten.detach, aten.detach_, aten.alias}


def simplify(module: GraphModule) -> None:
    """Rewrite the graph of `module` in place.

    Example:
        >>> from qcal.quantization.graph import export_graph
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU(inplace=True), torch.nn.Dropout())
        >>> graph = export_graph(net, torch.randn(2, 4))
        >>> simplify(graph)
        >>> [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        ['aten.linear.default', 'aten.relu.default']
    """
    for node in list(module.graph.nodes):
        if kind(node) is aten._assert_tensor_metadata:
            module.graph.erase_node(node)
        elif _is_identity(node):
            node.replace_all_uses_with(node.all_input_nodes[0])
            module.graph.erase_node(node)
        elif kind(node) is aten.view:
            node.target = aten.reshape.default
    dependent = data_dependent(module.graph)
    for node in list(module.graph.nodes):
        if node in dependent:
            _make_functional(node)
    _protect_images(module.graph)
    module.graph.lint()
    module.recompile()


def _is_identity(node: Node) -> bool:
    if kind(node) in _DROPOUTS:
        return argument(node, "train") is False
    if kind(node) in _COPIES_NOTHING:
        return True
    if kind(node) is aten.to and argument(node, "copy", False) is False:
        before, after = node.all_input_nodes[0].meta.get("val"), node.meta.get("val")
        return (
            isinstance(before, Tensor)
            and isinstance(after, Tensor)
            and (before.dtype, before.device, before.layout) == (after.dtype, after.device, after.layout)
        )
    return False


def _make_functional(node: Node) -> None:
    """Replace `x.op_(...)` by `y = op(x, ...)`, and `x` by `y` for every later reader.

    Left as it is where `x` shares its storage with another node: that one would have to change too.
    """
    functional = _functional_form(node)
    if functional is None:
        return
    changed = node.args[0]
    if not isinstance(changed, Node) or _is_view(changed) or any(_is_view(user) for user in changed.users):
        return
    node.target = functional
    changed.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node and user > node)


def _protect_images(graph: Graph) -> None:
    """Work on a copy of the images where something still writes in place: it might write to them."""
    dependent = data_dependent(graph)
    if not any(_is_in_place(node) for node in dependent):
        return
    for images in [node for node in graph.nodes if node.op == "placeholder"]:
        with graph.inserting_after(images):
            duplicate = graph.call_function(aten.clone.default, (images,))
        duplicate.meta["val"] = images.meta.get("val")
        images.replace_all_uses_with(duplicate, delete_user_cb=lambda user, own=duplicate: user is not own)


def _functional_form(node: Node) -> torch._ops.OpOverload | None:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not _is_in_place(node):
        return None
    packet = getattr(aten, target._schema.name.removeprefix("aten::").removesuffix("_"), None)
    overload = getattr(packet, target._overloadname, None)
    return overload if isinstance(overload, torch._ops.OpOverload) and overload is not target else None


def _is_in_place(node: Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target.namespace == "aten" and target._schema.is_mutable


def _is_view(node: Node) -> bool:
    """Whether the result may share the storage of an argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
