"""One prepared network for a whole grid of settings: exported, folded, quantizers placed, observed once.

plan = prepare(model, example_input)       # the model is not changed
plan.observe(images)                       # one pass over images for range estimation
logits = plan.run("w4a8", test_images)     # any setting, any number of times
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.adaround import AdaRoundOptions
from qcal.quantization.engines import Engine, check_engine
from qcal.quantization.equalization import EqualizedPair
from qcal.quantization.fold import Unfolded
from qcal.quantization.graph import plain_mode
from qcal.quantization.images import ImageReader, Sample
from qcal.quantization.network import Progress
from qcal.quantization.observers import RangeObserver
from qcal.quantization.operators import get_tensor
from qcal.quantization.placement import FloatOperation, Layer, Placement
from qcal.quantization.plan_file import Identity, Observed, identify, load_observed, save_observed
from qcal.quantization.quantizer import Quantizer
from qcal.quantization.resolve import resolve
from qcal.quantization.rules import PlacementName
from qcal.quantization.sensitivity import Sensitivity, measure_sensitivity
from qcal.quantization.setting import Setting
from qcal.quantization.summary import describe
from qcal.quantization.variants import Variants

FLOAT = Setting(None, None)


class Plan:
    """A network ready to be run at any setting. Made by `prepare`.

    Everything it returns is computed without gradients, in float32, whatever autocast or inference mode the caller is
    in, and it leaves the caller's random numbers alone.

    Attributes:
        network: The prepared copy, float tensors bound and quantizers off: a graph, except for placement "modules".
        quantizers: Where tensors are quantized, in the order of the graph; each has a `name` and a `shape`.
        layers: The layers whose weights are quantized.
        unfolded: Batch norms that could not be folded, with the reason.
        float_operations: Arithmetic that no setting quantizes, with the reason.
        image_shape: Shape of one image.
        image_layout: How a batch is laid out in memory; others are brought into it.
        placement: How the tensors to quantize were chosen: "graph", "xia2021" or "modules".
        adaround_options: How settings with `rounding="adaround"` look for their rounding.
    """

    def __init__(
        self, network: nn.Module, placement: Placement, unfolded: tuple[Unfolded, ...], reader: ImageReader
    ) -> None:
        self.network = network
        self.quantizers: tuple[Quantizer, ...] = placement.quantizers
        self.layers: tuple[Layer, ...] = placement.layers
        self.unfolded = unfolded
        self.float_operations: tuple[FloatOperation, ...] = placement.float_operations
        self.placement: PlacementName = placement.name
        self.image_shape = reader.shape
        self.image_layout = reader.layout
        self.adaround_options = AdaRoundOptions()
        self._reader = reader
        self._variants = Variants(network, placement, reader)
        self._sample: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._reader.device

    @property
    def equalized_pairs(self) -> tuple[EqualizedPair, ...]:
        """Neighbouring layers that equalization scaled; empty before it is first asked for."""
        return self._variants.pairs

    @property
    def statistics(self) -> Mapping[str, RangeObserver]:
        """What `observe` saw at each quantizer, by its name; empty before.

        Assign to it what several processes saw, joined (`join_parts`; or `RangeObserver.merge`, which joins running
        averages in its own way), to estimate ranges from all of it. That drops `equalized_statistics`, which are of
        fewer images: assign them after it.
        """
        return self._variants.plain.simulator.observers

    @statistics.setter
    def statistics(self, statistics: Mapping[str, RangeObserver]) -> None:
        self._check_names("statistics", statistics)
        self._variants.plain.simulator.observers = statistics
        self.equalized_statistics = {}

    @property
    def equalized_statistics(self) -> Mapping[str, RangeObserver]:
        """What `observe` with `equalized=True` saw at each quantizer of the equalized network; empty otherwise.

        It can be assigned as `statistics` can.
        """
        return self._variants.equalized_statistics

    @equalized_statistics.setter
    def equalized_statistics(self, statistics: Mapping[str, RangeObserver]) -> None:
        self._check_names("equalized_statistics", statistics)
        if statistics or self._variants.equalized_statistics:
            self._variants.equalized.simulator.observers = statistics

    def observe(
        self,
        batches: Tensor | Iterable[Tensor],
        *,
        equalized: bool = False,
        batch_size: int = 256,
        sample_size: int = 1024,
        only: Callable[[int], bool] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """One pass of the float network over images for range estimation; gathers what every setting needs.

        A second call replaces what the first gathered; if it fails, the first's stays.

        Args:
            batches: Images (N, ...), or batches of them. Training images without augmentation; a thousand is plenty.
            equalized: Whether each batch also passes the equalized network, whose ranges are others: settings with
                `cle` that quantize activations need it. It doubles the computation; images are still read once.
            batch_size: Images that are run at a time; larger batches are cut. Neither it nor the order of the images
                changes the result, except for float rounding in the network and for ranges by moving average, which
                average over batches.
            sample_size: How many images, the first, to keep in memory for AdaRound and bias correction, which look at
                images again: 1024 as in Nagel et al. 2020; 0 when no setting needs them.
            only: Whether to run the batch at a position, counted from 0 after larger ones were cut; None runs all.
                Several processes that read the same images run a part each, and `join_parts` makes of their statistics
                those of one pass over all. The sample is of all images.
            progress: Called after each batch with the number of its images.

        Raises:
            ValueError: no images, images of another shape than `example_input`, NaN or infinity in them or in an
                activation, a negative `sample_size`, or `equalized` for a network without a graph.
        """
        if sample_size < 0:
            raise ValueError(f"`sample_size` must be at least 0, got {sample_size}.")
        if equalized and not self._has_graph:
            raise ValueError(
                "`equalized` must be False for a plan without a graph, which equalization walks, got True. Prepare it "
                "with placement='graph', or leave the argument out."
            )
        sample = Sample(sample_size)
        with plain_mode(self.device):
            images = sample.watch(self._reader.batches(batches, batch_size), progress)
            self.statistics, self.equalized_statistics = self._variants.observe(images, equalized=equalized, only=only)
        self._use_sample(sample.images)

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
            batch_size: Images that are run at a time; the default keeps a CIFAR network's activations in the caches.
            engine: "simulate": float32 arithmetic on rounded numbers.

        Returns:
            float32 (N, C) on the CPU.

        Raises:
            ValueError: a bad setting or engine, a pattern in it that matches nothing in this network, activations to be
                quantized before `observe` (with `equalized=True` after equalization), no images, images of another
                shape than `example_input`, or NaN or infinity in images or logits.
        """
        (logits,) = self.run_grid([setting], images, batch_size=batch_size, engine=engine).values()
        return logits

    def run_grid(
        self,
        settings: Sequence[Setting | str],
        images: Tensor | Iterable[Tensor],
        *,
        batch_size: int = 256,
        engine: Engine = "simulate",
        progress: Callable[[int], None] | None = None,
    ) -> dict[Setting, Tensor]:
        """Logits at many settings from one reading of the images.

        Memory holds the logits, one batch, and rounded weights up to `made_weights.CACHE_BYTES`. Of a network with more
        weights than that none are kept: each is rounded when its layer reads it.

        Args:
            settings: Settings or short forms; repetitions are computed once.
            images: As in `run`; read once.
            batch_size: As in `run`.
            engine: As in `run`.
            progress: Called after each batch with the number of its images.

        Returns:
            For each setting float32 (N, C) on the CPU, in the order given.

        Raises:
            ValueError: as in `run`.
        """
        parsed = self._ready(settings, engine)
        parts: dict[Setting, list[Tensor]] = {setting: [] for setting in parsed}
        with plain_mode(self.device):
            for x in self._reader.batches(images, batch_size):
                for setting in parsed:
                    parts[setting].append(self._logits(setting, x).cpu())
                if progress is not None:
                    progress(len(x))
            return {setting: torch.cat(logits) for setting, logits in parts.items()}

    def run_batch(
        self, settings: Sequence[Setting | str], x: Tensor, *, batch_size: int = 256, engine: Engine = "simulate"
    ) -> dict[Setting, Tensor]:
        """Logits of one batch of images at many settings, on the plan's device; else as `run_grid`.

        Raises:
            ValueError: as in `run`.
        """
        parsed = self._ready(settings, engine)
        with plain_mode(self.device):
            batches = list(self._reader.batches(x, batch_size))
            return {setting: torch.cat([self._logits(setting, part) for part in batches]) for setting in parsed}

    def float_logits(self, x: Tensor) -> Tensor:
        """Logits (N, C) of one batch of images from the float network with batch norm folded."""
        return self.run_batch([FLOAT], x)[FLOAT]

    def make_ready(self, settings: Sequence[Setting | str], *, progress: Progress | None = None) -> None:
        """Do now what the weight methods of these settings would otherwise do when they are first run.

        Args:
            settings: Settings or short forms.
            progress: Told what is being made, how far it is and of how many steps; AdaRound takes minutes.

        Raises:
            ValueError: a bad setting, or one that needs more than was observed.
        """
        parsed = self._ready(settings, "simulate")
        with plain_mode(self.device):
            for setting in parsed:
                self._variants.of(setting).make(setting, self._sample, self.adaround_options, progress)

    def sensitivity(
        self, images: Tensor, *, setting: Setting | str = "w4a4", batch_size: int = 256
    ) -> tuple[Sensitivity, ...]:
        """What each layer's weights and each stored tensor do to the logits when they alone are quantized.

        Args:
            images: Images (N, ...); some hundreds tell.
            setting: How the one layer or tensor is quantized; a part that is float there is left out.
            batch_size: Images that are run at a time.

        Returns:
            The most harmful first, by noise of the logits; see `Sensitivity`.

        Raises:
            ValueError: as in `run`, or a setting that quantizes nothing.
        """
        (parsed,) = self._ready([setting], "simulate")
        with plain_mode(self.device):
            batches = list(self._reader.batches(images, batch_size))
            return measure_sensitivity(self._variants.of(parsed).simulator, parsed, batches)

    def save(self, folder: str | Path) -> None:
        """Write what `observe` gathered into a folder, as `plan.json` and `plan.safetensors`; see `plan_file`.

        Raises:
            ValueError: nothing was observed yet.
            OSError: the folder cannot be written.
        """
        observed = Observed(self.statistics, self.equalized_statistics, self._sample)
        save_observed(Path(folder), self._identity, observed)

    def load(self, folder: str | Path) -> None:
        """Take what another plan of the same network observed and saved, in the place of `observe`.

        Raises:
            FileNotFoundError: there is no such plan.
            ValueError: it was saved by a plan of another network, or by a version whose files this one cannot read.
        """
        observed = load_observed(Path(folder), self._identity, self.device)
        self.statistics, self.equalized_statistics = observed.statistics, observed.equalized_statistics
        self._use_sample(observed.sample)

    def to(self, device: torch.device | str) -> "Plan":
        """Move the plan, statistics included; returns itself."""
        self._reader = replace(self._reader, device=torch.device(device))
        self._variants = self._variants.to(self._reader)
        return self

    def summary(self, setting: Setting | str | None = None) -> str:
        """A table of every quantizer, of activations and of weights, and what stays in float and why.

        Args:
            setting: With one, the table also says at how many bits each works.

        Raises:
            ValueError: a pattern in the setting matches nothing in this network.
        """
        placement = self._variants.plain.placement
        specs = None if setting is None else resolve(Setting.parse(setting), placement)
        weights = {layer.target: get_tensor(self.network, layer.target) for layer in self.layers}
        return describe(placement, self.statistics, self.unfolded, weights, specs)

    def describe_placement(self) -> dict[str, Any]:
        """What is quantized and what is not, as plain values (Any: JSON) for a record.

        Returns:
            `name` of the placement; names of the `activation_quantizers` and of the `layers` with quantized weights;
            `float_operations` and `unfolded` batch norms, each name with its reason.
        """
        return {
            "name": self.placement,
            "activation_quantizers": [quantizer.name for quantizer in self.quantizers],
            "layers": [layer.name for layer in self.layers],
            "float_operations": {op.name: f"{op.operation}: {op.reason}" for op in self.float_operations},
            "unfolded": {norm.name: norm.reason for norm in self.unfolded},
        }

    def check(self, settings: Sequence[Setting | str]) -> list[Setting]:
        """The settings, each once, if this network can be run at them once images were observed.

        Raises:
            ValueError: a bad setting, a pattern in it that matches nothing in this network, or a weight method on a
                network without a graph.
        """
        parsed = list(dict.fromkeys(Setting.parse(setting) for setting in settings))
        for setting in parsed:
            resolve(setting, self._variants.plain.placement)
            if setting.has_weight_method and not self._has_graph:
                raise ValueError(
                    f"`{setting}` names a weight method (cle, ada, bc), which walks the network's graph, but this plan "
                    "has none. Prepare it with placement='graph', or leave the method out."
                )
        return parsed

    def _ready(self, settings: Sequence[Setting | str], engine: Engine) -> list[Setting]:
        """The settings, each once, if all that they need is there."""
        check_engine(engine)
        parsed = self.check(settings)
        for setting in parsed:
            if setting.needs_images and not self.statistics:
                raise ValueError(
                    f"`{setting}` needs images for its ranges or its weights, got no observation. "
                    "Call `plan.observe(images)` with training images, or choose `afp` without `ada` and `bc`."
                )
            if setting.needs_equalized_ranges and not self.equalized_statistics:
                raise ValueError(
                    f"`{setting}` needs the ranges of the equalized network, got an observation without them. "
                    "Call `plan.observe(images, equalized=True)`, or leave `cle` out."
                )
        return parsed

    def _logits(self, setting: Setting, x: Tensor) -> Tensor:
        logits = self._variants.of(setting).logits(setting, x, self._sample, self.adaround_options)
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(f"Logits must be finite, got NaN or infinity at `{setting}`. Check the network's weights.")
        return logits

    def _use_sample(self, sample: Tensor | None) -> None:
        self._sample = sample
        self._variants.forget()

    def _check_names(self, name: str, statistics: Mapping[str, RangeObserver]) -> None:
        expected = {quantizer.name for quantizer in self.quantizers}
        if statistics and set(statistics) != expected:
            raise ValueError(
                f"`{name}` must hold one observer for each quantizer, got other names: "
                f"{', '.join(sorted(set(statistics) ^ expected))}. Take them from a plan of the same network."
            )

    @property
    def _has_graph(self) -> bool:
        return isinstance(self.network, GraphModule)

    @property
    def _identity(self) -> Identity:
        return identify(self.network, self._variants.plain.placement, self.image_shape)
