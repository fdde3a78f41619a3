"""The Lightning command line with qcal's classes in their places."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

import qcal.losses  # noqa: F401  # classes are known by their short names (`--model.loss FocalLoss`) once imported
from qcal.atomic import replacing
from qcal.callbacks import ConfidenceMonitor, PostTrainingQuantization, TemperatureScaling
from qcal.cli.broken_off import telling_how_to_go_on
from qcal.cli.checkpoint_file import WholeCheckpoints
from qcal.cli.parser import Parser, readable
from qcal.cli.run import RunDescription, RunOptions, WandbOptions, choose_run_folder, make_loggers
from qcal.cli.wandb_run import describing_tags
from qcal.data import ImageDataModule
from qcal.sweep.run_state import LAST_CHECKPOINT
from qcal.tasks import Classifier, check_fit
from qcal.usage import UsageError

# What a user's input can be wrong in while classes are built and data is read; anything else is a defect and keeps
# its traceback.
INPUT_ERRORS = (ValueError, TypeError, OSError, MisconfigurationException)


def run_command_line() -> None:
    """Parse `sys.argv`, build everything, check it, and run the subcommand.

    Raises:
        UsageError: The input is wrong; found before anything was trained or written.
        BrokenOffError: The disk is full, or the user stopped the run.
    """
    _silence_advice()
    _start(QcalCLI)


def build_parser() -> Parser:
    """The parser of the command line alone: it looks at arguments and configs, and runs nothing.

    Returns:
        The parser that `run_command_line` would use.
    """
    try:
        _start(_ParserOnly)
    except _ParserBuilt as built:
        return built.parser
    raise AssertionError("LightningCLI no longer calls `parse_arguments` after it has built its parser.")


def _start(cli: type[LightningCLI]) -> None:
    cli(
        Classifier,
        ImageDataModule,
        subclass_mode_data=True,
        parser_class=Parser,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        # Lightning would let hyperparameters in a checkpoint overrule the config; ours keep none.
        load_from_checkpoint_support=False,
        save_config_callback=SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        trainer_defaults={"devices": 1, "max_epochs": 10, "enable_model_summary": False},
        parser_kwargs={
            "description": "Train classifiers whose confidence was moved on purpose, quantize them, compare. "
            "Many runs at a time: `sweep --help`."
        },
    )


class SaveRunConfig(SaveConfigCallback):
    """Write the whole config to `config.yaml` in the run's folder, so that `-c <run>/config.yaml` runs it again."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by the base class on rank 0, once."""
        folder = Path(trainer.default_root_dir)
        config = self.config.clone()
        # Where this run went is not part of what to run: the next one gets a folder of its own.
        config.run.name = config.run.dir = None
        with replacing(folder / self.config_filename) as temporary:
            self.parser.save(config, temporary, skip_none=False, overwrite=True, multifile=False)


