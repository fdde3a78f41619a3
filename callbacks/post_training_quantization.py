"""The callback that quantizes a copy of the network when training has ended, and records what broke."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from qcal.callbacks.network import find_network
from qcal.callbacks.record_logging import log_record
from qcal.callbacks.study_context import describe_run, free_folder, run_folder
from qcal.callbacks.study_data import StudyData, find_data
from qcal.quantization import Setting
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

    Writes `records.json`, `records.csv`, `logits.npz` and `figures/` into `<run folder>/ptq`, prints the table, and
    logs every figure through every logger of the trainer under `ptq/<setting>/<figure>`.

    Args:
        settings: The grid, in short forms: `w<weight bits>a<activation bits>`, bits 2 to 8 or `fp`, then `-mse`
            (activation ranges by histogram and mean squared error instead of min and max), `-full` (weights symmetric
            over the full integer range, as torch's observers do) and `-out` (the logits are quantized too).
        data: Which images to compare on after `fit`: `val` (the loaders fit used) or `test` (the data module's). A
            stand-alone `test` always uses the loaders it was given.
        network: Dotted name of the submodule that maps images to logits; the whole module, called as `module(images)`,
            when not given.
        output_dir: Where to write; `ptq` in the run's folder when not given.
        on_error: Whether a failure of the study is logged and training counts as ended well (`warn`), or is raised.

    Raises:
        ValueError: No setting, one that does not exist, or an unknown `data` or `on_error`.

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
    ) -> None:
        super().__init__()
        self.settings = _parse(settings)
        _check_choice("data", data, ("val", "test"))
        _check_choice("on_error", on_error, ("warn", "raise"))
        self.data = data
        self.network = network
        self.output_dir = output_dir
        self.on_error = on_error
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
        self.find_network(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A new fit: what an earlier one recorded no longer speaks for it."""
        self._armed = self._studied_in_fit = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where training begins: `on_fit_end` also comes when nothing is trained."""
        self._armed, self._first_step = True, trainer.global_step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay armed only if training moved."""
        self._armed = self._armed and trainer.global_step > self._first_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that broke has nothing to record."""
        self._armed = False

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
        with isolate_rng():
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
        network = self.find_network(pl_module)
        found: StudyData = find_data(trainer, data)
        bar = trainer.progress_bar_callback
        # Rich's bar of Lightning is still on the screen; it has no public name for its console.
        console = getattr(bar, "_console", None)
        with StudyProgress(enabled=bar is not None, console=console) as progress:
            study = run_study(
                network,
                self.settings,
                data=found.comparison,
                range_estimation=found.range_estimation,
                device=trainer.strategy.root_device,
                progress=progress,
            )
        context = describe_run(trainer, network, data_description=found.description, config=self.run_config)
        record = build_record(study, context)
        folder = free_folder(Path(self.output_dir) if self.output_dir else run_folder(trainer) / "ptq")
        write_record(record, folder, study=study)
        self.record, self.folder = record, folder
        figures = save_pictures(record, study, folder / "figures")
        log_record(trainer.loggers, record, figures, step=trainer.global_step)
        if bar is not None:
            print_record(record, folder, console=console)

    def find_network(self, pl_module: LightningModule) -> nn.Module:
        """The module that is quantized: `pl_module` or the submodule that `network` names.

        Raises:
            MisconfigurationException: There is no such submodule.
        """
        return find_network(pl_module, self.network)


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
