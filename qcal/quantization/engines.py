"""Run a prepared graph at a setting.

One engine so far: `simulate` computes in float32 with weights and activations rounded to the levels an integer backend
has (fake quantization). A setting is a change of weight tensors and of grids in one and the same graph, so it costs no
export and no copy of the network, and it is undone by binding the float tensors again.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qcal.quantization.made_weights import CACHE_BYTES, MadeWeight, Rounding
from qcal.quantization.observers import RangeObserver
from qcal.quantization.operators import bound, get_tensor, made_weight
from qcal.quantization.placement import Layer, Placement
from qcal.quantization.portions import images_at_a_time
from qcal.quantization.quantizer import Grid
from qcal.quantization.ranges import activation_grid
from qcal.quantization.resolve import Specs
from qcal.quantization.specs import ActivationSpec, WeightSpec
from qcal.quantization.weights import quantize_weight, weight_scale

Engine = Literal["simulate"]


class Simulator:
    """Fake quantization of a prepared graph, any setting at any time.

    Args:
        network: A graph with quantizers in it, float weights bound, or any other module that maps images to logits.
        placement: What was placed in it.

    Attributes:
        observers: What was seen at each quantizer, by its name; grids are made from it.
    """

    def __init__(self, network: nn.Module, placement: Placement) -> None:
        self.network = network
        self.placement = placement
        self._observers: Mapping[str, RangeObserver] = {}
        made = {layer.target: made_weight(network, layer.target) for layer in placement.layers}
        self._made = {target: weight for target, weight in made.items() if weight is not None}
        # Those that are kept; the others are made when a layer reads them.
        self._float = {target: get_tensor(network, target) for target, weight in made.items() if weight is None}
        self._weights: OrderedDict[tuple[str, WeightSpec], Tensor] = OrderedDict()
        self._weight_bytes = 0
        self._scales: dict[tuple[str, WeightSpec], Tensor] = {}  # a search for them is not made again
        self._grids: dict[tuple[str, ActivationSpec], Grid] = {}
        first = placement.layers[0].target
        device = (self._made[first].source if first in self._made else self._float[first]).device
        self._portion = images_at_a_time(network, placement.quantizers, device)

    @property
    def observers(self) -> Mapping[str, RangeObserver]:
        """See the class."""
        return self._observers

    @observers.setter
    def observers(self, observers: Mapping[str, RangeObserver]) -> None:
        self._observers = observers
        self._grids.clear()

    @contextmanager
    def applied(
        self, specs: Specs, tensors: Mapping[str, Tensor] | None = None
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """What maps images to logits at a setting, for a with block; after it the network is float again in any case.

        Args:
            specs: What the setting means in this network.
            tensors: Others to bind, by dotted name: those of a weight method. They win over rounding to nearest.
        """
        weights = {**self._roundings(specs), **(tensors or {})}
        grids = self._grids_of(specs)
        try:
            with bound(self.network, weights):
                for quantizer, grid in zip(self.placement.quantizers, grids, strict=True):
                    quantizer.grid = grid
                yield self._logits
        finally:
            for quantizer in self.placement.quantizers:
                quantizer.grid = None

    def _logits(self, x: Tensor) -> Tensor:
        if self._portion is None or len(x) <= self._portion:
            whole: Tensor = self.network(x)
            return whole
        return torch.cat([self.network(portion) for portion in torch.split(x, self._portion)])

    def rounded_weights(self, specs: Specs) -> Mapping[str, Tensor]:
        """Weights rounded to nearest, by dotted name; those that stay in float are left out.

        Those of a large network are rounded whenever one is looked up, and not kept.
        """
        return _Rounded(self._roundings(specs), self._made)

    def _roundings(self, specs: Specs) -> dict[str, Tensor | Rounding]:
        """What to bind to weights: rounded ones, or for those that are made how to round them."""
        pairs = zip(self.placement.layers, specs.weights, strict=True)
        return {layer.target: self._rounding(layer, spec) for layer, spec in pairs if spec}

    def _rounding(self, layer: Layer, spec: WeightSpec) -> Tensor | Rounding:
        if layer.target not in self._made:
            return self._rounded(layer.target, spec, layer.channel_axis)
        return partial(self._quantized, layer.target, spec, layer.channel_axis)

    def _quantized(self, target: str, spec: WeightSpec, channel_axis: int, weight: Tensor) -> Tensor:
        key = (target, spec)
        if key not in self._scales:
            self._scales[key] = weight_scale(weight, spec, channel_axis=channel_axis)
        return quantize_weight(weight, spec, channel_axis=channel_axis, scale=self._scales[key])

    def _rounded(self, target: str, spec: WeightSpec, channel_axis: int) -> Tensor:
        key = (target, spec)
        if key not in self._weights:
            weight = self._quantized(target, spec, channel_axis, self._float[target])
            self._weights[key] = weight
            self._weight_bytes += weight.nbytes
            while self._weight_bytes > CACHE_BYTES and len(self._weights) > 1:
                self._weight_bytes -= self._weights.popitem(last=False)[1].nbytes
        self._weights.move_to_end(key)
        return self._weights[key]

    def _grids_of(self, specs: Specs) -> list[Grid | None]:
        pairs = zip(self.placement.quantizers, specs.activations, strict=True)
        return [None if spec is None else self._grid(quantizer.name, spec) for quantizer, spec in pairs]

    def _grid(self, name: str, spec: ActivationSpec) -> Grid:
        key = (name, spec)
        if key not in self._grids:
            self._grids[key] = activation_grid(self._observers[name], spec)
        return self._grids[key]


class _Rounded(Mapping[str, Tensor]):
    """Weights by dotted name, some of them made when they are looked up."""

    def __init__(self, weights: Mapping[str, Tensor | Rounding], made: Mapping[str, MadeWeight]) -> None:
        self._weights, self._made = weights, made

    def __getitem__(self, target: str) -> Tensor:
        weight = self._weights[target]
        return weight if isinstance(weight, Tensor) else weight(self._made[target].float_weight())

    def __contains__(self, target: object) -> bool:
        return target in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def check_engine(engine: str) -> None:
    """Raise ValueError unless `engine` is the name of one."""
    if engine not in get_args(Engine):
        raise ValueError(f"`engine` must be one of {', '.join(map(repr, get_args(Engine)))}; got {engine!r}.")
