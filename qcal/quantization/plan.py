"""One prepared network for a whole grid of settings: exported, folded, quantizers placed, observed once.

plan = prepare(model, example_input)       # the model is not changed
plan.observe(images)                       # one pass over images for range estimation
logits = plan.run("w4a8", test_images)     # any setting, any number of times
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.engines import Engine, Simulator, check_engine
from qcal.quantization.fold import Unfolded, fold_batch_norms
from qcal.quantization.graph import check_agreement, cuda_devices, device_of, example_batch, export_graph, plain_mode
from qcal.quantization.observers import RangeObserver
from qcal.quantization.place import FloatOperation, Layer, Placement, place_quantizers
from qcal.quantization.quantizer import Quantizer
from qcal.quantization.setting import Setting
from qcal.quantization.simplify import simplify
from qcal.quantization.summary import describe

FLOAT = Setting(None, None)


def prepare(model: nn.Module, example_input: Tensor) -> "Plan":
    """Export `model`, fold its batch norms, place quantizers; nothing is measured yet.

    Args:
        model: A classifier: images (N, ...) to logits (N, C), any mode and device, compiled or wrapped. Not changed.
        example_input: Images as the plan will get them, at least one; they fix the image size.

    Returns:
        A plan on the device of `model`, sharing nothing with it.

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
    graph = export_graph(model, example_input)
    with plain_mode(device_of(model)), torch.random.fork_rng(cuda_devices(model)):
        example = example_batch(example_input, model)
        expected = graph(example.clone())  # before simplifying, a graph may write to its input
        simplify(graph)
        unfolded = fold_batch_norms(graph)
        placement = place_quantizers(graph)
        graph = GraphModule(graph, graph.graph)  # holds only what the graph still reads
        layout = _fastest_layout(graph, example, expected)
    return Plan(graph, placement, tuple(unfolded), example, layout)


