"""Put quantizers into a graph, at the sites that `qcal.quantization.sites` finds."""

from torch import Tensor
from torch.fx import GraphModule, Node

from qcal.quantization.layers import find_layers
from qcal.quantization.names import Names, layer_name
from qcal.quantization.operators import (
    ACTIVATIONS,
    AVERAGES,
    BATCH_NORMS,
    LAYERS,
    MERGES,
    data_dependent,
    keeps_scale,
    kind,
)
from qcal.quantization.placement import Placement, StoredTensor
from qcal.quantization.quantizer import Quantizer
from qcal.quantization.rules import PlacementName, rules_of
from qcal.quantization.sites import Sites, find_sites


def place_quantizers(module: GraphModule, placement: PlacementName = "graph") -> Placement:
    """Insert a `Quantizer` at every tensor that is stored; change `module` in place.

    Args:
        module: An exported graph, simplified and with batch norms folded.
        placement: "graph" (default): see `qcal.quantization.sites`. "xia2021": see `qcal.quantization.rules`.

    Raises:
        ValueError: the graph has no convolution or linear layer, or `placement` is no name of one.

    Example:
        >>> from torch import nn, randn
        >>> from qcal.quantization.graph import export_graph
        >>> graph = export_graph(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), randn(2, 4))
        >>> [(q.name, q.is_output) for q in place_quantizers(graph).quantizers]
        [('input', False), ('0', False), ('2', True)]
    """
    rules = rules_of(placement)
    layers, float_layers = find_layers(module)
    if not layers:
        raise ValueError(
            "`model` must have a convolution or linear layer to quantize, found none in its graph. "
            "Pass the part of the network that produces the logits."
        )
    dependent = data_dependent(module.graph)
    sites = find_sites(module.graph, dependent, rules)
    names, layer_names = Names(), {layer.node: layer.name for layer in layers}
    # Before any quantizer is in the way.
    neighbours = {n: (_producer(n, layer_names), *_readers(n, layer_names, dependent, sites)) for n in sites.stored}
    stored, targets = [], {}
    for value, name in sites.stored.items():
        targets[value] = f"quantizer_{value.name}"
        quantizer = _quantizer(value, names.unique(name), is_output=value is sites.logits)
        module.add_module(targets[value], quantizer)
        _pass(module, value, targets[value])
        averages = tuple(layer_name(average) for average, source in sites.averages.items() if source is value)
        stored.append(StoredTensor(quantizer, *neighbours[value], averages))
    for average, value in sites.averages.items():
        _pass(module, average, targets[value])
    module.graph.lint()
    module.recompile()
    return Placement(tuple(stored), layers, (*float_layers, *sites.float_operations), placement)


def _readers(
    value: Node, layer_names: dict[str, str], dependent: set[Node], sites: Sites
) -> tuple[tuple[str, ...], bool]:
    """The layers that read the numbers of a stored tensor, and whether anything else does."""
    names: dict[str, None] = {}
    elsewhere = False
    waiting = [(value, reader) for reader in value.users]
    for source, reader in waiting:
        if reader.name in layer_names and reader.args[0] is source:
            names[layer_names[reader.name]] = None
        elif reader not in sites.stored and (keeps_scale(reader) or reader in sites.averages):
            waiting.extend((reader, next_reader) for next_reader in reader.users)
        elif reader in dependent:  # what reads the shape alone does not
            elsewhere = True
    return tuple(names), elsewhere


def _producer(value: Node, layer_names: dict[str, str]) -> str | None:
    """The layer that makes a stored tensor, alone or with its activation function."""
    source = value.args[0] if kind(value) in ACTIVATIONS and value.args else value
    return layer_names.get(source.name) if isinstance(source, Node) else None


def _quantizer(value: Node, name: str, *, is_output: bool) -> Quantizer:
    meta = value.meta.get("val")
    shape = tuple(int(size) for size in meta.shape[1:]) if isinstance(meta, Tensor) else ()
    # The quantizer is the only reader, so it may overwrite what it reads if that is a new tensor and not a view.
    is_new = kind(value) in LAYERS | MERGES | BATCH_NORMS | ACTIVATIONS | AVERAGES
    return Quantizer(name, shape, is_output=is_output, inplace=is_new)


def _pass(module: GraphModule, value: Node, target: str) -> None:
    """Let all readers of a node read what a quantizer makes of it."""
    with module.graph.inserting_after(value):
        node = module.graph.call_module(target, (value,))
    node.meta["val"] = value.meta.get("val")
    value.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