class QcalCLI(LightningCLI):
    """Lightning's command line for qcal's classes.

    It adds the groups `ptq`, `checkpoint`, `run` and `wandb`, a folder for each run, and a check of the input before
    work starts.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Every run has these, each with its own group of arguments."""
        parser.add_lightning_class_args(PostTrainingQuantization, "ptq")
        parser.add_lightning_class_args(ConfidenceMonitor, "confidence")
        parser.add_lightning_class_args(TemperatureScaling, "temperature")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.set_defaults(
            {
                "ptq.data": "test",
                "ptq.network": "model",
                "ptq.on_error": "raise",
                "confidence.network": "model",
                "temperature.network": "model",
                "checkpoint.monitor": "val/accuracy",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
            }
        )

    def instantiate_classes(self) -> None:
        """Build model, data and trainer and check that they fit together; nothing has been written when this fails."""
        try:
            self._check_checkpoint()
            super().instantiate_classes()
            ptq = self._get(self.config_init, "ptq")
            ptq.check_network(self.model)
            check_fit(self.model, self.datamodule, self.subcommand or "fit")
            if ptq.network in dict(self.model.named_modules()):
                ptq.rehearse(self.model.get_submodule(ptq.network), torch.zeros(2, *self.datamodule.input_shape))
        except INPUT_ERRORS as error:
            raise UsageError(readable(str(error))) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # Any: the Trainer's arguments, as in the base class
        """The trainer, with the run's folder, its loggers and its progress bar."""
        config = self._get(self.config_init, "trainer")
        resumed = self.subcommand == "fit" and self._get(self.config_init, "ckpt_path") is not None
        # Of several processes the first makes the folder; the others come to it.
        joins = resumed or getattr(rank_zero_only, "rank", 0) > 0
        name, folder = choose_run_folder(self._get(self.config_init, "run"), self._description(), resumed=joins)
        self._get(self.config_init, "checkpoint").dirpath = str(folder / "checkpoints")
        # Not `save_last` of the other: that one is written only when a new best is.
        last = ModelCheckpoint(folder / "checkpoints", filename="last", enable_version_counter=False)
        given = config["callbacks"] or []
        kwargs["callbacks"] = [*(given if isinstance(given, list) else [given]), last]
        self._dump_config()
        ptq, wandb = self._get(self.config_init, "ptq"), self._get(self.config_init, "wandb")
        ptq.run_config, ptq.uploads = self.config_dump, wandb.uploads
        kwargs["default_root_dir"] = str(folder)
        if config["logger"] in (None, True):
            kwargs["logger"] = make_loggers(name, folder, wandb, self.config_dump, self._shown(goes_on=resumed))
        trainer = super().instantiate_trainer(**kwargs)
        # Not as a plugin: that would replace what a strategy of several devices or a user brings along.
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpoints()
        return trainer

    def before_fit(self) -> None:
        """Make the run's folder, now that the input is known to be good."""
        self._make_folder()

    def before_test(self) -> None:
        """Make the run's folder, now that the input is known to be good."""
        self._make_folder()

    def after_fit(self) -> None:
        """Say where everything is."""
        self._print_places()

    def after_test(self) -> None:
        """Say where everything is."""
        self._print_places()

    def _run_subcommand(self, subcommand: str) -> None:
        folder = Path(self.trainer.default_root_dir)
        # Lightning answers Ctrl-C by ending the process, without a word on how to go on.
        with telling_how_to_go_on(folder, folder / LAST_CHECKPOINT, was_stopped=lambda: self.trainer.interrupted):
            super()._run_subcommand(subcommand)

    def _make_folder(self) -> None:
        if not self.trainer.fast_dev_run and self.trainer.is_global_zero:  # type: ignore[attr-defined]  # set by a connector of Lightning
            Path(self.trainer.default_root_dir).mkdir(parents=True, exist_ok=True)

    def _print_places(self) -> None:
        if self.trainer.fast_dev_run or not self.trainer.is_global_zero:  # type: ignore[attr-defined]  # set by a connector of Lightning
            return
        folder = Path(self.trainer.default_root_dir)
        print(f"Run      {folder}")
        offline = " ".join(str(part) for part in sorted(folder.glob("wandb/offline-run-*")))
        if offline:
            # A run that was resumed has several parts, which are uploaded in their order.
            print(f"W&B      offline; upload with: wandb sync {offline}")

    def _check_checkpoint(self) -> None:
        path = self._get(self.config, "ckpt_path")
        if path is not None and path not in ("last", "best", "hpc") and "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(
                f"`ckpt_path` must be a checkpoint file, got {path!r}, which is not there. "
                "A run keeps them as <run folder>/checkpoints/last.ckpt and best.ckpt; relative paths start at "
                f"{Path.cwd()}."
            )

    def _shown(self, *, goes_on: bool) -> RunDescription:
        """What Weights & Biases shows of the run besides its config."""
        files = [Path(str(file)) for file in self._get(self.config, "config") or []]
        scores = [*self.model.val_scores.keys(), *self.model.test_scores.keys()]
        scores += [f"confidence/{name}" for name in self._get(self.config_init, "confidence").metrics]
        losses = ["train/loss_epoch", "val/loss", "test/loss"]
        tags = describing_tags(self.config_dump, files)
        return RunDescription(self.subcommand or "fit", tags, [*losses, *scores], goes_on)

    def _description(self) -> str:
        """What an unnamed run is called: data, network, regime and seed."""
        parts = [type(self.datamodule), type(self.model.model), type(self.model.loss)]
        names = [part.__name__.removesuffix("Loss").lower() for part in parts]
        seed = self._get(self.config, "seed_everything")
        kind = [] if self.subcommand == "fit" else [str(self.subcommand)]
        return "-".join([*names, f"seed{seed}", *kind])


class _ParserBuilt(Exception):  # noqa: N818  # no error: a way out of a constructor that would go on to run
    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser


class _ParserOnly(QcalCLI):
    """Stops once the parser is there."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # Any: as in the base class
        assert isinstance(parser, Parser)
        raise _ParserBuilt(parser)


def _silence_advice() -> None:
    """Leave out Lightning's advice that is wrong or of no use here; what it says about the run itself stays."""
    # Batches are made whole from memory: workers would copy the data and make it slower.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The run's folder is new and ours; what is in it is the other logger's.
    warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
    # A checkpoint of one run tested or continued in another's folder: as asked.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # Lightning's own use of torch, nothing a user can change.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated.*")
    # Two lines of devices that are not there, and an advertisement.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda entry: (
            not any(
                part in entry.getMessage()
                for part in ("TPU available", "litlogger", "litmodels", "to estimate number of stepping")
            )
        )
    )
