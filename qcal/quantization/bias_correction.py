"""Empirical bias correction: move each layer's bias against the mean error that its rounded weights cause.

Rounded weights W~ on the inputs x~ of the network quantized so far shift the mean of what a layer makes. Per output
channel, the mean over images and positions of that shift is taken off the bias:

    b' = b - mean(W~ x~ + b - (W x + b))

Layers are corrected in order, each seeing what the corrected ones before it make, and before the activation function,
as in the paper. Activations stay in float meanwhile, so that one correction serves any width of them.

References:
    Nagel, van Baalen, Blankevoort, Welling, Data-Free Quantization Through Weight Equalization and Bias Correction,
    ICCV 2019, section 4.2 and appendix D.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule

from qcal.quantization.graph import device_of, plain_mode
from qcal.quantization.operators import get_tensor
from qcal.quantization.placement import Placement
from qcal.quantization.side_by_side import LayerInTurn, max_images, side_by_side


def corrected_biases(
    graph: GraphModule, placement: Placement, weights: Mapping[str, Tensor], images: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Biases that make up for the mean error of rounded weights, layer after layer.

    The result is that of correcting one layer, running the network again, correcting the next, and so on, at the cost
    of two float passes: see `side_by_side`, also for the memory that takes: of more images than fit `MAX_BYTES` there
    the first are used. A hundred are enough, because the mean is over positions too.

    Args:
        graph: A prepared graph, float weights bound, grids of its quantizers off. Not changed.
        placement: What was placed in it.
        weights: Rounded weights, by where the graph keeps them (`Layer.target`): rounded to nearest or by any other
            method. Layers whose weights are not in it are left alone: their weights are in float.
        images: Training images in batches (N, ...) on the device of the graph, without augmentation.

    Returns:
        Corrected biases (C,), by where the graph keeps them (`Layer.bias`), one for each layer with rounded weights.

    Raises:
        ValueError: there is no image, or a name in `weights` is not that of a layer's weight.
    """
    unknown = set(weights) - {layer.target for layer in placement.layers}
    if unknown:
        raise ValueError(
            f"`weights` must be named by `Layer.target` of this placement, got {', '.join(sorted(unknown))}. "
            f"There are: {', '.join(layer.target for layer in placement.layers)}."
        )
    batches = [x for x in _first(images, max_images(graph)) if len(x)]
    if not batches:
        raise ValueError("`images` must hold at least one image, got none. Pass training images, a hundred or more.")
    biases: dict[str, Tensor] = {}

    def correct(turn: LayerInTurn) -> list[Tensor] | None:
        layer = turn.layer
        if layer.target not in weights:
            return None
        weight = weights[layer.target]
        made = [turn.output(x, weight) for x in turn.inputs]
        shift = _mean_shift(made, turn.expected, turn.channel_dim)
        bias = get_tensor(graph, layer.bias)
        biases[layer.bias] = (bias.double() - shift).to(bias.dtype)
        return [_less(y, shift, turn.channel_dim) for y in made]

    with plain_mode(device_of(graph)):
        side_by_side(graph, placement, batches, correct)
    return biases


def _first(batches: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """The first `count` images; no batch after them is read."""
    for x in batches:
        yield x[:count]
        count -= len(x)
        if count <= 0:
            return


def _less(made: Tensor, shift: Tensor, channel_dim: int) -> Tensor:
    """What a layer makes with its bias lowered by `shift` (C,); written into `made`."""
    shape = [1] * made.dim()
    shape[channel_dim] = -1
    return made.sub_(shift.to(made.dtype).reshape(shape))


def _mean_shift(made: list[Tensor], expected: list[Tensor], channel_dim: int) -> Tensor:
    """Mean (C,) of made - expected over all else than channels, in float64."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for ours, theirs in zip(made, expected, strict=True):
        by_channel = (ours - theirs).movedim(channel_dim, 0).flatten(1)
        total = total.to(by_channel.device) + by_channel.sum(1, dtype=torch.float64)
        count += by_channel.shape[1]
    return total / count
