"""Cross-layer equalization: share out the ranges of neighbouring layers' weights between them, channel by channel.

Between two layers, channel i of the first's output can be divided by any s_i > 0 and the second's weights for it
multiplied by it: what is between must only scale with its input, f(x / s) = f(x) / s, as ReLU does and pooling does.
With r1_i and r2_i the largest absolute weight of channel i before and after,

    s_i = sqrt(r1_i / r2_i)        W1_i <- W1_i / s_i        b1_i <- b1_i / s_i        W2_i <- W2_i * s_i

gives both the range sqrt(r1_i r2_i). Pairs are visited in turn until nothing moves: in a chain of convolution,
depthwise convolution and convolution each visit to one pair moves the other.

A clamp at c (ReLU6: c = 6) does not scale with its input. The paper puts ReLU in its place, which changes the network.
Here each channel gets a clamp of its own at c / s_i, which is exact: `clamp(x / s, 0, c / s) = clamp(x, 0, c) / s`.

References:
    Nagel, van Baalen, Blankevoort, Welling, Data-Free Quantization Through Weight Equalization and Bias Correction,
    ICCV 2019, section 4.1, eq. 11 (their ranges are twice ours, which cancels).
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qcal.quantization.equalization_pairs import Clamp, Pair, find_pairs
from qcal.quantization.graph import device_of, plain_mode
from qcal.quantization.operators import aten, get_tensor, set_tensor
from qcal.quantization.placement import Layer, Placement

# Converged when no scale moves a range by more than this factor; a step of an 8-bit grid is 1 / 127 of it.
_TOLERANCE = 1e-3
_MAX_SWEEPS = 1000
# A channel this much smaller than the largest of its layer is dead to any quantizer and takes no part. Raising it
# would divide by next to nothing: weight decay leaves channels of 1e-30, with biases that would become 1e14.
_DEAD = 1e-6


@dataclass(frozen=True)
class EqualizedPair:
    """Two layers whose channels were scaled against each other.

    Args:
        first: Name of the layer whose output channels were divided.
        second: Name of the layer whose input channels were multiplied.
        scale: The divisor s (C,) of each output channel of `first`, float64; 1 for dead channels.
        num_dead: How many channels were left alone because one of their two ranges is (next to) zero.
    """

    first: str
    second: str
    scale: Tensor
    num_dead: int


def equalize(graph: GraphModule, placement: Placement) -> tuple[GraphModule, tuple[EqualizedPair, ...]]:
    """A copy of a prepared graph that computes the same with equalized weights.

    A pair is two layers with quantizable weights that no other layer shares, where the first's output is read by the
    second alone and all between them scales with its input, channel by channel (see `find_pairs`). Activations change
    their scale with the weights, so ranges must be observed on the copy.

    Args:
        graph: A prepared graph: batch norm folded, quantizers placed. Not changed.
        placement: What was placed in it. `placement.in_copy(copy)` is that of the copy.

    Returns:
        The copy, and the pairs in the order of the graph; none if the network has no such neighbours.

    Example:
        >>> from torch import nn
        >>> from qcal.quantization.graph import export_graph
        >>> from qcal.quantization.place import place_quantizers
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> graph = export_graph(net, torch.randn(2, 4))
        >>> equalized, pairs = equalize(graph, place_quantizers(graph))
        >>> [(pair.first, pair.second, tuple(pair.scale.shape)) for pair in pairs]
        [('0', '2', (3,))]
    """
    with plain_mode(device_of(graph)):
        equalized = copy.deepcopy(graph)
        pairs = find_pairs(equalized, placement)
        ranges = _Ranges(equalized, pairs)
        alive = [_is_alive(ranges.output(pair.first)) & _is_alive(ranges.input(pair)) for pair in pairs]
        scales = _converged(ranges, pairs, alive)
        for pair, scale in zip(pairs, scales, strict=True):
            _apply(equalized, pair, scale)
        equalized.recompile()
    reports = (
        EqualizedPair(pair.first.name, pair.second.name, scale, int((~living).sum()))
        for pair, scale, living in zip(pairs, scales, alive, strict=True)
    )
    return equalized, tuple(reports)


class _Ranges:
    """The largest absolute weight between any two channels of each layer, which is all that equalization looks at."""

    def __init__(self, module: GraphModule, pairs: tuple[Pair, ...]) -> None:
        self._matrices: dict[str, Tensor] = {}
        for layer, features in [(p.second, p.features) for p in pairs] + [(p.first, 1) for p in pairs]:
            if layer.name not in self._matrices:
                weight = _by_output(get_tensor(module, layer.target), layer)
                matrix = weight.abs().reshape(*weight.shape[:2], -1).amax(2).double()
                self._matrices[layer.name] = matrix.reshape(len(matrix), -1, features).amax(2)

    def output(self, layer: Layer) -> Tensor:
        """The range (C,) of each output channel."""
        return self._matrices[layer.name].amax(1)

    def input(self, pair: Pair) -> Tensor:
        """The range (C,) of each input channel of the second layer of a pair."""
        matrix = self._matrices[pair.second.name]
        return matrix.reshape(pair.groups, -1, matrix.shape[1]).amax(1).flatten()

    def scale(self, pair: Pair, s: Tensor) -> None:
        """Divide the output channels of the first layer by s (C,), multiply the input channels of the second by it."""
        self._matrices[pair.first.name].div_(s[:, None])
        matrix = self._matrices[pair.second.name]
        matrix.mul_(_input_factors(s, pair.groups, len(matrix)))


def _converged(ranges: _Ranges, pairs: tuple[Pair, ...], alive: list[Tensor]) -> list[Tensor]:
    """The scale of each pair after visiting all of them again and again."""
    scales = [torch.ones_like(ranges.output(pair.first)) for pair in pairs]
    for _ in range(_MAX_SWEEPS):
        moved = 0.0
        for index, pair in enumerate(pairs):
            s = (ranges.output(pair.first) / ranges.input(pair)).sqrt()
            s = torch.where(alive[index], s, 1.0)
            ranges.scale(pair, s)
            scales[index] = scales[index] * s
            moved = max(moved, float(s.log().abs().max()))
        if moved < _TOLERANCE:
            break
    return scales


def _is_alive(channel_ranges: Tensor) -> Tensor:
    return channel_ranges > _DEAD * channel_ranges.max()


def _apply(module: GraphModule, pair: Pair, s: Tensor) -> None:
    """Scale the weights, the bias and the clamps of a pair."""
    weight = get_tensor(module, pair.first.target)
    divided = _by_output(weight.double(), pair.first) / s.reshape(-1, *[1] * (weight.dim() - 1))
    set_tensor(module, pair.first.target, _by_output(divided, pair.first).to(weight.dtype))
    bias = get_tensor(module, pair.first.bias)
    set_tensor(module, pair.first.bias, (bias.double() / s).to(bias.dtype))

    weight = get_tensor(module, pair.second.target)
    by_output = _by_output(weight.double(), pair.second)
    factors = _input_factors(s.repeat_interleave(pair.features), pair.groups, len(by_output))
    multiplied = by_output * factors.reshape(*factors.shape, *[1] * (weight.dim() - 2))
    set_tensor(module, pair.second.target, _by_output(multiplied, pair.second).to(weight.dtype))
    for clamp in pair.clamps:
        _clamp_by_channel(module, clamp, s)


def _clamp_by_channel(module: GraphModule, clamp: Clamp, s: Tensor) -> None:
    """Divide the bounds of a clamp by the scale of each channel."""
    node = clamp.node
    value = node.meta["val"]
    by_channel = s.repeat_interleave(clamp.features).reshape(-1, *[1] * (value.dim() - 1 - clamp.channel_dim))
    bounds: list[Node | None] = []
    for name, bound in zip(("lowest", "highest"), clamp.bounds, strict=True):
        if bound is None:
            bounds.append(None)
            continue
        target = f"equalized_{node.name}_{name}"
        set_tensor(module, target, (bound / by_channel).to(value.dtype))
        with module.graph.inserting_before(node):
            fetched = module.graph.get_attr(target)
        fetched.meta["val"] = get_tensor(module, target)
        bounds.append(fetched)
    node.target = aten.clamp.Tensor
    node.args = (node.args[0], *bounds)
    node.kwargs = {}


def _by_output(weight: Tensor, layer: Layer) -> Tensor:
    """The weight with its output channels first, or back: transposed convolutions have them second."""
    return weight.transpose(0, layer.channel_axis)


def _input_factors(s: Tensor, groups: int, num_outputs: int) -> Tensor:
    """The scale of each input channel where a weight (O, I / groups) has it: a group sees its own channels alone."""
    by_group = s.reshape(groups, 1, -1)
    return by_group.expand(groups, num_outputs // groups, by_group.shape[2]).reshape(num_outputs, -1)
