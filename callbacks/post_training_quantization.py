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

from qcal.callbacks.attachment import class_names
from qcal.callbacks.images_to_logits import FLATTEN, SELF
from qcal.callbacks.network import find_network
from qcal.callbacks.network_finder import NetworkFinder
from qcal.callbacks.record_logging import log_record
from qcal.callbacks.study_context import describe_run, free_folder, run_folder
from qcal.callbacks.study_data import Pairs, StudyData, find_data, validating
from qcal.quantization import PlacementName, Setting, prepare
from qcal.report.console import StudyProgress, print_record
from qcal.report.pictures import save_pictures
from qcal.robustness import Record, build_record, run_study, write_record

log = logging.getLogger(__name__)

DEFAULT_SETTINGS = ("w8a8", "w6a8", "w5a8", "w4a8", "w3a8")


class PostTrainingQuantization(Callback):
    """Quantize a copy of the trained network over a grid of settings and record which predictions changed.

    Runs once, when `fit` has trained and ended normally, or when `test` runs alone; not after an exception, an
    interrupt, a sanity check or under `fast_dev_run`. The module, its checkpoints and the random state stay as they
    are.

    Which submodule maps images to logits, and where images and labels are in a batch, is seen in the first validation
    batch (at the sanity check, before anything is trained): what the loss reads there is followed back to the batch.
    One line says what was found, and a copy is prepared once for a rehearsal. Where nothing is found, or probabilities
    are, or the network or a setting cannot be quantized, the run is refused before it begins.

    Writes `records.json`, `records.csv`, `logits.npz` and `figures/` into `<run folder>/ptq`, prints the table, and
    logs every figure through every logger of the trainer under `ptq/<setting>/<figure>`.

    Args:
        settings: The grid, in short forms: `w<weight bits>a<activation bits>`, bits 2 to 8 or `fp`, then words such as
            `-mse`, `-full`, `-ada` or `-keep=first_last`; see `qcal.quantization.Setting`.
        data: Which images to compare on after `fit`: `val` (the loaders fit used) or `test` (the data module's). A
            stand-alone `test` always uses the loaders it was given.
        network: Dotted name of the submodule that maps images to logits, several that are called in sequence as
            `backbone+head`, or `self` for the whole module; what the first validation batch shows when not given.
        output_dir: Where to write; `ptq` in the run's folder when not given.
        on_error: Whether a failure of the study is logged and training counts as ended well (`warn`), or is raised.
        logits: Where `network` returns something else: the dotted name of the submodule that makes the logits inside
            it, or a function (or its dotted import path) from its output to the logits.
        batch_to_inputs: Function (or its dotted import path) from a batch to `(images, target)`, as `network` gets
            them; the parts of the batch that the first validation step used when not given.
        placement: Which tensors are quantized: `graph` (what an int8 backend would store), `modules` (without a graph,
            for a network that cannot be exported) or `xia2021` (as the paper's code).

    Raises:
        ValueError: No setting, one that does not exist, an unknown `data`, `on_error` or `placement`, or a
            `batch_to_inputs` that cannot be imported.

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
        data: Literal["val", "test"] = "val",
        network: str | None = None,
        output_dir: str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        # Any: outputs and batches of whatever kind. `str` first, so that a config file keeps a path as it is written.
        logits: str | Callable[[Any], Any] | None = None,
        batch_to_inputs: str | Callable[[Any], Any] | None = None,
        placement: PlacementName = "graph",
    ) -> None:
        super().__init__()
        self.settings = _parse(settings)
        _check_choice("data", data, ("val", "test"))
        _check_choice("on_error", on_error, ("warn", "raise"))
        _check_choice("placement", placement, get_args(PlacementName))
        self.data = data
        self.network = network
        self.finder = NetworkFinder(network, logits, batch_to_inputs)
        self.output_dir = output_dir
        self.on_error = on_error
        self.placement: PlacementName = placement
        self.record: Record | None = None
        self.folder: Path | None = None
        # Any: plain values of the config file that built the run; `train.py` fills it in, so that the record holds it.
        self.run_config: dict[str, Any] | None = None
        self._armed = False
        self._first_step = 0
        self._studied_in_fit = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what the study cannot do, before anything is trained."""
        if trainer.world_size > 1:
            raise MisconfigurationException(
                f"PostTrainingQuantization measures on one device, got {trainer.world_size}. "
                "Train without it, then run `test --ckpt_path ...` with `--trainer.devices 1`."
            )
        self.check_network(pl_module)
        self.finder.reset()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new fit: what an earlier one recorded no longer speaks for it."""
        self._armed = self._studied_in_fit = False

    # Any: a batch, and what a step returns, can be anything.
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the first step: the sanity check comes before hours of training."""
        if trainer.state.fn == "fit":
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
        """Say what was found, or refuse while nothing has been trained."""
        self._look(trainer, pl_module, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Watch the first step of a test that comes without training."""
        if not self._studied_in_fit:
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
        """Say what was found."""
        self._look(trainer, pl_module, batch)

    def _look(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if not self.finder.finish(pl_module, batch, trainer.precision_plugin.val_step_context):
            return
        is_early = trainer.state.fn == "fit" and (trainer.sanity_checking or trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by a connector of Lightning
        failure = None if self.finder.failure is None else str(self.finder.failure)
        if self.finder.attachment is not None:
            rank_zero_info(self.finder.attachment.line(pl_module))
            failure = self._rehearse(pl_module, batch) if is_early else None
        if failure is None:
            return
        refusal = f"PostTrainingQuantization cannot study this network. {failure}"
        if is_early:
            raise MisconfigurationException(refusal)
        log.error("%s Training goes on without it.", refusal)

    def _rehearse(self, pl_module: LightningModule, batch: Any) -> str | None:
        """Prepare a copy of the untrained network: what cannot be quantized is to be known now, not in the morning.

        Returns:
            Why it cannot be, or cannot be at a setting; None if it can.
        """
        failure: str | None = None
        with isolate_rng(), torch.inference_mode(False), torch.no_grad():
            try:
                images, _ = self.finder.reader()(batch)
                self.rehearse(self.finder.build(pl_module), images)
            except (ValueError, TypeError) as error:
                failure = str(error)
            except Exception as error:  # not the network's fault (memory, say): training must not be refused for it
                log.warning("The rehearsal of the quantization study failed: %s", error, exc_info=error)
        return failure

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where training begins: `on_fit_end` also comes when nothing is trained."""
        self._armed, self._first_step = True, trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay armed only if training moved."""
        self._armed = self._armed and trainer.global_step > self._first_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that broke has nothing to record."""
        self._armed = False
        self.finder.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing of a watch stays on the module."""
        self.finder.stop()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ended: checkpoints are written, weights are averaged, the loggers are still open."""
        armed, self._armed = self._armed, False
        if armed and not trainer.fast_dev_run and not trainer.interrupted:  # type: ignore[attr-defined]  # set by a connector of Lightning
            self._studied_in_fit = True
            self._guarded_study(trainer, pl_module, self.data)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test of a checkpoint, without training before it."""
        if not trainer.fast_dev_run and not self._studied_in_fit:  # type: ignore[attr-defined]  # set by a connector of Lightning
            self._guarded_study(trainer, pl_module, "test")

    def _guarded_study(self, trainer: Trainer, pl_module: LightningModule, data: Literal["val", "test"]) -> None:
        failure: Exception | None = None
        with isolate_rng(), validating(trainer):
            try:
                self._study(trainer, pl_module, data)
            except Exception as error:  # anything at all: whatever it is, training has ended well
                failure = error
        # Raised out here, because `isolate_rng` gives the random state back only when nothing is raised through it.
        if failure is not None and self.on_error == "raise":
            raise failure
        if failure is not None:
            log.error("Training ended well, but its quantization study did not: %s", failure, exc_info=failure)

    def _study(self, trainer: Trainer, pl_module: LightningModule, data: Literal["val", "test"]) -> None:
        found: StudyData = find_data(trainer, data)
        if not self.finder.is_done:
            self.finder.assume(pl_module, next(iter(found.comparison)))
        network, read = self.finder.build(pl_module), self.finder.reader()
        bar = trainer.progress_bar_callback
        # Rich's bar of Lightning is still on the screen; it has no public name for its console.
        console = getattr(bar, "_console", None)
        with StudyProgress(enabled=bar is not None, console=console) as progress:
            study = run_study(
                network,
                self.settings,
                data=Pairs(found.comparison, data, read),
                range_estimation=Pairs(found.range_estimation, "range estimation", read),
                placement=self.placement,
                device=trainer.strategy.root_device,
                progress=progress,
            )
        context = describe_run(trainer, network, data_description=found.description, config=self.run_config)
        record = build_record(study, {**context, **self._attached(pl_module)})
        folder = free_folder(Path(self.output_dir) if self.output_dir else run_folder(trainer) / "ptq")
        write_record(record, folder, study=study)
        self.record, self.folder = record, folder
        figures = save_pictures(record, study, folder / "figures")
        log_record(trainer.loggers, record, figures, step=trainer.global_step)
        if bar is not None:
            print_record(record, folder, console=console)

    def _attached(self, pl_module: LightningModule) -> dict[str, Any]:
        """What was found, for the record. Any: plain values."""
        attachment = self.finder.attachment
        if attachment is None:
            return {}
        return {"network": class_names(pl_module, attachment.way), "attachment": attachment.described()}

    def rehearse(self, network: nn.Module, images: Tensor) -> None:
        """Prepare a network and look at the settings on it, without running any.

        Args:
            network: Maps images to logits; it is not changed.
            images: `(N, ...)`, of the size it is used with.

        Raises:
            TypeError: What `network` returns is no tensor.
            ValueError: It cannot be prepared, or a setting does not fit it; see `qcal.quantization.prepare`.
        """
        prepare(network, images, placement=self.placement).check(self.settings)

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