class Plan:
    """A network ready to be run at any setting. Made by `prepare`.

    Everything it returns is computed without gradients, in float32, whatever autocast or inference mode the caller is
    in, and it leaves the caller's random numbers alone.

    Attributes:
        quantizers: Where tensors are quantized, in the order of the graph; each has a `name` and a `shape`.
        layers: The layers whose weights are quantized.
        unfolded: Batch norms that could not be folded, with the reason.
        float_operations: Arithmetic that no setting quantizes, with the reason.
        image_shape: Shape of one image.
    """

    def __init__(
        self,
        graph: GraphModule,
        placement: Placement,
        unfolded: tuple[Unfolded, ...],
        example: Tensor,
        layout: torch.memory_format,
    ) -> None:
        self.quantizers: tuple[Quantizer, ...] = placement.quantizers
        self.layers: tuple[Layer, ...] = placement.layers
        self.float_operations: tuple[FloatOperation, ...] = placement.float_operations
        self.unfolded = unfolded
        self._statistics: dict[str, RangeObserver] = {}
        self.image_shape = tuple(example.shape[1:])
        self.device = example.device
        self._dtype = example.dtype
        self._layout = layout
        self._graph = graph
        self._placement = placement
        self._simulator = Simulator(graph, placement)

    @property
    def statistics(self) -> dict[str, RangeObserver]:
        """What `observe` saw at each quantizer, by its name; empty before.

        Assign to it what several processes saw, merged (`RangeObserver.merge`), to estimate ranges from all of it.
        """
        return self._statistics

    @statistics.setter
    def statistics(self, statistics: dict[str, RangeObserver]) -> None:
        expected = {quantizer.name for quantizer in self.quantizers}
        if statistics and set(statistics) != expected:
            raise ValueError(
                f"`statistics` must hold one observer for each quantizer, got other names: "
                f"{', '.join(sorted(set(statistics) ^ expected))}. Take them from a plan of the same network."
            )
        self._statistics = statistics
        self._simulator.use(statistics)

    def observe(
        self,
        batches: Tensor | Iterable[Tensor],
        *,
        batch_size: int = 256,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """One pass of the float network over images for range estimation; gathers what every setting needs.

        A second call replaces what the first gathered; if it fails, the first's stays.

        Args:
            batches: Images (N, ...), or batches of them. Training images without augmentation; a thousand is plenty.
            batch_size: How a single tensor is cut. Neither it nor the order of the images changes the result, except
                for float rounding in the network.
            progress: Called after each batch with the number of its images.

        Raises:
            ValueError: no images, images of another shape than `example_input`, NaN or infinity in them or in an
                activation.
        """
        observers = {quantizer.name: RangeObserver(self.device) for quantizer in self.quantizers}
        with plain_mode(self.device), _observed_by(self.quantizers, observers):
            for x in self._batches(batches, batch_size):
                self._graph(x)
                if progress is not None:
                    progress(len(x))
        self.statistics = observers

    def run(
        self,
        setting: Setting | str,
        images: Tensor | Iterable[Tensor],
        *,
        batch_size: int = 256,
        engine: Engine = "simulate",
    ) -> Tensor:
        """Logits of the network at a setting.

        Args:
            setting: A `Setting` or its short form; "float" is the network with batch norm folded and nothing quantized.
            images: Images (N, ...), or batches of them.
            batch_size: How a single tensor is cut; the default keeps a CIFAR network's activations in the caches.
            engine: "simulate": float32 arithmetic on rounded numbers.

        Returns:
            float32 (N, C) on the CPU.

        Raises:
            ValueError: a bad setting or engine, activations to be quantized before `observe`, no images, images of
                another shape than `example_input`, or NaN or infinity in images or logits.
        """
        parsed = self._ready(setting, engine)
        with plain_mode(self.device):
            parts = [self._logits(parsed, x).cpu() for x in self._batches(images, batch_size)]
            return torch.cat(parts)

    def run_batch(
        self, settings: Sequence[Setting | str], x: Tensor, *, engine: Engine = "simulate"
    ) -> dict[Setting, Tensor]:
        """Logits of one batch of images at many settings: each batch is read from its loader once.

        Args:
            settings: Settings or short forms; repetitions are computed once.
            x: Images (N, ...).
            engine: As in `run`.

        Returns:
            For each setting float32 (N, C) on the plan's device, in the order given.

        Raises:
            ValueError: as in `run`.
        """
        parsed = dict.fromkeys(self._ready(setting, engine) for setting in settings)
        with plain_mode(self.device):
            images = self._images(x)
            return {setting: self._logits(setting, images) for setting in parsed}

    def float_logits(self, x: Tensor) -> Tensor:
        """Logits (N, C) of one batch of images from the float network with batch norm folded."""
        return self.run_batch([FLOAT], x)[FLOAT]

    def to(self, device: torch.device | str) -> "Plan":
        """Move the plan, statistics included; returns itself."""
        self.device = torch.device(device)
        self._graph.to(self.device)
        self._simulator = Simulator(self._graph, self._placement)
        self.statistics = {name: observer.to(self.device) for name, observer in self.statistics.items()}
        return self

    def summary(self) -> str:
        """A table of every quantizer with its range, and what stays in float and why."""
        return describe(self.quantizers, self.statistics, self.layers, self.unfolded, self.float_operations)

    def _ready(self, setting: Setting | str, engine: Engine) -> Setting:
        check_engine(engine)
        parsed = Setting.parse(setting)
        if parsed.activation_bits is not None and not self.statistics:
            raise ValueError(
                f"`{parsed}` quantizes activations, whose ranges must be observed first, got no observation. "
                "Call `plan.observe(images)` with training images, or choose `afp`."
            )
        return parsed

    def _logits(self, setting: Setting, x: Tensor) -> Tensor:
        logits = self._simulator.logits(setting, x)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(f"Logits must be finite, got NaN or infinity at `{setting}`. Check the network's weights.")
        return logits

    def _batches(self, images: Tensor | Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        count = 0
        for x in torch.split(images, batch_size) if isinstance(images, Tensor) else images:
            yield self._images(x)
            count += len(x)
        if count == 0:
            raise ValueError("`images` must hold at least one image, got none. Is the data set or its split empty?")

    def _images(self, x: Tensor) -> Tensor:
        """One batch, checked, where and how the graph reads it."""
        if not isinstance(x, Tensor):
            raise TypeError(
                f"`images` must be a Tensor (N, ...) or batches of them, got a batch of type {type(x).__name__}. "
                "Pass images without labels: `(x for x, _ in loader)`."
            )
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"`images` must have shape {('N', *self.image_shape)} as `example_input` had, got {tuple(x.shape)}. "
                "Resize them, or prepare a plan for this size."
            )
        if x.is_floating_point() != self._dtype.is_floating_point:
            raise ValueError(f"`images` must be {self._dtype} as `example_input` was, got {x.dtype}.")
        if not bool(torch.isfinite(x).all()):
            raise ValueError("`images` must be finite, got NaN or infinity. Check their normalisation.")
        return x.detach().to(self.device, self._dtype).contiguous(memory_format=self._layout)


@contextmanager
def _observed_by(quantizers: Sequence[Quantizer], observers: dict[str, RangeObserver]) -> Iterator[None]:
    try:
        for quantizer in quantizers:
            quantizer.observer = observers[quantizer.name]
        yield
    finally:
        for quantizer in quantizers:
            quantizer.observer = None


def _fastest_layout(graph: GraphModule, example: Tensor, expected: Tensor) -> torch.memory_format:
    """Lay out the weights of a network on images as its device likes them, and say how images must be laid out.

    On a CPU convolutions of few channels run up to three times as fast in channels_last. A graph that has the usual
    layout written into it (strides, say) gets that. Either way the graph must still agree with the network.
    """
    if example.dim() == 4 and example.device.type == "cpu":
        graph.to(memory_format=torch.channels_last)
        try:
            check_agreement(graph(example.contiguous(memory_format=torch.channels_last)), expected, of="The graph")
        except (RuntimeError, ValueError):
            graph.to(memory_format=torch.contiguous_format)
        else:
            return torch.channels_last
    check_agreement(graph(example), expected, of="The graph with batch norm folded")
    return torch.contiguous_format
