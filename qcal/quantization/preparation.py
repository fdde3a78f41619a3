"""From the user's network to a plan: exported or copied, folded, quantizers placed, laid out for its device."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.attention import decompose_attention
from qcal.quantization.fold import Unfolded, fold_batch_norms
from qcal.quantization.graph import (
    check_agreement,
    check_module,
    checked_copy,
    cuda_devices,
    device_of,
    example_batch,
    export_graph,
    plain_mode,
)
from qcal.quantization.images import ImageReader
from qcal.quantization.layers import make_weights
from qcal.quantization.made_weights import is_large
from qcal.quantization.modules import place_at_modules
from qcal.quantization.place import place_quantizers
from qcal.quantization.placement import Placement
from qcal.quantization.plan import Plan
from qcal.quantization.rules import PlacementName, check_placement
from qcal.quantization.simplify import simplify


def prepare(
    model: nn.Module, example_input: Tensor, *, placement: PlacementName = "graph", shares_large: bool = False
) -> Plan:
    """Export `model`, fold its batch norms, place quantizers; nothing is measured yet.

    Args:
        model: A classifier: images (N, ...) to logits (N, C), any mode and device, compiled or wrapped. Not changed.
        example_input: Images as the plan will get them, at least one; they fix the image size.
        placement: Which tensors are quantized. "graph" (default): what an int8 backend would store. "xia2021": as the
            code behind the paper does. "modules": at the boundaries of modules, for a model that cannot be exported.
            See `qcal.quantization.rules` and `qcal.quantization.modules`.
        shares_large: Whether the plan reads the parameters of `model` itself, instead of a copy, if they are more than
            `made_weights.CACHE_BYTES` and it has a graph: for a model that is a copy already, and is left as it is
            while the plan lives. Its logits are the same.

    Returns:
        A plan on the device of `model`, sharing nothing with it unless `shares_large`.

    Raises:
        TypeError: `model` is not a module or does not return a tensor, or `example_input` is not a tensor.
        ValueError: `model` is not such a classifier, cannot be exported, has nothing to quantize, or computes something
            else after folding; each with its own message (see `export_graph`, `place_quantizers`).

    Example:
        >>> _ = torch.manual_seed(0)
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> images = torch.randn(16, 3, 8, 8)
        >>> plan = prepare(net, images)
        >>> plan.observe(images)
        >>> plan.run("w8a8", images).shape
        torch.Size([16, 10])
        >>> [quantizer.name for quantizer in plan.quantizers]
        ['input', '0', '4']
    """
    check_placement(placement)
    check_module(model)
    # Drawing random numbers in eval mode is the network's right; moving the caller's generator is not ours.
    with plain_mode(device_of(model)), torch.random.fork_rng(cuda_devices(model)):
        if placement == "modules":
            network, placed, unfolded, example, expected = _modules(model, example_input)
        else:
            shares = shares_large and is_large(model)
            network, placed, unfolded, example, expected = _graph(model, example_input, placement, shares=shares)
        layout = _fastest_layout(network, example, expected)
    reader = ImageReader(tuple(example.shape[1:]), example.dtype, example.device, layout)
    return Plan(network, placed, tuple(unfolded), reader)


def _graph(
    model: nn.Module, example_input: Tensor, placement: PlacementName, *, shares: bool
) -> tuple[nn.Module, Placement, list[Unfolded], Tensor, Tensor]:
    graph = export_graph(model, example_input, shares=shares)
    example = example_batch(example_input, model)
    expected = graph(example.clone())  # before simplifying, a graph may write to its input
    simplify(graph)
    decompose_attention(graph)
    makes_weights = is_large(graph)
    unfolded = fold_batch_norms(graph, placement)
    placed = place_quantizers(graph, placement)
    if makes_weights:
        make_weights(graph, placed.layers)
    return GraphModule(graph, graph.graph), placed, unfolded, example, expected  # holds only what the graph reads


def _modules(model: nn.Module, example_input: Tensor) -> tuple[nn.Module, Placement, list[Unfolded], Tensor, Tensor]:
    network, example, expected = checked_copy(model, example_input)
    return *place_at_modules(network, example), example, expected


def _fastest_layout(network: nn.Module, example: Tensor, expected: Tensor) -> torch.memory_format:
    """Lay out the weights of a network on images as its device likes them, and say how images must be laid out.

    On a CPU convolutions of few channels run up to three times as fast in channels_last. On other devices the layout of
    the user's weights is kept. A graph that has the usual layout written into it (strides, say) gets that. Either way
    the graph must still agree with the network.
    """
    if example.dim() == 4 and (example.device.type == "cpu" or _is_channels_last(network)):
        network.to(memory_format=torch.channels_last)
        try:
            check_agreement(network(example.contiguous(memory_format=torch.channels_last)), expected, of="The graph")
        except (RuntimeError, ValueError):
            network.to(memory_format=torch.contiguous_format)
        else:
            return torch.channels_last
    check_agreement(network(example), expected, of="The graph with batch norm folded")
    return torch.contiguous_format


def _is_channels_last(network: nn.Module) -> bool:
    """Whether a convolution's weight is laid out with its channels last."""
    weights = [*network.parameters(), *network.buffers()]
    return any(
        w.dim() == 4 and w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights
    )
