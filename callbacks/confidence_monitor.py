"""The callback that shows how confidence drifts while a network trains: scores each epoch, a picture now and then."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qcal.callbacks.network import find_network
from qcal.callbacks.pairs import Pairs
from qcal.callbacks.study_context import run_folder
from qcal.functional.calibration import check_binning
from qcal.metrics import (
    AUGRC,
    AURC,
    Accuracy,
    AdaptiveECE,
    BrierScore,
    ClasswiseECE,
    ExpectedCalibrationError,
    KSCalibrationError,
    MaximumCalibrationError,
    MeanConfidence,
    NegativeLogLikelihood,
    Overconfidence,
    OverconfidenceOnCorrect,
    OverconfidenceOnWrong,
    OverECE,
    RMSCalibrationError,
    ScoreMetric,
    SmoothECE,
    TopLabelBrier,
    UnderECE,
)
from qcal.plots import reliability_figure, save_figure

# Name to maker, called with the number of classes and of bins.
_METRICS: dict[str, Callable[[int, int], ScoreMetric]] = {
    "accuracy": lambda _classes, _bins: Accuracy(),
    "mean_confidence": lambda _classes, _bins: MeanConfidence(),
    "overconfidence": lambda _classes, _bins: Overconfidence(),
    "overconfidence_on_correct": lambda _classes, _bins: OverconfidenceOnCorrect(),
    "overconfidence_on_wrong": lambda _classes, _bins: OverconfidenceOnWrong(),
    "nll": lambda _classes, _bins: NegativeLogLikelihood(),
    "brier_score": lambda _classes, _bins: BrierScore(),
    "top_label_brier": lambda _classes, _bins: TopLabelBrier(),
    "ece": lambda _classes, bins: ExpectedCalibrationError(num_bins=bins),
    "mce": lambda _classes, bins: MaximumCalibrationError(num_bins=bins),
    "rms_calibration_error": lambda _classes, bins: RMSCalibrationError(num_bins=bins),
    "over_ece": lambda _classes, bins: OverECE(num_bins=bins),
    "under_ece": lambda _classes, bins: UnderECE(num_bins=bins),
    "classwise_ece": lambda classes, bins: ClasswiseECE(num_classes=classes, num_bins=bins),
    "adaptive_ece": lambda _classes, bins: AdaptiveECE(num_bins=bins),
    "smooth_ece": lambda _classes, _bins: SmoothECE(),
    "ks_calibration_error": lambda _classes, _bins: KSCalibrationError(),
    "aurc": lambda _classes, _bins: AURC(),
    "augrc": lambda _classes, _bins: AUGRC(),
}
DEFAULT_METRICS = (
    "ece",
    "overconfidence",
    "overconfidence_on_correct",
    "overconfidence_on_wrong",
    "nll",
    "brier_score",
)


class ConfidenceMonitor(Callback):
    """Score the confidence of val predictions each epoch, and draw a reliability diagram every n epochs.

    Logs `confidence/<name>` through the module, so that every logger, `EarlyStopping` and `ModelCheckpoint` can use
    it. Saves `reliability-epoch-0009.png` and `.svg` (epochs count from 0; of several validations in one epoch the
    last stays) in `<run folder>/confidence`, and sends the picture to Weights & Biases as `confidence/reliability`.

    It reads the logits as validation computes them: there is no second pass, and nothing is kept from one epoch to
    the next. Within an epoch the sums need no memory worth mentioning; `adaptive_ece`, `smooth_ece`,
    `ks_calibration_error`, `aurc` and `augrc` keep 8 bytes a sample. Batches must be `(images, target)`, and the
    validation step must call the network once on each.

    Args:
        metrics: What to log: accuracy, mean_confidence, overconfidence, overconfidence_on_correct,
            overconfidence_on_wrong, nll, brier_score, top_label_brier, ece, mce, rms_calibration_error, over_ece,
            under_ece, classwise_ece, adaptive_ece, smooth_ece, ks_calibration_error, aurc, augrc.
        diagram_every_n_epochs: A picture at the end of every n-th epoch of training; 0 draws none.
        network: Dotted name of the submodule that maps images to logits; the whole module, if its validation step
            calls `self(images)`, when not given.
        num_bins: Bins `(lo, hi]` of the scores that have bins, and of the diagram; 15 as in Guo et al. 2017.

    Raises:
        ValueError: No metric, one that does not exist, a negative number of epochs, or no bins.

    Example:
        ::

            trainer = Trainer(callbacks=[ConfidenceMonitor(["ece", "overconfidence"], network="model")])

    References:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, figure 1 and section 3
        (confidence grows on while the error stands still).
    """

    def __init__(
        self,
        metrics: Sequence[str] = DEFAULT_METRICS,
        diagram_every_n_epochs: int = 10,
        network: str | None = None,
        num_bins: int = 15,
    ) -> None:
        super().__init__()
        self.metrics = _checked_names(metrics)
        if diagram_every_n_epochs < 0:
            raise ValueError(
                f"`diagram_every_n_epochs` must be at least 0, got {diagram_every_n_epochs}. 0 draws no diagram."
            )
        check_binning(num_bins, "qcal")
        self.diagram_every_n_epochs = diagram_every_n_epochs
        self.network = network
        self.num_bins = num_bins
        self._hook: RemovableHandle | None = None
        self._batch_logits: list[Tensor] = []
        self._scores: dict[str, ScoreMetric] = {}
        self._diagram: ExpectedCalibrationError | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a network that is not there, before anything is trained."""
        find_network(pl_module, self.network)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch the network."""
        if trainer.sanity_checking:
            return
        loaders = trainer.val_dataloaders
        if isinstance(loaders, (list, tuple, dict)) and len(loaders) != 1:
            raise MisconfigurationException(
                f"ConfidenceMonitor scores one val loader, got {len(loaders)}. Pass one, or leave the callback out."
            )
        self._let_go()
        self._hook = find_network(pl_module, self.network).register_forward_hook(self._watch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:  # Any: a batch can be anything until it is checked
        """What the network gives from here on is of this batch."""
        self._batch_logits = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # whatever the validation step gives
        batch: Any,  # until it is checked
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the batch to the sums."""
        if self._hook is None:
            return
        ((_, target),) = Pairs([batch], "val")
        logits, target = self._logits_of(len(target), pl_module), target.long()
        if logits.device.type == "mps":  # which has no float64
            logits, target = logits.cpu(), target.cpu()
        if not self._scores:
            self._make_scores(logits, draw=self._draws(trainer))
        for score in self._scores.values():
            score.update(logits, target)
        if self._diagram is not None:
            self._diagram.update(logits, target)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the scores, and draw if it is time."""
        if self._hook is None:
            return
        # Every process has the joined value already; averaging equal ones is what Lightning wants to be told.
        values = {f"confidence/{name}": score.compute() for name, score in self._scores.items()}
        pl_module.log_dict(values, batch_size=1, sync_dist=True)
        if self._diagram is not None:
            with self._diagram.sync_context():
                bins = self._diagram.bins()
            if trainer.is_global_zero:
                figure = reliability_figure({f"epoch {trainer.current_epoch}": bins})
                self._publish(trainer, figure)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the network alone."""
        self._let_go()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the network alone, whatever has happened."""
        self._let_go()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network alone."""
        self._let_go()

    def _watch(self, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:  # Any: the network's own types
        if isinstance(output, Tensor) and output.ndim == 2 and output.is_floating_point():
            self._batch_logits.append(output.detach())

    def _logits_of(self, num_images: int, pl_module: LightningModule) -> Tensor:
        """The logits of the batch that just ended."""
        shapes = [tuple(logits.shape) for logits in self._batch_logits]
        if len(shapes) != 1 or shapes[0][0] != num_images:
            watched = type(pl_module).__name__ if self.network is None else f"{type(pl_module).__name__}.{self.network}"
            raise MisconfigurationException(
                f"ConfidenceMonitor needs one call of `{watched}` in a validation step, with logits ({num_images}, C), "
                f"got the outputs {shapes}. Pass `network=` the submodule that gives the logits."
            )
        return self._batch_logits.pop()

    def _make_scores(self, logits: Tensor, *, draw: bool) -> None:
        classes = logits.shape[1]
        self._scores = {name: _METRICS[name](classes, self.num_bins).to(logits.device) for name in self.metrics}
        if draw:
            self._diagram = ExpectedCalibrationError(num_bins=self.num_bins).to(logits.device)

    def _draws(self, trainer: Trainer) -> bool:
        every = self.diagram_every_n_epochs
        in_fit = trainer.state.fn == "fit" and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector of Lightning
        return in_fit and every > 0 and (trainer.current_epoch + 1) % every == 0

    def _publish(self, trainer: Trainer, figure: Figure) -> None:
        save_figure(figure, run_folder(trainer) / "confidence", f"reliability-epoch-{trainer.current_epoch:04d}")
        for logger in trainer.loggers:
            # By name: Lightning's two packages have a class each, and wandb may not be installed.
            if any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
                import wandb  # here, because only a project that logs to it needs it

                picture = {"confidence/reliability": wandb.Image(figure), "trainer/global_step": trainer.global_step}
                logger.experiment.log(picture)  # type: ignore[attr-defined]  # every concrete logger has it, the base class does not declare it

    def _let_go(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook, self._batch_logits, self._scores, self._diagram = None, [], {}, None


def _checked_names(metrics: Sequence[str]) -> tuple[str, ...]:
    if isinstance(metrics, str) or not metrics:
        raise ValueError(
            f"`metrics` must be a list of one or more names, got {metrics!r}. Pass for example ['ece', "
            "'overconfidence']."
        )
    unknown = [name for name in metrics if name not in _METRICS]
    if unknown:
        raise ValueError(
            f"`metrics` must be among {', '.join(map(repr, _METRICS))}, got {', '.join(map(repr, unknown))}. "
            "Leave out or correct what is not listed."
        )
    return tuple(dict.fromkeys(metrics))
