"""AdaRound: round each weight up or down as is best for the output of its layer, not as is nearest.

Layer by layer, in the order of the network, with h in [0, 1] for each weight w and s the step of its grid,

    w~ = s * clamp(floor(w / s) + h, quant_min, quant_max)        h = clamp(sigmoid(v) * (zeta - gamma) + gamma, 0, 1)

v is learned, so that with the layer's activation function f the layer makes of the inputs x~ it gets from the network
quantized so far what it makes of the float ones, x:

    minimise  mean over images and positions of || f(W x) - f(W~ x~) ||^2  +  weight * sum (1 - |2 h - 1|^beta)

The second term pushes each h to 0 or 1; it is absent at first (warm start), and beta falls along half a cosine. In the
end h is taken as 0 or 1. zeta 1.1 and gamma -0.1 let h reach both ends.

References:
    Nagel, Amjad, van Baalen, Louizos, Blankevoort, Up or Down? Adaptive Rounding for Post-Training Quantization, ICML
    2020, eq. 20 to 25. What the paper leaves open (warm start, beta from 20 to 2, weight 0.01, the cosine) is as in
    AIMET, the authors' library.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from qcal.functional.affine import signed_bounds
from qcal.quantization.graph import plain_mode
from qcal.quantization.operators import get_tensor
from qcal.quantization.placement import Layer, Placement
from qcal.quantization.side_by_side import LayerInTurn, max_images, side_by_side
from qcal.quantization.specs import WeightSpec
from qcal.quantization.weights import quantize_weight, weight_scale

_ZETA, _GAMMA = 1.1, -0.1
# How many images pass a layer at once when nothing is learned.
_BATCH = 128


@dataclass(frozen=True)
class AdaRoundOptions:
    """How the rounding is learned; the defaults are the published ones.

    Args:
        iterations: Steps a layer. 10,000 as in the paper.
        batch_size: Images a step, drawn without replacement. 32 as in the paper.
        learning_rate: Adam's. 1e-3, its own default, as in the paper and in AIMET. With a tenth of the steps use ten
            times as much: v has to travel the same way.
        regularization: Weight of the term that pushes to 0 or 1. 0.01 (AIMET).
        beta: Its power at first and at last. 20 and 2 (AIMET).
        warm_start: Share of the steps without it. 0.2 (AIMET).
        seed: Of the draws of images. The caller's random numbers are not touched.

    Raises:
        ValueError: no steps or images, a learning rate or weight that is not positive, or a share outside [0, 1).
    """

    iterations: int = 10_000
    batch_size: int = 32
    learning_rate: float = 1e-3
    regularization: float = 0.01
    beta: tuple[float, float] = (20.0, 2.0)
    warm_start: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "regularization"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` must be a positive number, got {getattr(self, name)}.")
        if not 0 <= self.warm_start < 1:
            raise ValueError(f"`warm_start` must be in [0, 1), got {self.warm_start}. It is a share of the steps.")

    def beta_at(self, step: int) -> float | None:
        """The power at a step; None in the warm start."""
        start = self.warm_start * self.iterations
        if step < start:
            return None
        first, last = self.beta
        return last + 0.5 * (first - last) * (1 + math.cos(math.pi * (step - start) / (self.iterations - start)))


@dataclass(frozen=True)
class RoundedLayer:
    """What came of one layer.

    Args:
        name: The layer.
        nearest_error: Mean squared error of its output, activation function included, with weights rounded to nearest.
        learned_error: The same with the rounding learned.
        flipped: Share of the weights whose learned rounding is not the nearest.
    """

    name: str
    nearest_error: float
    learned_error: float
    flipped: float

    @property
    def keeps_nearest(self) -> bool:
        """Whether the learned rounding is worse on these images, so that nearest is kept."""
        return not self.learned_error <= self.nearest_error


def adaround(
    graph: GraphModule,
    placement: Placement,
    specs: Sequence[WeightSpec | None],
    images: Tensor,
    *,
    options: AdaRoundOptions | None = None,
    progress: Callable[[RoundedLayer], None] | None = None,
) -> dict[str, Tensor]:
    """Weights rounded up or down as is best for each layer's output.

    Activations stay in float while the rounding is learned, as in the paper. Never worse than rounding to nearest in
    any layer's own error on these images: where it would be, nearest is kept, and `progress` is told so.

    The cost is that of `iterations` steps a layer and of two float passes of the images. Memory: see `side_by_side`; of
    more images than fit `MAX_BYTES` there the first are used. The paper used 1,024.

    Args:
        graph: A prepared graph, float weights bound, grids of its quantizers off. Not changed.
        placement: What was placed in it.
        specs: How the weights of each layer are quantized, in the order of `placement.layers`; None leaves them alone.
            Of layers that share their weights the first decides.
        images: Training images (N, ...) on the device of the graph, without augmentation.
        options: How the rounding is learned; None (default) is `AdaRoundOptions()`.
        progress: Called after each layer.

    Returns:
        The rounded weights, by where the graph keeps them (`Layer.target`), in the layout of the float ones.

    Raises:
        ValueError: no images, or not one spec for each layer.
    """
    if len(specs) != len(placement.layers):
        raise ValueError(f"`specs` must have one entry for each of {len(placement.layers)} layers, got {len(specs)}.")
    if len(images) == 0:
        raise ValueError("`images` must hold at least one image, got none. Pass training images, a thousand or so.")
    rounding = _Rounding(graph, dict(zip(placement.layers, specs, strict=True)), options or AdaRoundOptions(), progress)
    with plain_mode(images.device):
        batches = torch.split(images[: max_images(graph)], _BATCH)
        side_by_side(graph, placement, batches, rounding.visit)
    return rounding.weights


class _Rounding:
    """Rounds the weights of one layer after another."""

    def __init__(
        self,
        graph: GraphModule,
        specs: dict[Layer, WeightSpec | None],
        options: AdaRoundOptions,
        progress: Callable[[RoundedLayer], None] | None,
    ) -> None:
        self.weights: dict[str, Tensor] = {}
        self._graph = graph
        self._specs = specs
        self._options = options
        self._progress = progress
        self._generator = torch.Generator().manual_seed(options.seed)

    def visit(self, turn: LayerInTurn) -> list[Tensor] | None:
        spec, target = self._specs[turn.layer], turn.layer.target
        if spec is None and target not in self.weights:
            return None
        if spec is not None and target not in self.weights:
            self.weights[target] = self._round(turn, spec)
        return [turn.output(x, self.weights[target]) for x in turn.inputs]

    def _round(self, turn: LayerInTurn, spec: WeightSpec) -> Tensor:
        weight = get_tensor(self._graph, turn.layer.target)
        nearest = quantize_weight(weight, spec, channel_axis=turn.layer.channel_axis)
        learned = _learn(turn, _UpOrDown(weight, spec, turn.layer.channel_axis), self._options, self._generator)
        report = RoundedLayer(
            turn.layer.name,
            _error(turn, nearest),
            _error(turn, learned),
            (learned != nearest).double().mean().item(),
        )
        if self._progress is not None:
            self._progress(report)
        return nearest if report.keeps_nearest else learned


class _UpOrDown:
    """The weights of a layer as a function of `v`, one number for each; see the head of this file."""

    def __init__(self, weight: Tensor, spec: WeightSpec, channel_axis: int) -> None:
        scale = weight_scale(weight, spec, channel_axis=channel_axis)
        if spec.granularity == "per_channel":
            scale = scale.reshape([-1 if axis == channel_axis else 1 for axis in range(weight.dim())])
        self._scale = scale
        self._bounds = signed_bounds(spec.bits, spec.symmetry)
        steps = weight * scale.reciprocal()
        self._floor = steps.floor()
        # The v at which w~ is w.
        self.start = -torch.log((_ZETA - _GAMMA) / (steps - self._floor - _GAMMA) - 1)

    def weight(self, h: Tensor) -> Tensor:
        return (self._floor + h).clamp(*self._bounds) * self._scale

    def hard(self, v: Tensor) -> Tensor:
        return self.weight((v >= 0).to(v.dtype))


def _soft(v: Tensor) -> Tensor:
    """The rectified sigmoid h, eq. 23."""
    return (torch.sigmoid(v) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def _learn(turn: LayerInTurn, rounding: _UpOrDown, options: AdaRoundOptions, generator: torch.Generator) -> Tensor:
    """The weights of a layer after `iterations` steps, each rounded up or down."""
    inputs, expected = torch.cat(turn.inputs), torch.cat([turn.activation(y) for y in turn.expected])
    with torch.enable_grad():
        v = rounding.start.clone().requires_grad_()
        optimizer = torch.optim.Adam([v], lr=options.learning_rate)
        for step in range(options.iterations):
            drawn = torch.randperm(len(inputs), generator=generator)[: options.batch_size].to(inputs.device)
            h = _soft(v)
            made = turn.activation(turn.output(inputs[drawn], rounding.weight(h)))
            loss = (made - expected[drawn]).square().sum(turn.channel_dim).mean()
            beta = options.beta_at(step)
            if beta is not None:
                loss = loss + options.regularization * (1 - (2 * h - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return rounding.hard(v.detach())


def _error(turn: LayerInTurn, weight: Tensor) -> float:
    """Mean squared error of what a layer makes with rounded weights, over all images, activation function included."""
    total, count = 0.0, 0
    for x, expected in zip(turn.inputs, turn.expected, strict=True):
        difference = turn.activation(turn.output(x, weight)) - turn.activation(expected)
        total += difference.double().square().sum().item()
        count += difference.numel()
    return total / count
