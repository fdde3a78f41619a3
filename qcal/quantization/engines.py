"""Run a prepared graph at a setting.

One engine so far: `simulate` computes in float32 with weights and activations rounded to the levels an integer backend
has (fake quantization). A setting is a change of weight tensors and of grids in one and the same graph, so it costs no
export and no copy of the network, and it is undone by binding the float tensors again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor
from torch.fx import GraphModule

from qcal.functional.affine import Symmetry
from qcal.quantization.observers import RangeObserver
from qcal.quantization.operators import get_tensor, set_tensor
from qcal.quantization.place import Placement
from qcal.quantization.quantizer import Grid
from qcal.quantization.ranges import activation_range
from qcal.quantization.setting import ActivationRange, Setting
from qcal.quantization.weights import quantize_weight

Engine = Literal["simulate"]

# Quantized weights are kept for so many bytes (at least one set): a grid of settings on many batches reuses them.
CACHE_BYTES = 1 << 30


class Simulator:
    """Fake quantization of a prepared graph, any setting at any time.

    Args:
        graph: The graph with its quantizers, float weights bound.
        placement: What was placed in it.
    """

    def __init__(self, graph: GraphModule, placement: Placement) -> None:
        self._graph = graph
        self._placement = placement
        self._axes = {layer.target: layer.channel_axis for layer in placement.layers}
        self._float = {target: get_tensor(graph, target) for target in self._axes}
        self._weights: OrderedDict[tuple[int, Symmetry], dict[str, Tensor]] = OrderedDict()
        self._grids: dict[tuple[int, ActivationRange], list[Grid]] = {}
        self._observers: Mapping[str, RangeObserver] = {}

    def use(self, observers: Mapping[str, RangeObserver]) -> None:
        """Take grids from these statistics, by name of the quantizer, from now on."""
        self._observers = observers
        self._grids.clear()

    def logits(self, setting: Setting, x: Tensor) -> Tensor:
        """Logits (N, C) of the images `x` at a setting; afterwards the graph is the float one again in any case."""
        with self.applied(setting):
            result: Tensor = self._graph(x)
        return result

    @contextmanager
    def applied(self, setting: Setting) -> Iterator[None]:
        """The graph at a setting, for the length of a with block."""
        weights, grids = self._weights_of(setting), self._grids_of(setting)
        try:
            for target, weight in weights.items():
                set_tensor(self._graph, target, weight)
            for quantizer, grid in zip(self._placement.quantizers, grids, strict=True):
                quantizer.grid = grid
            yield
        finally:
            for target, weight in self._float.items():
                set_tensor(self._graph, target, weight)
            for quantizer in self._placement.quantizers:
                quantizer.grid = None

    def _weights_of(self, setting: Setting) -> dict[str, Tensor]:
        if setting.weight_bits is None:
            return {}
        key = (setting.weight_bits, setting.weight_symmetry)
        if key not in self._weights:
            set_bytes = sum(weight.nbytes for weight in self._float.values())
            while self._weights and (len(self._weights) + 1) * set_bytes > CACHE_BYTES:
                self._weights.popitem(last=False)
            self._weights[key] = {
                target: quantize_weight(weight, *key, channel_axis=self._axes[target])
                for target, weight in self._float.items()
            }
        self._weights.move_to_end(key)
        return self._weights[key]

    def _grids_of(self, setting: Setting) -> list[Grid | None]:
        quantizers = self._placement.quantizers
        if setting.activation_bits is None:
            return [None] * len(quantizers)
        key = (setting.activation_bits, setting.activation_range)
        if key not in self._grids:
            ranges = [activation_range(self._observers[q.name], key[1], key[0]) for q in quantizers]
            self._grids[key] = [Grid.over(lo, hi, key[0]) for lo, hi in ranges]
        return [
            grid if setting.quantize_output or not quantizer.is_output else None
            for quantizer, grid in zip(quantizers, self._grids[key], strict=True)
        ]


def check_engine(engine: str) -> None:
    """Raise ValueError unless `engine` is the name of one."""
    if engine not in get_args(Engine):
        raise ValueError(f"`engine` must be one of {', '.join(map(repr, get_args(Engine)))}; got {engine!r}.")
