"""The callback that quantizes a copy of the network when training has ended, and records what broke."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]  # exported without saying so
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from qcal.callbacks.chosen_weights import WeightsName, best_checkpoint_callback
from qcal.callbacks.images_to_logits import FLATTEN, SELF
from qcal.callbacks.network import find_network
from qcal.callbacks.network_finder import NetworkFinder
from qcal.callbacks.processes import processes_of
from qcal.callbacks.schedule import InTest, Schedule
from qcal.callbacks.studies import Results, Studies
from qcal.callbacks.study_data import DataOptions, Loader, Loaders, Split, can_find
from qcal.callbacks.study_runner import StudyOptions
from qcal.callbacks.wandb_artifacts import Uploads
from qcal.quantization import PlacementName, Setting, prepare
from qcal.robustness import Record

log = logging.getLogger(__name__)

DEFAULT_SETTINGS = ("w8a8", "w6a8", "w5a8", "w4a8", "w3a8")


class PostTrainingQuantization(Callback):
    """Quantize a copy of the trained network over a grid of settings and record which predictions changed.

    Runs once, when `fit` has trained and ended normally, or when `test` or `validate` runs alone; not after an
    exception or an interrupt. Under `fast_dev_run` it is tried on one batch and writes nothing. The module, its
    checkpoints and the random state stay as they are.

    Which submodule maps images to logits, and where images and labels are in a batch, is seen in the first validation
    batch (at the sanity check, before anything is trained): what the loss reads there is followed back to the batch.
    One line says what was found, and a copy is prepared once for a rehearsal. Where nothing is found, or probabilities
    are, or the network or a setting cannot be quantized, the run is refused before it begins.

    Writes `records.json`, `records.csv`, `logits.npz` and `figures/` into `<run folder>/ptq`, prints the table, and
    logs every figure through every logger of the trainer under `ptq/<setting>/<figure>`. With several loaders each has
    a folder there, and its name in the keys. On several devices each measures its share of the images, and the record
    is that of one device.

    Float logits are those of the precision the network was trained in; quantization is simulated in float32, and the
    record states what that difference alone changes.

    Args:
        settings: The grid, in short forms: `w<weight bits>a<activation bits>`, bits 2 to 8 or `fp`, then words such as
            `-mse`, `-full`, `-ada` or `-keep=first_last`; see `qcal.quantization.Setting`.
        data: Which images to compare on after `fit`: `val` (the loaders fit used), `test` (the data module's), or a
            loader, several in a list, or by name in a dictionary. A `test` or `validate` that stands alone always
            compares on the loaders it ran on.
        network: Dotted name of the submodule that maps images to logits, several that are called in sequence as
            `backbone+head`, or `self` for the whole module; what the first validation batch shows when not given.
        output_dir: Where to write; `ptq` in the run's folder when not given.
        on_error: Whether a failure of the study is logged and training counts as ended well (`warn`), or is raised.
            In both cases what was measured before is written.
        logits: Where `network` returns something else: the dotted name of the submodule that makes the logits inside
            it, or a function (or its dotted import path) from its output to the logits.
        batch_to_inputs: Function (or its dotted import path) from a batch to `(images, target)`, as `network` gets
            them; the parts of the batch that the first validation step used when not given.
        placement: Which tensors are quantized: `graph` (what an int8 backend would store), `modules` (without a graph,
            for a network that cannot be exported) or `xia2021` (as the paper's code).
        weights: Which weights: `last`, those at the end of training (their averages under `WeightAveraging` or
            `StochasticWeightAveraging`), or `best`, those of the checkpoint that `ModelCheckpoint(monitor=...)` keeps.
        range_estimation: Loader of training images for the activation ranges. When not given, the data module's
            `range_estimation_dataloader`; without one, images of the training loader, with the transforms of the val
            split where both are data sets of one kind.
        recalibration: Loader of images that are neither trained nor compared on; temperatures are fitted on them. When
            not given, the data module's `recalibration_dataloader` if it has one.
        range_estimation_size: Images that are taken of the training loader for the ranges; a thousand is plenty.
        max_batches: Batches of each loader to compare on at most; the trainer's own limit holds in any case.
        every_n_epochs: Study the network during training too, after every n-th epoch, as a curve: figures are logged
            and written to `epochs.csv`. Each takes as long as the study at the end.
        in_test: Whether `Trainer.test` and `Trainer.validate` are followed by a study: when no `fit` was studied before
            (`alone`), `always` or `never`.

    Raises:
        ValueError: No setting, one that does not exist, an unknown choice, a number below 1, or a `batch_to_inputs`
            that cannot be imported.

    Example:
        ::

            trainer = Trainer(callbacks=[PostTrainingQuantization(["w8a8", "w4a8"])])

    References:
        Xia, Ha, Azevedo, Maji: An Underexplored Dilemma between Confidence and Calibration in Quantized Neural
        Networks, 2021.
    """

    def __init__(
        self,
        settings: Sequence[str] = DEFAULT_SETTINGS,
        data: Split | Loaders = "val",
        network: str | None = None,
        output_dir: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        # Any: outputs and batches of whatever kind. `str` first, so that a config file keeps a path as it is written.
        logits: str | Callable[[Any], Any] | None = None,
        batch_to_inputs: str | Callable[[Any], Any] | None = None,
        placement: PlacementName = "graph",
        weights: WeightsName = "last",
        range_estimation: Loader | None = None,
        recalibration: Loader | None = None,
        range_estimation_size: int = 1024,
        max_batches: int | None = None,
        every_n_epochs: int | None = None,
        in_test: InTest = "alone",
    ) -> None:
        super().__init__()
        self.settings = _parse(settings)
        if isinstance(data, str):
            _check_choice("data", data, ("val", "test"))
        _check_choice("on_error", on_error, ("warn", "raise"))
        _check_choice("placement", placement, get_args(PlacementName))
        _check_choice("weights", weights, get_args(WeightsName))
        _check_choice("in_test", in_test, get_args(InTest))
        _check_count("range_estimation_size", range_estimation_size)
        for name, count in {"max_batches": max_batches, "every_n_epochs": every_n_epochs}.items():
            if count is not None:
                _check_count(name, count)
        self.data = DataOptions(data, range_estimation, recalibration, max_batches, range_estimation_size)
        self.network = network
        self.finder = NetworkFinder(network, logits, batch_to_inputs)
        self.output_dir = output_dir
        self.on_error = on_error
        self.placement: PlacementName = placement
        self.weights: WeightsName = weights
        self.schedule = Schedule(in_test, every_n_epochs)
        self.results = Results()
        # Any: plain values of the config file that built the run; `train.py` fills it in, so that the record holds it.
        self.run_config: dict[str, Any] | None = None
        # What of a study becomes an artifact where the trainer logs to Weights & Biases; assign another to change it.
        self.uploads = Uploads()
        self._example: Tensor | None = None
        self._has_train_batch = False

    @property
    def record(self) -> Record | None:
        """What the last study found, on the first loader; None before."""
        return next(iter(self.results.records.values()), None)

    @property
    def folder(self) -> Path | None:
        """Where the last study is written; None before."""
        return self.results.folder

    def _studies(self) -> Studies:
        options = StudyOptions(self.settings, self.placement, self.data, self.run_config, self.uploads)
        return Studies(self.finder, options, self.results, self.weights, self.output_dir, self.on_error)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what the study cannot do, before anything is trained."""
        processes_of(trainer)
        self.check_network(pl_module)
        self.finder.reset()
        if stage == "fit" and self.weights == "best" and best_checkpoint_callback(trainer) is None:
            raise MisconfigurationException(
                "`weights='best'` needs a ModelCheckpoint(monitor=...) among the trainer's callbacks, got none. Add "
                "one, or pass `weights='last'`, the weights at the end of training."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new fit: what an earlier one recorded no longer speaks for it."""
        self.schedule.fit_began()
        self.results, self._has_train_batch = Results(), False

    # Any: a batch, and what a step returns, can be anything.
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the first step: the sanity check comes before hours of training."""
        if trainer.state.fn == "fit" or self.schedule.watches_evaluation:
            self.finder.start(pl_module, batch, is_discarded=trainer.sanity_checking)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at what was seen."""
        self._look(trainer, pl_module, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the first step of a test that comes without training."""
        if self.schedule.watches_evaluation:
            self.finder.start(pl_module, batch, is_discarded=False)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at what was seen."""
        self._look(trainer, pl_module, batch)

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Find the network in what was seen; `_judge` says so, when all processes have come to the same place."""
        if not self.finder.finish(pl_module, batch, trainer.precision_plugin.val_step_context):
            return
        if self.finder.attachment is not None:
            rank_zero_info(self.finder.attachment.line(pl_module))
            self._example = self.finder.reader()(batch)[0][:2].clone()
        elif not self._is_early(trainer):
            log.error("%s Training goes on without it.", self._refusal(str(self.finder.failure)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a network that cannot be studied while nothing is trained; study one that was validated alone."""
        if trainer.state.fn == "fit" and self._is_early(trainer):
            self._judge(trainer, pl_module)
        elif trainer.state.fn == "validate" and self.schedule.evaluation_ended():
            self._studies().after_evaluation(trainer, pl_module, "val")

    def _is_early(self, trainer: Trainer) -> bool:
        """Whether nothing has been trained that a refusal would cost."""
        return trainer.state.fn == "fit" and bool(trainer.sanity_checking or trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector of Lightning

    def _judge(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Rehearse what was found, in every process alike, or refuse."""
        processes = processes_of(trainer)
        self.finder.adopt(processes.from_first(self.finder.attachment))
        failure = None if self.finder.failure is None else str(self.finder.failure)
        example, self._example = self._example, None
        if failure is None and example is not None:
            failure = self._rehearse(pl_module, example)
        failures = [each for each in processes.gather_everywhere(failure) if each is not None]
        if failures:
            raise MisconfigurationException(self._refusal(failures[0]))

    def _refusal(self, failure: str) -> str:
        return f"PostTrainingQuantization cannot study this network. {failure}"

    def _rehearse(self, pl_module: LightningModule, images: Tensor) -> str | None:
        """Prepare a copy of the untrained network: what cannot be quantized is to be known now, not in the morning.

        Returns:
            Why it cannot be, or cannot be at a setting; None if it can.
        """
        failure: str | None = None
        with isolate_rng(), torch.inference_mode(False), torch.no_grad():
            try:
                self.rehearse(self.finder.build(pl_module).float(), images)
            except (ValueError, TypeError) as error:
                failure = str(error)
            except Exception as error:  # not the network's fault (memory, say): training must not be refused for it
                log.warning("The rehearsal of the quantization study failed: %s", error, exc_info=error)
        return failure

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where training begins; refuse a fit that will have no images to compare on."""
        self.schedule.training_began(trainer)
        missing = can_find(trainer, self.data)
        if missing is not None:
            raise MisconfigurationException(missing)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:  # Any: as above
        """Refuse training batches that ranges cannot be estimated from, while nothing is trained."""
        if self._has_train_batch or self.finder.attachment is None:
            return
        self._has_train_batch = True
        if self.data.range_estimation is None and not hasattr(
            trainer.datamodule,  # type: ignore[attr-defined]  # set by Lightning
            "range_estimation_dataloader",
        ):
            self._check_train_batch(batch)

    def _check_train_batch(self, batch: Any) -> None:
        try:
            self.finder.image_reader()(batch)
        except ValueError as error:
            raise MisconfigurationException(
                f"The activation ranges cannot be estimated on the training loader: {error} Or pass "
                "`range_estimation=`, a loader of training images whose batches are as those of validation."
            ) from error

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One point of the curve over training, if it was asked for."""
        if self.schedule.epoch_ended(trainer):
            self._studies().after_epoch(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay armed only if training moved."""
        self.schedule.training_ended(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that broke has nothing to record."""
        self.schedule.broke()
        self.finder.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing of a watch stays on the module."""
        self.finder.stop()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ended: checkpoints are written, weights are averaged, the loggers are still open."""
        if not self.schedule.fit_ended(trainer):
            return
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set by a connector of Lightning
            self._studies().try_out(trainer, pl_module)
        else:
            self._studies().after_fit(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test of a checkpoint, without training before it."""
        if not trainer.fast_dev_run and self.schedule.evaluation_ended():  # type: ignore[attr-defined]  # set by a connector of Lightning
            self._studies().after_evaluation(trainer, pl_module, "test")

    def rehearse(self, network: nn.Module, images: Tensor) -> None:
        """Prepare a network, look at the settings on it and show it the images, without running any setting.

        Args:
            network: Maps images to logits; it is not changed.
            images: `(N, ...)`, of the size it is used with.

        Raises:
            TypeError: What `network` returns is no tensor.
            ValueError: It cannot be prepared, or a setting does not fit it; see `qcal.quantization.prepare`.
        """
        plan = prepare(network, images, placement=self.placement)
        plan.check(self.settings)
        if any(setting.needs_images for setting in self.settings):
            plan.observe(images, sample_size=0)

    def check_network(self, pl_module: nn.Module) -> None:
        """Refuse a `network` that names what is not there.

        Raises:
            MisconfigurationException: There is no such submodule.
        """
        for step in self.network.split("+") if self.network is not None else ():
            if step not in (SELF, FLATTEN):
                find_network(pl_module, step)


def _parse(settings: Sequence[str]) -> tuple[Setting, ...]:
    if isinstance(settings, str) or not settings:
        raise ValueError(
            f"`settings` must be a list of one or more short forms, got {settings!r}. Pass for example ['w8a8', "
            "'w4a8']."
        )
    return tuple(dict.fromkeys(Setting.parse(setting) for setting in settings))


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
