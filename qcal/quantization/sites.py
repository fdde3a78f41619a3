"""Find the tensors of a graph that are stored as integers, and the arithmetic that is left in float.

Stored is what an int8 backend would store, and nothing twice:

- the input, as floating numbers;
- the output of every convolution and linear layer, and of every add, mul and cat, after the activation function that
  alone reads it (the activation is computed before the result is stored);
- the output of every batch norm that could not be folded and of every activation that could not be fused, likewise;
- whatever else a layer or the product of two tensors (attention) reads: they multiply integers.

Max-pooling, reshaping, slicing, padding, products with a number, and ReLU of a stored tensor keep the integers of what
they read. Averages are rounded to the scale of what they read, so they pass its quantizer again, as the backends do
that let both share an observer. All other arithmetic (softmax and the scores it reads, layer norm, division...) is left
in float, and reported.

The tensor that becomes the logits has a quantizer too; whether it is used is a part of the setting.
"""

from dataclasses import dataclass, field

from torch.fx import Graph, Node

from qcal.quantization.names import layer_name, operation_name
from qcal.quantization.operators import (
    ACTIVATIONS,
    AVERAGES,
    BATCH_NORMS,
    LAYERS,
    MERGES,
    PRODUCTS,
    aten,
    is_floating,
    keeps_scale,
    kind,
)
from qcal.quantization.placement import FloatOperation
from qcal.quantization.rules import Rules


@dataclass
class Sites:
    """Where a graph is quantized.

    Attributes:
        stored: The nodes that have a quantizer, with the name of the layer that makes them, in the order of the graph.
        averages: Nodes that pass the quantizer of a stored node again, and that node.
        float_operations: Arithmetic left in float, with the reason.
        logits: The stored node whose numbers are the logits.
    """

    stored: dict[Node, str] = field(default_factory=dict)
    averages: dict[Node, Node] = field(default_factory=dict)
    float_operations: list[FloatOperation] = field(default_factory=list)
    logits: Node | None = None


def find_sites(graph: Graph, dependent: set[Node], rules: Rules) -> Sites:
    """The sites of a graph.

    Args:
        graph: A simplified graph with batch norms folded.
        dependent: Its nodes whose numbers depend on the images (`operators.data_dependent`).
        rules: Which tensors are stored.
    """
    sites = Sites()
    holds: dict[Node, Node] = {}  # a node -> the stored node whose integers, or whose scale, it has
    scores = _scores(graph)
    for node in graph.nodes:
        if node in holds or node not in dependent or node.op == "output" or not is_floating(node):
            continue
        source = next((holds[other] for other in node.all_input_nodes if other in holds), None)
        if source is not None and keeps_scale(node):
            holds[node] = source
        elif source is not None and kind(node) in rules.averages:
            sites.averages[node] = holds[node] = source
        elif _is_stored(node, rules, scores):
            value = _after_activation(node, rules)
            sites.stored[value] = "input" if _is_image(node) else layer_name(node)
            holds[node] = holds[value] = value
        elif not keeps_scale(node):
            reason = "scores of a softmax" if node in scores else _why_float(node, dependent, rules)
            if reason is not None:
                sites.float_operations.append(FloatOperation(layer_name(node), operation_name(node), reason))
    _store_what_integers_are_read_from(graph, dependent, rules, sites, holds)
    _find_logits(graph, sites)
    order = {node: position for position, node in enumerate(graph.nodes)}
    sites.stored = dict(sorted(sites.stored.items(), key=lambda item: order[item[0]]))
    return sites


def _is_stored(node: Node, rules: Rules, scores: set[Node]) -> bool:
    is_merge = kind(node) in MERGES
    if is_merge and (keeps_scale(node) or node in scores):
        return False
    return _is_image(node) or kind(node) in rules.stores | rules.functions


def _scores(graph: Graph) -> set[Node]:
    """Sums, products with numbers and masks that only a softmax reads: it takes them as the floats they are."""
    scores: set[Node] = set()
    for node in reversed(graph.nodes):
        passes_on = kind(node) in MERGES | {aten.masked_fill} or keeps_scale(node)
        if passes_on and node.users and all(kind(user) is aten.softmax or user in scores for user in node.users):
            scores.add(node)
    return scores


def _is_image(node: Node) -> bool:
    """Whether a floating node is the input, or the input cast from integers."""
    is_cast = kind(node) is aten.to and all(source.op == "placeholder" for source in node.all_input_nodes)
    return node.op == "placeholder" or is_cast


def _store_what_integers_are_read_from(
    graph: Graph, dependent: set[Node], rules: Rules, sites: Sites, holds: dict[Node, Node]
) -> None:
    """Store the results of arithmetic in float that a layer or a product of tensors reads."""
    for node in graph.nodes:
        if node not in dependent or kind(node) not in rules.readers_of_integers:
            continue
        for read in node.all_input_nodes if kind(node) in PRODUCTS else node.all_input_nodes[:1]:
            source = read
            while source not in holds and keeps_scale(source):
                source = source.all_input_nodes[0]
            if source in dependent and source not in holds and is_floating(source):
                sites.stored[source] = layer_name(source)
                holds[source] = source


def _after_activation(node: Node, rules: Rules) -> Node:
    """The activation function that alone reads `node`, or `node` itself."""
    if node.op != "placeholder" and len(node.users) == 1:
        (reader,) = node.users
        if kind(reader) in rules.fuses and reader.args[0] is node and kind(node) in rules.fuses_after:
            return reader
    return node


def _why_float(node: Node, dependent: set[Node], rules: Rules) -> str | None:
    """The reason that the summary gives; None for the product of tensors that are stored as integers."""
    if kind(node) in PRODUCTS & rules.readers_of_integers:
        is_constant = any(other not in dependent for other in node.all_input_nodes)
        return "multiplies by a constant that is no layer's weight" if is_constant else None
    if kind(node) in AVERAGES & rules.averages:
        return "average of a tensor in float"
    has_integer_form = kind(node) in LAYERS | MERGES | BATCH_NORMS | ACTIVATIONS | AVERAGES | PRODUCTS
    return rules.left_out if has_integer_form else "no integer form"


def _find_logits(graph: Graph, sites: Sites) -> None:
    """The stored tensor whose numbers are the logits; the logits themselves become one if none is."""
    (logits,) = graph.output_node().all_input_nodes
    node = logits
    while node not in sites.stored and node not in sites.averages and keeps_scale(node):
        node = node.all_input_nodes[0]
    if node not in sites.stored:
        # An average that becomes the logits is quantized as logits are, or not at all.
        sites.averages.pop(node, None)
        sites.stored[logits] = "output"
        node = logits
    sites.logits = node
