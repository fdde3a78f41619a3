"""One study from beginning to end: network, weights and images found, the grid run, the record written and logged."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn

from qcal.callbacks.attachment import class_names
from qcal.callbacks.chosen_weights import ChosenWeights
from qcal.callbacks.network_finder import NetworkFinder
from qcal.callbacks.processes import Processes
from qcal.callbacks.record_logging import log_record
from qcal.callbacks.study_context import describe_run
from qcal.callbacks.study_data import DataOptions, Split, StudyBatches, StudyData, find_data, transferred
from qcal.callbacks.trained_precision import is_known, trained_baseline
from qcal.callbacks.wandb_artifacts import Uploads
from qcal.callbacks.wandb_logging import WholeStudy
from qcal.plots import save_figure
from qcal.quantization import PlacementName, Setting
from qcal.report.analysis_pictures import draw_analysis
from qcal.report.console import StudyProgress, print_record
from qcal.report.pictures import save_pictures
from qcal.robustness import (
    Baseline,
    Grid,
    Logits,
    Record,
    Study,
    analyse,
    build_record,
    interleave,
    prepare_grid,
    write_analysis,
    write_record,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyOptions:
    """What is asked of every study of a callback.

    Attributes:
        settings: The grid.
        placement: As in `prepare`.
        data: Which images.
        run_config: The config the run was built from (Any: plain values), for the record.
        uploads: Which files become artifacts in Weights & Biases.
    """

    settings: tuple[Setting, ...]
    placement: PlacementName = "graph"
    data: DataOptions = field(default_factory=DataOptions)
    run_config: dict[str, Any] | None = None
    uploads: Uploads = field(default_factory=Uploads)


@dataclass(frozen=True)
class _HeldOut:
    """Logits on images that are not compared, in rank 0."""

    recalibration: Logits | None
    noise_images: Logits | None


@dataclass
class Measured:
    """A study's results on one loader.

    Attributes:
        name: Of the loader; empty if there is one.
        record: In figures; in rank 0 alone it comes with `study`.
        study: The logits.
    """

    name: str
    record: Record
    study: Study | None = None

    def prefix(self, first: str) -> str:
        """Before the names of its figures in loggers."""
        return f"{first}/{self.name}" if self.name else first


class StudyRunner:
    """Measures the network of a trainer as it stands.

    Args:
        trainer: Between steps, at the end of `fit`, or after an evaluation.
        pl_module: The user's module; it is copied, not changed.
        finder: Knows the network in it.
        options: What to measure.
        processes: Of the run.

    Attributes:
        console: Where a progress bar is shown at this moment; None without one.
        failures: What part of the last measurement failed in this process, while the rest went on.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        finder: NetworkFinder,
        options: StudyOptions,
        processes: Processes,
    ) -> None:
        self._trainer, self._module, self._finder = trainer, pl_module, finder
        self._options, self._processes = options, processes
        self._bar = trainer.progress_bar_callback
        # Rich's bar of Lightning is still on the screen; it has no public name for its console.
        self.console: Console | None = getattr(self._bar, "_console", None)
        self.failures: list[Exception] = []

    def measure(self, weights: ChosenWeights, running: Split | None = None) -> list[Measured]:
        """Run the grid on every loader that is compared on.

        Args:
            weights: To measure.
            running: The split of a stand-alone evaluation.

        Returns:
            One result a loader, in every process; the logits are rank 0's alone.

        Raises:
            Exception: Nothing at all could be measured.
        """
        enabled = self._bar is not None and self._processes.rank == 0
        with ExitStack() as stack:
            # Entered together: a loader that cannot be found in one process must end the study in all.
            data = find_data(self._trainer, self._options.data, running)
            found = self._processes.together(lambda: stack.enter_context(data))
            progress = stack.enter_context(StudyProgress(enabled=enabled, console=self.console))
            network = self._processes.together(lambda: self._network(found, weights))
            grid, baseline = self._grid(network, found, progress)
            context = self._context(network, found, weights)
            held_out = self._held_out(grid, found, baseline, progress)
            results = []
            for index, name in enumerate(found.compared):
                pairs = self._compared(found, index)
                results.append(self._result(grid, baseline, name, pairs, held_out, context, progress))
            if grid.largest_piece:
                log.warning("Memory ran out: images were run %d at a time.", grid.largest_piece)
        self.failures = grid.failures
        return results

    def _network(self, found: StudyData, weights: ChosenWeights) -> nn.Module:
        if not self._finder.is_done:
            first = next(iter(next(iter(found.compared.values()))))
            self._finder.assume(self._module, transferred(self._trainer, first))
        return self._finder.build(self._module, weights)

    def _grid(self, network: nn.Module, found: StudyData, progress: StudyProgress) -> tuple[Grid, Baseline | None]:
        device = self._trainer.strategy.root_device
        self._processes.together(lambda: network.to(device))
        self._processes.share_weights(network)
        baseline = self._processes.together(lambda: trained_baseline(network, str(self._trainer.precision), device))
        grid = prepare_grid(
            network,
            self._options.settings,
            range_estimation=StudyBatches(self._trainer, found.range_estimation, self._finder.image_reader()),
            placement=self._options.placement,
            device=device,
            progress=progress,
            peers=self._processes,
        )
        return grid, baseline

    def _held_out(self, grid: Grid, found: StudyData, baseline: Baseline | None, progress: StudyProgress) -> _HeldOut:
        """Logits for recalibration, or where there are no images for it those of the range estimation, in rank 0."""
        has_split = found.recalibration is not None
        loader = found.recalibration if found.recalibration is not None else found.range_estimation
        stage = "recalibration" if has_split else "noise"
        read = self._finder.reader() if has_split else self._finder.image_reader()
        pairs = StudyBatches(self._trainer, loader, read, share=self._processes.share)
        joined = interleave(self._processes.gather(grid.evaluate(pairs, stage, progress, baseline)))
        logits = joined.logits() if len(joined) else None
        return _HeldOut(logits, None) if has_split else _HeldOut(None, logits)

    def _compared(self, found: StudyData, index: int) -> StudyBatches:
        loader, limit, share = list(found.compared.values())[index], found.limits[index], self._processes.share
        return StudyBatches(self._trainer, loader, self._finder.reader(), index=index, limit=limit, share=share)

    def _result(
        self,
        grid: Grid,
        baseline: Baseline | None,
        name: str,
        pairs: StudyBatches,
        held_out: _HeldOut,
        context: dict[str, Any],
        progress: StudyProgress,
    ) -> Measured:
        shares = self._processes.gather(grid.evaluate(pairs, "evaluate", progress, baseline))
        errors = _joined(self._processes.gather_everywhere(grid.errors))

        def build() -> Measured | None:
            if self._processes.rank > 0:
                return None
            joined = interleave(shares)
            if not len(joined):
                grid.raise_errors()
            study = grid.study(joined.logits(), held_out.recalibration, held_out.noise_images)
            study.errors.update(errors)
            more = {"loader": name, "images_at_a_time": grid.largest_piece}
            return Measured(name, build_record(study, {**context, **more}), study)

        measured = self._processes.together(build)
        record = self._processes.from_first(None if measured is None else measured.record)
        assert record is not None
        return measured or Measured(name, record)

    def _context(self, network: nn.Module, found: StudyData, weights: ChosenWeights) -> dict[str, Any]:
        """Where the figures come from. Any: plain values."""
        context = describe_run(
            self._trainer, network, data_description=found.description, config=self._options.run_config
        )
        context["weights"] = weights.described
        context["processes"] = self._processes.size
        precision = str(self._trainer.precision)
        context["precision_compared"] = precision if is_known(precision) else "32-true"
        attachment = self._finder.attachment
        if attachment is not None:
            context["network"] = class_names(self._module, attachment.way)
            context["attachment"] = attachment.described()
        return context

    def publish(self, results: Sequence[Measured], folder: Path, *, ends_curve: bool = False) -> list[Exception]:
        """Write, draw, log and print what was measured; to be called in rank 0.

        Records are written before pictures are drawn and figures are logged.

        Args:
            results: From `measure`.
            folder: Where to write; a folder in it for each of several loaders.
            ends_curve: Whether these results end a curve over training.

        Returns:
            What drawing and logging failed with, while the rest went on.

        Raises:
            OSError: The folder cannot be written.
        """
        for result in results:
            write_record(result.record, folder / result.name, study=result.study)
        failures: list[Exception] = []
        for result in results:
            assert result.study is not None
            figures: dict[str, Figure] = {}
            answers: list[str] = []
            try:
                figures |= save_pictures(result.record, result.study, folder / result.name / "figures")
                more, answers = _analysed(result.study, folder / result.name)
                figures |= more
            except Exception as error:  # an analysis, or a picture: the figures are still to be logged
                failures.append(error)
            failures += log_record(
                self._trainer.loggers,
                result.record,
                figures,
                step=self._trainer.global_step,
                epoch=self._trainer.current_epoch,
                prefix=result.prefix("ptq"),
                whole=WholeStudy(folder / result.name, result.study, self._options.uploads, result.name, ends_curve),
            )
            if self._bar is not None:
                print_record(result.record, folder / result.name, answers=answers, console=self.console)
        return failures


def _analysed(study: Study, folder: Path) -> tuple[dict[str, Figure], list[str]]:
    """Write the analysis of a study and its pictures; returns these by name, and what it says of the last setting."""
    if not study.compared.settings:
        return {}, []
    analysis = analyse(study.compared, study.recalibration, study.noise_images)
    write_analysis(analysis, folder)
    figures = draw_analysis(analysis)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures", name)
    return figures, analysis.answers[list(analysis.answers)[-1]]


def failed_record(trainer: Trainer, error: Exception, weights: str, run_config: dict[str, Any] | None) -> Record:
    """A record that says what went wrong where nothing was measured. Any: plain values of the run's config."""
    context = describe_run(trainer, nn.Module(), data_description={}, config=run_config)
    return Record(None, {}, {**context, "weights": weights}, {"study": f"{type(error).__name__}: {error}"})


def _joined(errors: Sequence[dict[str, str]]) -> dict[str, str]:
    """Errors of all processes; those of others than the first say which."""
    joined: dict[str, str] = {}
    for rank, each in enumerate(errors):
        for what, message in each.items():
            joined.setdefault(what, message if rank == 0 else f"rank {rank}: {message}")
    return joined
