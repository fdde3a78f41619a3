"""Write fused attention out as the two matrix products and the softmax that it is, so that their inputs can be stored.

    attention(q, k, v) = softmax(q k^T * scale + mask) v

An int8 backend multiplies integers in both products and computes the softmax in float; inside one fused operation the
softmax's result could not be quantized. The logits move by float rounding only.
"""

import math

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument

from qcal.quantization.operators import add_tensor, argument, aten, kind


def decompose_attention(module: GraphModule) -> None:
    """Replace every `scaled_dot_product_attention` that needs no special treatment; change `module` in place.

    Left as they are, and so reported as arithmetic in float: grouped queries, dropout, a causal mask on sequences whose
    length is not fixed.

    Example:
        >>> from qcal.quantization.graph import export_graph
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.nn.functional.scaled_dot_product_attention(x, x, x).mean(1)
        >>> graph = export_graph(Net(), torch.randn(2, 5, 4))
        >>> decompose_attention(graph)
        >>> [str(node.target) for node in graph.graph.nodes if node.op == "call_function"][:4]
        ['aten.transpose.int', 'aten.matmul.default', 'aten.mul.Scalar', 'aten.softmax.int']
    """
    for node in list(module.graph.nodes):
        if kind(node) is aten.scaled_dot_product_attention and _is_plain(node):
            with module.graph.inserting_before(node):
                result = _written_out(module, node)
            result.meta = dict(node.meta)
            node.replace_all_uses_with(result)
            module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


def _is_plain(node: Node) -> bool:
    lengths = _lengths(node)
    causal_of_any_length = argument(node, "is_causal", False) is True and not all(isinstance(n, int) for n in lengths)
    has_dropout = argument(node, "dropout_p", 0.0) not in (0.0, None)
    return not (has_dropout or causal_of_any_length or argument(node, "enable_gqa", False) is True)


def _written_out(module: GraphModule, node: Node) -> Node:
    """The nodes that compute the attention of `node`; returns the last."""
    query, key, value = (argument(node, name) for name in ("query", "key", "value"))
    graph = module.graph
    transposed = _call(graph, node, aten.transpose.int, (key, -2, -1))
    scores = _call(graph, node, aten.matmul.default, (query, transposed))
    scores = _call(graph, node, aten.mul.Scalar, (scores, _scale(node)))
    scores = _masked(module, node, scores)
    weights = _call(graph, node, aten.softmax.int, (scores, -1))
    return _call(graph, node, aten.matmul.default, (weights, value))


def _call(graph: Graph, like: Node, target: torch._ops.OpOverload, args: tuple[Argument, ...]) -> Node:
    """A new node that says of itself where it comes from, and of its result what it would be."""
    node = graph.call_function(target, args)
    node.meta["nn_module_stack"] = like.meta.get("nn_module_stack", {})
    values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
    node.meta["val"] = target(*values)  # of fake tensors, which have shapes and no numbers
    return node


def _scale(node: Node) -> float:
    scale = argument(node, "scale")
    query = argument(node, "query")
    if isinstance(scale, float | int):
        return float(scale)
    return 1 / math.sqrt(query.meta["val"].shape[-1]) if isinstance(query, Node) else 1.0


def _masked(module: GraphModule, node: Node, scores: Node) -> Node:
    """The scores with -inf where a query may not look, or with the numbers of the mask added."""
    mask = argument(node, "attn_mask")
    if argument(node, "is_causal", False) is True:
        query, key = _lengths(node)
        hidden = add_tensor(module, node, f"causal_{node.name}", torch.ones(query, key, dtype=torch.bool).triu(1))
    elif not isinstance(mask, Node):
        return scores
    elif mask.meta["val"].dtype == torch.bool:
        hidden = _call(module.graph, node, aten.logical_not.default, (mask,))
    else:
        return _call(module.graph, node, aten.add.Tensor, (scores, mask))
    return _call(module.graph, node, aten.masked_fill.Scalar, (scores, hidden, -math.inf))


def _lengths(node: Node) -> tuple[int, int]:
    """How many queries and keys there are; symbols where that is not fixed."""
    query, key = argument(node, "query"), argument(node, "key")
    if not (isinstance(query, Node) and isinstance(key, Node)):
        raise TypeError(f"{node} must attend to tensors of the graph. This is a defect of qcal: please report it.")
    first, second = query.meta["val"], key.meta["val"]
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)):
        raise TypeError(f"{node} must attend to tensors of known shape. This is a defect of qcal: please report it.")
    return first.shape[-2], second.shape[-2]
