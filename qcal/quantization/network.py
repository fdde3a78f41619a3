"""A prepared graph with all that its settings are made from: statistics of activations, tensors of weight methods."""

import logging
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.adaround import AdaRoundOptions, RoundedLayer, adaround
from qcal.quantization.bias_correction import corrected_biases
from qcal.quantization.engines import Simulator
from qcal.quantization.images import ImageReader
from qcal.quantization.observers import RangeObserver
from qcal.quantization.placement import Placement
from qcal.quantization.resolve import Specs, resolve
from qcal.quantization.setting import Setting
from qcal.quantization.specs import WeightSpec

# Called with what is being done, how far it is, and of how many steps.
Progress = Callable[[str, int, int], None]

# Images that a weight method runs at a time.
METHOD_BATCH = 128

log = logging.getLogger(__name__)

_Weights = tuple[WeightSpec | None, ...]
_Key = TypeVar("_Key")


class PreparedNetwork:
    """A graph with quantizers placed, that can be run at any setting.

    Args:
        network: The graph, float tensors bound; or a module with quantizers at its modules' boundaries.
        placement: What was placed in it.
        reader: Brings images to it.
    """

    def __init__(self, network: nn.Module, placement: Placement, reader: ImageReader) -> None:
        self.placement = placement
        self.simulator = Simulator(network, placement)
        self._reader = reader
        # Results of weight methods are kept for good: they cost minutes, not milliseconds.
        self._rounded: dict[tuple[_Weights, AdaRoundOptions], dict[str, Tensor]] = {}
        self._biases: dict[tuple[_Weights, AdaRoundOptions | None], dict[str, Tensor]] = {}

    @contextmanager
    def observed(self, kind: type[RangeObserver] = RangeObserver) -> Iterator[dict[str, RangeObserver]]:
        """Fresh observers, by the name of their quantizer, that see what passes there within a with block.

        NaN or infinity there raises a ValueError that names the quantizer.
        """
        quantizers = self.placement.quantizers
        observers = {quantizer.name: kind(self._reader.device) for quantizer in quantizers}
        try:
            for quantizer in quantizers:
                quantizer.observer = observers[quantizer.name]
            yield observers
        finally:
            for quantizer in quantizers:
                quantizer.observer = None

    def logits(self, setting: Setting, x: Tensor, sample: Tensor | None, options: AdaRoundOptions) -> Tensor:
        """Logits (N, C) of a batch at a setting; `sample` and `options` are for its weight methods, see `make`."""
        specs = resolve(setting, self.placement)
        with self.simulator.applied(specs, self.make(setting, sample, options)) as logits:
            return logits(x)

    def make(
        self, setting: Setting, sample: Tensor | None, options: AdaRoundOptions, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        """What the weight methods of a setting put in the place of float tensors, by dotted name; made once.

        Args:
            setting: The setting.
            sample: Images (N, ...) that the methods look at.
            options: Of AdaRound.
            progress: Told what is being made and how far it is.
        """
        specs = resolve(setting, self.placement)
        tensors: dict[str, Tensor] = {}
        rounding = options if setting.rounding == "adaround" else None
        if rounding is not None:
            tensors |= self._adaround(specs, sample, rounding, progress)
        if setting.bias_correction:
            tensors |= self._corrected(specs, tensors, sample, rounding)
        return tensors

    def forget(self) -> None:
        """Drop what weight methods made: the sample they looked at has changed."""
        self._rounded.clear()
        self._biases.clear()

    def to(self, reader: ImageReader) -> "PreparedNetwork":
        """The same on the device of `reader`, with its statistics and what weight methods made."""
        device = reader.device
        moved = PreparedNetwork(self.simulator.network.to(device), self.placement, reader)
        moved.simulator.observers = {name: o.to(device) for name, o in self.simulator.observers.items()}
        moved._rounded = _moved(self._rounded, device)
        moved._biases = _moved(self._biases, device)
        return moved

    def _adaround(
        self, specs: Specs, sample: Tensor | None, options: AdaRoundOptions, progress: Progress | None
    ) -> dict[str, Tensor]:
        key = (specs.weights, options)
        if key not in self._rounded:
            images = torch.cat(list(self._images(sample, "adaround")))
            report = _Report(sum(spec is not None for spec in specs.weights), progress)
            graph = graph_of(self.simulator.network)
            self._rounded[key] = adaround(
                graph, self.placement, specs.weights, images, options=options, progress=report
            )
            report.warn()
        return self._rounded[key]

    def _corrected(
        self, specs: Specs, rounded: dict[str, Tensor], sample: Tensor | None, options: AdaRoundOptions | None
    ) -> dict[str, Tensor]:
        key = (specs.weights, options)
        if key not in self._biases:
            images = self._images(sample, "bias_correction")
            weights = ChainMap(rounded, cast("dict[str, Tensor]", self.simulator.rounded_weights(specs)))  # read only
            self._biases[key] = corrected_biases(graph_of(self.simulator.network), self.placement, weights, images)
        return self._biases[key]

    def _images(self, sample: Tensor | None, method: str) -> Iterator[Tensor]:
        return self._reader.batches(required(sample, method), METHOD_BATCH)


class _Report:
    """Passes on how far AdaRound is, and says in the end where it was of no use.

    Args:
        total: Layers there are to round.
        progress: Whom to tell.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._progress = progress
        self._layers: list[RoundedLayer] = []

    def __call__(self, layer: RoundedLayer) -> None:
        self._layers.append(layer)
        if self._progress is not None:
            self._progress("adaround", len(self._layers), self._total)

    def warn(self) -> None:
        """Name the layers that keep the nearest rounding."""
        kept = [layer.name for layer in self._layers if layer.keeps_nearest]
        if kept:
            log.warning(
                "AdaRound made the output of %s no better: there, weights are rounded to nearest.", ", ".join(kept)
            )


def graph_of(network: nn.Module) -> GraphModule:
    """The network as a graph.

    Raises:
        TypeError: it has none; settings that need one are to be refused before.
    """
    if not isinstance(network, GraphModule):
        raise TypeError(f"Weight methods walk a graph, got {type(network).__name__}. Use placement='graph'.")
    return network


def required(sample: Tensor | None, method: str) -> Tensor:
    """The sample of images that a method looks at.

    Raises:
        ValueError: none was kept.
    """
    if sample is None:
        raise ValueError(
            f"`{method}` looks at images, got none. Call `plan.observe(images)` with training images, with a "
            "`sample_size` above 0."
        )
    return sample


def _moved(made: dict[_Key, dict[str, Tensor]], device: torch.device) -> dict[_Key, dict[str, Tensor]]:
    return {key: {name: tensor.to(device) for name, tensor in tensors.items()} for key, tensors in made.items()}
