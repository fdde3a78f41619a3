"""The callback that fits a temperature on held-out images when training has ended, and keeps it in checkpoints.

When to fit. ModelCheckpoint writes its files, `last.ckpt` too, while training goes on: what is known only after
training cannot be in them. Every checkpoint therefore gets a temperature of its own, fitted on the very weights that
the file holds, at the moment it is written; and the network that training leaves behind gets the last one. The hash of
the weights tells which temperature belongs to which weights, so that no file carries that of others, and weights that
were fitted once are not fitted again.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from qcal.callbacks.loaders import OrderedBatches
from qcal.callbacks.network import evaluating, evaluation_copy, find_network
from qcal.callbacks.pairs import Pairs
from qcal.callbacks.processes import processes_of
from qcal.callbacks.study_context import weights_hash
from qcal.functional.calibration import ece
from qcal.functional.score_inputs import check_rows, lift_half
from qcal.functional.temperature import TemperatureFit, fit_temperature, scale_logits
from qcal.functional.top_label import confidence_and_correct

log = logging.getLogger(__name__)

RECALIBRATION = "recalibration"
VAL = "val, as fit used it"


@dataclass(frozen=True)
class Recalibration:
    """A temperature, and what it is the temperature of.

    Attributes:
        fit: What was found; see `qcal.functional.temperature`.
        ece_before: ECE (15 bins) at T = 1 on the images the fit has seen.
        ece_after: The same at `temperature`.
        split: Which images these were.
        num_images: Their number.
        weights_sha256: Of the network, as `qcal.callbacks.study_context.weights_hash` (in float32).
    """

    fit: TemperatureFit
    ece_before: float
    ece_after: float
    split: str
    num_images: int
    weights_sha256: str

    @property
    def temperature(self) -> float:
        """The T to use: the optimum, or 1 where there is none (the search ran to a bound)."""
        return self.fit.temperature if self.fit.at_bound is None else 1.0

    def figures(self) -> dict[str, float]:
        """What is logged; at a bound nothing is scaled, and `after` equals `before`."""
        used = self.fit.at_bound is None
        return {
            "temperature/value": self.temperature,
            "temperature/at_bound": float(not used),
            "temperature/nll_before": self.fit.nll_before,
            "temperature/nll_after": self.fit.nll_after if used else self.fit.nll_before,
            "temperature/ece_before": self.ece_before,
            "temperature/ece_after": self.ece_after,
        }

    def to_state(self) -> dict[str, Any]:  # Any: numbers, text and one level of nesting, for a checkpoint
        """Plain values, which a checkpoint can be loaded with under `weights_only=True`."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Recalibration":  # Any: as `to_state`
        """The inverse of `to_state`."""
        return cls(**{**state, "fit": TemperatureFit(**state["fit"])})


