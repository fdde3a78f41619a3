"""The robustness study: one network, its float logits and its logits at every setting of a grid."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qcal.quantization import PlacementName, Plan, RangeObserver, Setting, join_parts, prepare
from qcal.robustness.logits import FLOAT, FLOAT32, BatchLogits, Logits
from qcal.robustness.out_of_memory import FittingBatches, is_out_of_memory
from qcal.robustness.peers import Alone, Peers
from qcal.robustness.range_images import Batches, Progress, RangeImages, num_batches

__all__ = ["Baseline", "Batches", "Grid", "Progress", "Study", "prepare_grid", "run_study"]

METHOD_IMAGES = 1024
"""Images that weight methods look at, as many as Nagel et al. 2020 use."""
OBSERVATION_BATCH = 256
"""Images that are observed at a time, unless memory runs out."""
_ALONE = Alone()


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
        begin, total, gathered = time.perf_counter(), num_batches(data), BatchLogits()
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

    def observe(self, images: RangeImages, peers: Peers = _ALONE) -> None:
        """Estimate activation ranges, in smaller pieces if a whole batch does not fit.

        Several processes read the same images and run every n-th piece each; afterwards each has the ranges of all.
        When memory runs out in one, all go on in smaller pieces: running averages depend on their size.
        """
        size = OBSERVATION_BATCH
        while not self._observed(images, size, peers):
            self._fitting.largest = size = (min(size, images.batch_size) + 1) // 2
        self.range_images = images.seen
        if peers.size > 1:
            self._join(peers)

    def _observed(self, images: RangeImages, size: int, peers: Peers) -> bool:
        """Observe this process's pieces of at most `size` images; whether they fit into memory in every process."""
        methods = any(setting.has_weight_method for setting in self.settings)
        equalized = any(setting.needs_equalized_ranges for setting in self.settings)
        sample = METHOD_IMAGES if methods else 0
        only = None if peers.size == 1 else (lambda position: position % peers.size == peers.rank)

        def fits() -> bool:
            try:
                self.plan.observe(images(), equalized=equalized, batch_size=size, sample_size=sample, only=only)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                return False
            return True

        return all(peers.gather_everywhere(peers.together(fits)))

    def _join(self, peers: Peers) -> None:
        """Give every process the statistics of all; sent from the CPU, 128 KiB a quantizer."""

        def sent() -> list[dict[str, RangeObserver]]:
            seen = (self.plan.statistics, self.plan.equalized_statistics)
            return [{name: observer.to("cpu") for name, observer in each.items()} for each in seen]

        plain, equalized = zip(*peers.gather_everywhere(peers.together(sent)), strict=True)

        def join() -> None:
            self.plan.statistics = join_parts(plain, self.plan.device)
            self.plan.equalized_statistics = join_parts(equalized, self.plan.device)

        peers.together(join)

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
    peers: Peers = _ALONE,
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
        peers: Processes that prepare the same grid at the same time: each reads all the range estimation images, in the
            same batches, and runs its share of them. The result is that of one process, bit for bit.

    Returns:
        The grid; a setting whose weight method failed is left out and is in its `errors`.

    Raises:
        ValueError: As `run_study`.
        RuntimeError: Another process failed; the message says which and how.
    """
    if not settings:
        raise ValueError(
            "`settings` must name at least one point of the grid, got none. Pass for example ['w8a8', 'w4a8']."
        )
    device = torch.device(device)
    with _plain(device):
        begin = time.perf_counter()

        def prepared() -> tuple[Grid, tuple[Tensor, Tensor], Iterator[tuple[Tensor, Tensor]]]:
            batches = iter(range_estimation)
            first = next(batches, None)
            if first is None:
                raise ValueError(
                    "`range_estimation` gave no batch. Pass a loader over training images; a few hundred images are "
                    "enough."
                )
            ready = network.to(device=device, dtype=torch.float32).eval()
            plan = prepare(ready, first[0][:2].to(device), placement=placement, shares_large=True)
            return Grid(ready, plan, settings, device), first, batches

        grid, first, batches = peers.together(prepared)
        grid.seconds["prepare"] = time.perf_counter() - begin
        begin = time.perf_counter()
        if any(setting.needs_images for setting in grid.settings):
            grid.observe(RangeImages(first, batches, range_estimation, device, progress), peers)
        grid.seconds["observe"] = time.perf_counter() - begin
        begin = time.perf_counter()
        peers.together(lambda: grid.make_ready(progress))
        grid.seconds["weights"] = time.perf_counter() - begin
    return grid


@contextmanager
def _plain(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and no inference mode: a test loop calls from inside it, where nothing is traced."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield
