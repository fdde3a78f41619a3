"""The studies of one callback: run so that nothing of the run changes, written, logged, and told of when they fail."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]  # exported without saying so
from lightning.pytorch.utilities.seed import isolate_rng

from qcal.callbacks.chosen_weights import ChosenWeights, WeightsName, choose_weights, tested_weights
from qcal.callbacks.epoch_curve import EpochCurve
from qcal.callbacks.network_finder import NetworkFinder
from qcal.callbacks.processes import processes_of
from qcal.callbacks.record_logging import log_figures, log_record
from qcal.callbacks.study_context import free_folder, run_folder
from qcal.callbacks.study_data import Split, validating
from qcal.callbacks.study_runner import Measured, StudyOptions, StudyRunner, failed_record
from qcal.robustness import Record, write_record

log = logging.getLogger(__name__)


@dataclass
class Results:
    """What the studies of one fit, or of one evaluation, left.

    Attributes:
        records: Of the last one, by name of the loader; the name is empty if there is one.
        folder: Where they are written; None before the first.
        curve: Of those between epochs.
    """

    records: dict[str, Record] = field(default_factory=dict)
    folder: Path | None = None
    curve: EpochCurve = field(default_factory=EpochCurve)


@dataclass(frozen=True)
class Studies:
    """Runs studies at the places where a trainer allows it.

    Attributes:
        finder: Knows the network.
        options: What to measure.
        results: Filled in.
        weights: Which are measured after a fit.
        output_dir: Where to write; `ptq` in the run's folder when None.
        on_error: Whether a failure is logged or raised.
    """

    finder: NetworkFinder
    options: StudyOptions
    results: Results
    weights: WeightsName
    output_dir: str | None
    on_error: Literal["warn", "raise"]

    def after_fit(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the weights that a fit left."""
        message = "Training ended well, but its quantization study did not: %s"
        self._guarded(trainer, message, self.weights, lambda: self._whole(trainer, pl_module, None, None))

    def after_evaluation(self, trainer: Trainer, pl_module: LightningModule, split: Split) -> None:
        """Measure the weights that a test or a validation ran on, on its loaders."""
        weights = tested_weights(trainer)
        self.results.folder, self.results.curve = None, EpochCurve()  # of its own: what a fit wrote stays
        message = "The evaluation ended well, but its quantization study did not: %s"
        self._guarded(trainer, message, weights.described, lambda: self._whole(trainer, pl_module, split, weights))

    def after_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the weights as they stand in the middle of a fit: one point of the curve."""
        epoch = trainer.current_epoch + 1
        weights = ChosenWeights(f"after epoch {epoch}")
        message = f"Training goes on, but the quantization study after epoch {epoch} failed: %s"
        self._guarded(trainer, message, weights.described, lambda: self._point(trainer, pl_module, epoch, weights))

    def try_out(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A pass over one batch that writes and logs nothing; what fails is raised, as nothing is lost.

        Raises:
            Exception: Whatever the study failed with.
        """
        tiny = replace(self.options, data=replace(self.options.data, max_batches=1, range_estimation_size=1))
        runner = self._runner(trainer, pl_module, tiny)
        failure = _isolated(trainer, lambda: runner.measure(ChosenWeights("last")))
        failures = [failure] if failure is not None else runner.failures
        if failures:
            raise failures[0]
        rank_zero_info("PostTrainingQuantization: every setting ran on one batch; a fast_dev_run writes nothing.")

    def _guarded(self, trainer: Trainer, message: str, weights: str, study: Callable[[], None]) -> None:
        """Run a study so that nothing of the run changes, and tell of its failure once, in the log and the record."""
        self.results.records = {}
        failure = _isolated(trainer, study)
        if failure is None:
            return
        if not self.results.records and trainer.global_rank == 0:
            self._write_failure(trainer, failure, weights)
        if self.on_error == "raise":
            raise failure
        log.error(message, failure, exc_info=failure)

    def _write_failure(self, trainer: Trainer, failure: Exception, weights: str) -> None:
        """A record that holds nothing but what went wrong."""
        try:
            self._make_folder(trainer)
            assert self.results.folder is not None
            write_record(failed_record(trainer, failure, weights, self.options.run_config), self.results.folder)
        except OSError as unwritable:
            log.error("Its record could not be written: %s", unwritable)

    def _whole(
        self, trainer: Trainer, pl_module: LightningModule, split: Split | None, weights: ChosenWeights | None
    ) -> None:
        processes, runner = processes_of(trainer), self._runner(trainer, pl_module, self.options)
        chosen = weights or processes.together(lambda: choose_weights(trainer, self.weights))
        results = runner.measure(chosen, split)
        self._keep(trainer, results)
        processes.together(lambda: self._publish(trainer, runner, results))
        if runner.failures:
            raise runner.failures[0]

    def _publish(self, trainer: Trainer, runner: StudyRunner, results: Sequence[Measured]) -> None:
        folder, curve = self.results.folder, self.results.curve
        if trainer.global_rank > 0 or folder is None:
            return
        failures = runner.publish(results, folder, ends_curve=bool(curve.rows))
        if curve.rows:
            self._extend_curve(trainer.current_epoch, results)
            figures = curve.draw(folder, [str(setting) for setting in self.options.settings])
            failures += log_figures(trainer.loggers, figures, step=trainer.global_step)
        if failures:
            raise failures[0]

    def _point(self, trainer: Trainer, pl_module: LightningModule, epoch: int, weights: ChosenWeights) -> None:
        processes, runner = processes_of(trainer), self._runner(trainer, pl_module, self.options)
        results = runner.measure(weights)
        self._keep(trainer, results)
        processes.together(lambda: self._log_point(trainer, epoch, results))
        if runner.failures:
            raise runner.failures[0]

    def _log_point(self, trainer: Trainer, epoch: int, results: Sequence[Measured]) -> None:
        if trainer.global_rank > 0:
            return
        self._extend_curve(epoch, results)
        failures: list[Exception] = []
        for result in results:
            prefix, step = result.prefix("ptq"), trainer.global_step
            failures += log_record(trainer.loggers, result.record, {}, step=step, epoch=epoch, prefix=prefix)
        if failures:
            raise failures[0]

    def _extend_curve(self, epoch: int, results: Sequence[Measured]) -> None:
        assert self.results.folder is not None
        for result in results:
            self.results.curve.add(epoch, result.name, result.record)
        self.results.curve.write(self.results.folder)

    def _keep(self, trainer: Trainer, results: Sequence[Measured]) -> None:
        self.results.records = {result.name: result.record for result in results}
        self._make_folder(trainer)

    def _make_folder(self, trainer: Trainer) -> None:
        """Choose a place; all studies of one fit are written to the same."""
        if self.results.folder is None:
            wanted = Path(self.output_dir) if self.output_dir else run_folder(trainer) / "ptq"
            self.results.folder = free_folder(wanted)

    def _runner(self, trainer: Trainer, pl_module: LightningModule, options: StudyOptions) -> StudyRunner:
        return StudyRunner(trainer, pl_module, self.finder, options, processes_of(trainer))


def _isolated(trainer: Trainer, study: Callable[[], object]) -> Exception | None:
    """Run a study; random state and the trainer's stage are then as they were. What it failed with, if it did.

    Returned, because `isolate_rng` gives the random state back only when nothing is raised through it.
    """
    with isolate_rng(), validating(trainer):
        try:
            study()
        except Exception as error:  # anything at all: whatever it is, training has ended well
            return error
    return None