class TemperatureScaling(Callback):
    """Fit the temperature T that makes `softmax(logits / T)` most likely on images held out from training.

    Reads the data module's `recalibration_dataloader`; without one the val loader that fit used, and says so. Never
    the test split. Logs `temperature/value`, `temperature/at_bound` (1 if there is no optimum: T is then 1) and
    `temperature/nll_before`, `nll_after`, `ece_before`, `ece_after` on these images, once, for the network that
    training leaves behind. They are scores on the images of the fit: judge the result on others.

    Each full checkpoint written during training (not `save_weights_only`) costs one pass over the split, and carries
    the T of the weights in it; `Trainer.test(..., ckpt_path=...)` with this callback restores it. Nothing is fitted
    after an exception, in a sanity check, under `fast_dev_run` or when nothing was trained. The module, its mode and
    the random state stay as they are.

    Args:
        network: Dotted name of the submodule that maps images to logits; the whole module, called as `module(images)`,
            when not given.
        on_error: Whether a failure of the fit is logged and training counts (`warn`), or is raised.

    Attributes:
        result: The `Recalibration` of the network that training left, or of the checkpoint that was loaded; else None.

    Raises:
        ValueError: An unknown `on_error`.

    Example:
        ::

            scaling = TemperatureScaling(network="model")
            Trainer(callbacks=[scaling]).fit(classifier, datamodule=data)
            probs = scaling.predict(logits)

    References:
        Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """

    def __init__(self, network: str | None = None, on_error: Literal["warn", "raise"] = "warn") -> None:
        super().__init__()
        if on_error not in ("warn", "raise"):
            raise ValueError(
                f"`on_error` must be one of 'warn', 'raise', got {on_error!r}. 'warn' lets a long training count."
            )
        self.network = network
        self.on_error = on_error
        self.result: Recalibration | None = None
        self._known: Recalibration | None = None
        self._armed = False
        self._first_step = 0

    @property
    def temperature(self) -> float:
        """T of `result`.

        Raises:
            RuntimeError: Nothing was fitted or loaded.
        """
        if self.result is None:
            raise RuntimeError(
                "TemperatureScaling has no temperature yet, got None. Run `Trainer.fit` with it, or "
                "`Trainer.test(..., ckpt_path=...)` on a checkpoint of such a run."
            )
        return self.result.temperature

    def predict(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities `softmax(logits / T)`, `(N, C)`; half types are computed in float32.

        Raises:
            RuntimeError: Nothing was fitted or loaded.
            TypeError: `logits` is not floating.
            ValueError: `logits` is not `(N, C)`.
        """
        temperature = self.temperature
        check_rows(logits, "logits")
        return torch.softmax(scale_logits(lift_half(logits), temperature), dim=1)

    def predict_probs(self, pl_module: nn.Module, images: Tensor) -> Tensor:
        """Calibrated probabilities `(N, C)` of `images`, which are where `pl_module` is; its mode is put back after."""
        network = find_network(pl_module, self.network)
        with evaluating(network), torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            return self.predict(network(images))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be fitted, before anything is trained."""
        find_network(pl_module, self.network)
        if stage != "fit":
            return
        processes_of(trainer, "TemperatureScaling")
        own_place = trainer.callbacks.index(self)  # type: ignore[attr-defined]  # set by a connector of Lightning
        for later in trainer.callbacks[own_place + 1 :]:  # type: ignore[attr-defined]  # as above
            # By name: Lightning's two packages have a class each. It puts the averaged weights into a checkpoint when
            # its turn comes; before that the file would get the temperature of others.
            if any(kind.__name__ == "WeightAveraging" for kind in type(later).__mro__):
                raise MisconfigurationException(
                    f"TemperatureScaling must come after {type(later).__name__} in the trainer's callbacks, got it "
                    "before. Move it behind."
                )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training moves the weights: what was fitted on earlier ones no longer speaks for them."""
        self.result = self._known = None
        self._armed, self._first_step = True, trainer.global_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """A run that broke has nothing to fit."""
        self._armed = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Give the file the temperature of the weights in it, or none."""
        checkpoint["callbacks"].pop(self.state_key, None)
        trained = self._trained(trainer)
        if trained or self._known is not None:
            found = self._guarded_fit(trainer, pl_module, checkpoint["state_dict"], only_known=not trained)
            if found is not None:
                checkpoint["callbacks"][self.state_key] = found.to_state()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training ended and weights are averaged: fit what is left, and log it."""
        trained, self._armed = self._trained(trainer), False
        if not trained or trainer.interrupted:
            return
        self.result = self._guarded_fit(trainer, pl_module, None)
        if self.result is None or trainer.global_rank > 0:
            return
        if self.result.split == VAL:
            log.warning(
                "There is no recalibration split (`recalibration_dataloader` of the data module): the temperature was "
                "fitted on the val loader, so scores of calibrated predictions on val are too good."
            )
        log.log(logging.INFO if self.result.fit.at_bound is None else logging.WARNING, self._sentence(self.result))
        for logger in trainer.loggers:
            logger.log_metrics(self.result.figures(), step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:  # Any: see `Recalibration.to_state`
        """The result as plain values; empty without one. A checkpoint gets that of its own weights instead."""
        return {} if self.result is None else self.result.to_state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # Any: as `state_dict`
        """The result of the run that wrote the checkpoint."""
        self.result = self._known = Recalibration.from_state(state_dict)

    def _trained(self, trainer: Trainer) -> bool:
        """Whether a training is under way that has moved the weights."""
        return self._armed and trainer.global_step > self._first_step and not trainer.fast_dev_run  # type: ignore[attr-defined]  # set by a connector of Lightning

    def _guarded_fit(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        state_dict: Mapping[str, Tensor] | None,
        *,
        only_known: bool = False,
    ) -> Recalibration | None:
        processes = processes_of(trainer, "TemperatureScaling")

        def fit() -> Recalibration | None:
            """In the first process, whose weights a checkpoint holds; the others wait for what it finds."""
            if processes.rank > 0:
                return None
            return self._fit(trainer, pl_module, state_dict, only_known=only_known)

        with isolate_rng():
            # The error is caught inside: `isolate_rng` restores nothing when one passes through, and training goes on.
            try:
                found = processes.from_first(processes.together(fit))
                self._known = found or self._known
                return found
            except Exception as error:
                if self.on_error == "raise":
                    raise
                log.exception("No temperature could be fitted: %s", error)
                return None

    def _fit(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        state_dict: Mapping[str, Tensor] | None,
        *,
        only_known: bool,
    ) -> Recalibration | None:
        device = trainer.strategy.root_device
        # inference_mode(False): validation, after which checkpoints are written, runs inside inference mode.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
            network = evaluation_copy(pl_module, self.network, device=device, state_dict=state_dict)
            digest = weights_hash(network)
            if self._known is not None and self._known.weights_sha256 == digest:
                return self._known
            if only_known:
                return None
            batches, split = _held_out(trainer)
            logits, target = _predict(network, batches, device)
        self._known = _recalibrate(logits, target, split=split, weights_sha256=digest)
        return self._known

    @staticmethod
    def _sentence(result: Recalibration) -> str:
        unused = "" if result.fit.at_bound is None else " Predictions stay unscaled (T = 1)."
        return f"On {result.num_images} images of the {result.split} split: {result.fit.message}{unused}"


def _predict(network: nn.Module, batches: Pairs, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits `(N, C)` float32 and target `(N,)` int64 of all batches, on the CPU."""
    pairs = [(network(images.to(device)).float().cpu(), target.long().cpu()) for images, target in batches]
    if not pairs:
        raise ValueError(f"The {batches.name} loader gave no batch. Pass a data module whose split has images.")
    logits, target = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return logits, target


def _recalibrate(logits: Tensor, target: Tensor, *, split: str, weights_sha256: str) -> Recalibration:
    fit = fit_temperature(logits, target)
    before = ece(*confidence_and_correct(logits, target)).item()
    scaled = scale_logits(logits, fit.temperature)
    after = before if fit.at_bound is not None else ece(*confidence_and_correct(scaled, target)).item()
    return Recalibration(fit, before, after, split, len(target), weights_sha256)


def _held_out(trainer: Trainer) -> tuple[Pairs, str]:
    """Batches to fit on, and what they are."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning when a data module is attached
    if hasattr(datamodule, "recalibration_dataloader"):
        return Pairs(datamodule.recalibration_dataloader(), RECALIBRATION), RECALIBRATION
    used = trainer.val_dataloaders
    several = list(used.values()) if isinstance(used, dict) else used
    loaders = several if isinstance(several, (list, tuple)) else [several]
    if len(loaders) != 1 or loaders[0] is None:
        raise ValueError(
            f"A temperature is fitted on one loader of held-out images, got {0 if used is None else len(loaders)} val "
            "loaders and no data module with `recalibration_dataloader`. Pass one of them."
        )
    return Pairs(OrderedBatches(loaders[0]), VAL), VAL
