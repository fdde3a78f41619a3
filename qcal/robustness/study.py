"""The robustness study: one network, its float logits and its logits at every setting of a grid."""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qcal.quantization import PlacementName, Plan, Setting, prepare
from qcal.robustness.logits import FLOAT, FLOAT32, BatchLogits, Logits
from qcal.robustness.out_of_memory import FittingBatches, is_out_of_memory

Batches = Iterable[tuple[Tensor, Tensor]]
Progress = Callable[[str, int, int], None]

METHOD_IMAGES = 1024
"""Images that weight methods look at, as many as Nagel et al. 2020 use."""
OBSERVATION_BATCH = 256
"""Images that are observed at a time, unless memory runs out."""


@dataclass(frozen=True)
class Study:
    """What a study gathered, before any figure is made of it; see `run_study`.

    Attributes:
        compared: Logits on the images that are compared.
        placement: Which tensors and layers were quantized and what stayed in float, as plain values (Any: JSON). It is
            part of what was measured; see `Plan.describe_placement`.
        range_images: Images the activation ranges were estimated from; 0 when no setting needed them.
        recalibration: Logits on images that are kept aside for fitting temperatures and the like; None without them.
        noise_images: Where there are none, logits on the range estimation images: quantization noise can be measured on
            what was trained on, too.
        errors: What could not be measured, in words, by setting or by what was being done; empty when all went well.
        seconds: Wall time of each part: `prepare`, `observe`, `weights` (of weight methods), `evaluate`.
    """

    compared: Logits
    placement: dict[str, Any] = field(default_factory=dict)
    range_images: int = 0
    recalibration: Logits | None = None
    noise_images: Logits | None = None
    errors: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run_study(
    network: nn.Module,
    settings: Sequence[Setting],
    *,
    data: Batches,
    range_estimation: Batches,
    recalibration: Batches | None = None,
    placement: PlacementName = "graph",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Study:
    """Quantize a copy of a network at every setting and gather all logits in one pass over the data.

    The copy is in evaluation mode and float32; `network` itself is not touched. Each batch is read once and run in
    float and at every setting.

    Args:
        network: Maps images `(N, ...)` to logits `(N, C)`.
        settings: The grid; duplicates are run once.
        data: Batches `(images, target)` to compare on, in a fixed order.
        range_estimation: Batches `(images, target)` from the training set, without augmentation; read once.
            When no setting looks at images only the first batch is read, as the example the network is traced
            with.
        recalibration: Batches `(images, target)` that are neither trained nor compared on, to fit temperatures on and
            to measure the noise that forecasts need.
        placement: Which tensors are quantized; see `qcal.quantization.prepare`.
        device: Where to run.
        progress: Called as `progress(stage, done, total)` with stage `observe`, `adaround`, `recalibration` or
            `evaluate`; total is 0 where the length is not known.

    Returns:
        The logits and where they come from, as a `Study`. `errors` is empty: here what fails is raised.

    Raises:
        ValueError: No setting, no data, images that are not finite, or a network that cannot be traced or quantized;
            the message says which.

    Example:
        >>> images, target = torch.randn(8, 1, 6, 6), torch.arange(8) % 2
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> batches = [(images, target)]
        >>> study = run_study(network, [Setting.parse("w8a8")], data=batches, range_estimation=batches)
        >>> study.compared.float.shape, list(study.compared.settings)
        (torch.Size([8, 2]), ['w8a8'])
    """
    grid = prepare_grid(
        copy.deepcopy(network),
        settings,
        range_estimation=range_estimation,
        placement=placement,
        device=device,
        progress=progress,
    )
    grid.raise_errors()
    held_out = None if recalibration is None else grid.evaluate(recalibration, "recalibration", progress)
    compared = grid.evaluate(data, "evaluate", progress)
    grid.raise_errors()
    return grid.study(compared.logits(), None if held_out is None else held_out.logits())


class Grid:
    """A network with every setting that can be run on it, ranges observed and weights rounded; see `prepare_grid`.

    Attributes:
        plan: The prepared network.
        settings: Those that can be run.
        range_images: Images the activation ranges were estimated from.
        errors: What failed, by setting or by what was being done.
        seconds: Wall time of each part so far.
    """

    def __init__(self, network: nn.Module, plan: Plan, settings: Sequence[Setting], device: torch.device) -> None:
        self.plan = plan
        self.settings = tuple(dict.fromkeys(settings))
        self.range_images = 0
        self.errors: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.failures: list[Exception] = []
        self._network, self._device = network, device
        self._fitting = FittingBatches()

    @property
    def largest_piece(self) -> int | None:
        """Images that are run at a time because memory ran out with more; None when whole batches fit."""
        return self._fitting.largest

    def note(self, what: str, error: Exception) -> None:
        """Keep what failed: the rest goes on."""
        self.errors[what] = str(error) or type(error).__name__
        self.failures.append(error)

    def raise_errors(self) -> None:
        """Raise the first failure that was noted, if there is one."""
        if self.failures:
            raise self.failures[0]

    def evaluate(
        self,
        data: Batches,
        stage: str = "evaluate",
        progress: Progress | None = None,
        baseline: "Baseline | None" = None,
    ) -> BatchLogits:
        """Logits of every batch, in float and at every setting; each batch is read once.

        A failure ends it and is noted; what was measured before stays.

        Args:
            data: Batches `(images, target)`.
            stage: What `progress` and errors call it.
            progress: As in `run_study`.
            baseline: The float network in the precision it was trained in, where that is not float32.
        """
        begin, total, gathered = time.perf_counter(), _length(data), BatchLogits()
        with _plain(self._device):
            try:
                for done, (images, target) in enumerate(data, start=1):
                    run = self._runner(baseline)
                    logits = self._fitting.run(run, images.to(self._device))
                    gathered.add(target.cpu(), {name: value.float().cpu() for name, value in logits.items()})
                    if progress:
                        progress(stage, done, total)
            except Exception as error:  # of a user's data or network, whatever it is: the batches before it count
                self.note(stage, error)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - begin
        return gathered

    def study(self, compared: Logits, recalibration: Logits | None = None, noise_images: Logits | None = None) -> Study:
        """What was gathered, with where it comes from."""
        return Study(
            compared,
            self.plan.describe_placement(),
            self.range_images,
            recalibration=recalibration,
            noise_images=noise_images,
            errors=dict(self.errors),
            seconds=dict(self.seconds),
        )

    def observe(self, images: "_Images") -> None:
        """Estimate activation ranges, in smaller pieces if a whole batch does not fit."""
        methods = any(setting.has_weight_method for setting in self.settings)
        equalized = any(setting.needs_equalized_ranges for setting in self.settings)
        size, sample = OBSERVATION_BATCH, METHOD_IMAGES if methods else 0
        while True:
            try:
                self.plan.observe(images(), equalized=equalized, batch_size=size, sample_size=sample)
                self.range_images = images.seen
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            self._fitting.largest = size = (min(size, images.batch_size) + 1) // 2

    def make_ready(self, progress: Progress | None) -> None:
        """Round weights now; a setting whose weight method fails is noted and left out."""
        for setting in self.settings:
            try:
                self.plan.make_ready([setting], progress=progress)
            except Exception as error:  # one setting's: the others go on
                self.note(str(setting), error)
        self.settings = tuple(setting for setting in self.settings if str(setting) not in self.errors)

    def _runner(self, baseline: "Baseline | None") -> Callable[[Tensor], dict[str, Tensor]]:
        def run(images: Tensor) -> dict[str, Tensor]:
            plain: Tensor = self._network(images.clone())  # a forward may write to its input
            results = {FLOAT: plain}
            if baseline is not None:
                with baseline.context():
                    results = {FLOAT: baseline.network(images.to(baseline.dtype, copy=True)), FLOAT32: plain}
            return results | self._quantized(images)

        return run

    def _quantized(self, images: Tensor) -> dict[str, Tensor]:
        try:
            logits = self.plan.run_batch(self.settings, images) if self.settings else {}
        except Exception as error:  # whatever a setting or the images bring
            if is_out_of_memory(error) or not self._leave_out_failing(images):
                raise
            return self._quantized(images)
        return {str(setting): value for setting, value in logits.items()}

    def _leave_out_failing(self, images: Tensor) -> bool:
        """Note the settings that fail by themselves, if the network itself does not: the others go on without them."""
        self.plan.float_logits(images)
        before = self.settings
        for setting in before:
            try:
                self.plan.run_batch([setting], images)
            except Exception as error:  # as above
                self.note(str(setting), error)
                self.settings = tuple(other for other in self.settings if other != setting)
        return self.settings != before


@dataclass(frozen=True)
class Baseline:
    """The float network in the precision it was trained in.

    Attributes:
        network: Maps images of `dtype` to logits.
        dtype: Of the images.
        context: What it runs in, such as autocast.
    """

    network: nn.Module
    dtype: torch.dtype
    context: Callable[[], AbstractContextManager[Any]]  # Any: what it yields is not used


def prepare_grid(
    network: nn.Module,
    settings: Sequence[Setting],
    *,
    range_estimation: Batches,
    placement: PlacementName = "graph",
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Grid:
    """Trace a network, observe it once and make every setting ready to run.

    Args:
        network: Maps images to logits. It becomes part of the result and is moved, cast to float32 and put in
            evaluation mode: pass a copy.
        settings: The grid; duplicates are run once.
        range_estimation: As in `run_study`.
        placement: As in `run_study`.
        device: As in `run_study`.
        progress: As in `run_study`.

    Returns:
        The grid; a setting whose weight method failed is left out and is in its `errors`.

    Raises:
        ValueError: As `run_study`.
    """
    if not settings:
        raise ValueError(
            "`settings` must name at least one point of the grid, got none. Pass for example ['w8a8', 'w4a8']."
        )
    device = torch.device(device)
    with _plain(device):
        begin = time.perf_counter()
        batches = iter(range_estimation)
        first = next(batches, None)
        if first is None:
            raise ValueError(
                "`range_estimation` gave no batch. Pass a loader over training images; a few hundred images are enough."
            )
        network = network.to(device=device, dtype=torch.float32).eval()
        plan = prepare(network, first[0][:2].to(device), placement=placement, shares_large=True)
        grid = Grid(network, plan, settings, device)
        grid.seconds["prepare"] = time.perf_counter() - begin
        begin = time.perf_counter()
        if any(setting.needs_images for setting in grid.settings):
            grid.observe(_Images(first, batches, range_estimation, device, progress))
        grid.seconds["observe"] = time.perf_counter() - begin
        begin = time.perf_counter()
        grid.make_ready(progress)
        grid.seconds["weights"] = time.perf_counter() - begin
    return grid


class _Images:
    """The range estimation images, from the first batch on; read again from the start when called again."""

    def __init__(
        self,
        first: tuple[Tensor, Tensor],
        rest: Iterable[tuple[Tensor, Tensor]],
        batches: Batches,
        device: torch.device,
        progress: Progress | None,
    ) -> None:
        self.seen, self.batch_size = 0, len(first[0])
        self._first, self._rest, self._batches = first, rest, batches
        self._device, self._progress = device, progress
        self._is_read = False

    def __call__(self) -> Iterable[Tensor]:
        if self._is_read:
            again = iter(self._batches)
            self._first, self._rest = next(again), again
        self._is_read, self.seen = True, 0
        total = _length(self._batches)
        yield self._count(self._first, 1, total)
        for done, batch in enumerate(self._rest, start=2):
            yield self._count(batch, done, total)

    def _count(self, batch: tuple[Tensor, Tensor], done: int, total: int) -> Tensor:
        self.seen += len(batch[0])
        if self._progress:
            self._progress("observe", done, total)
        return batch[0].to(self._device)


@contextmanager
def _plain(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and no inference mode: a test loop calls from inside it, where nothing is traced."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def _length(batches: Batches) -> int:
    """Number of batches, 0 where it is not known before they are read."""
    try:
        return len(batches)  # type: ignore[arg-type]  # a loader may have a length or not
    except TypeError:
        return 0
