"""The LightningModule that trains and scores an image classifier under a regime."""

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MetricCollection

from qcal.metrics import Accuracy, ExpectedCalibrationError, NegativeLogLikelihood, Overconfidence
from qcal.models import load_weights

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Train an image classifier; the loss is the regime that moves its confidence.

    Logs `train/loss`, and for val and test: `loss` (the regime's), `nll`, `accuracy`, `ece` and `overconfidence`, as
    fractions, of the raw logits. No hyperparameters are saved in checkpoints: the run's `config.yaml` holds them, and
    checkpoints load with `weights_only=True`.

    Args:
        model: The network: images `(N, channels, height, width)` to logits `(N, num_classes)`.
        loss: Called as `loss(logits, target)`; cross-entropy when not given.
        optimizer: Called with the parameters; when not given SGD with learning rate 0.1, Nesterov momentum 0.9, weight
            decay 5e-4 (the usual recipe for CIFAR ResNets).
        scheduler: Called with the optimizer and stepped once an epoch; when not given the learning rate falls to 0
            along a cosine, step by step.
        weights: A file with a plain state dict (also under `state_dict`, or with a `module.` or `model.` prefix) to
            start from.
        batch_transform: Called as `batch_transform(images, target)` on training batches, target one-hot `(N,
            num_classes)` float32, for example mixup; gives images and soft targets. The data module must have
            `num_classes`.

    Raises:
        FileNotFoundError: `weights` is not there.
        ValueError: `weights` does not fit the model.

    References:
        He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2016, section 4.2 (optimizer defaults).
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        weights: str | None = None,
        batch_transform: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.batch_transform = batch_transform
        if weights is not None:
            load_weights(self.model, weights)
        scores = MetricCollection(
            {
                "accuracy": Accuracy(),
                "nll": NegativeLogLikelihood(),
                "ece": ExpectedCalibrationError(),
                "overconfidence": Overconfidence(),
            },
            # Each keeps its own sums: sharing them would tie their states together by guessing.
            compute_groups=False,
        )
        self.val_scores = scores.clone(prefix="val/")
        self.test_scores = scores.clone(prefix="test/")

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)` of images `(N, channels, height, width)`."""
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The regime's loss on one batch."""
        images, target = batch
        if self.batch_transform is not None:
            images, target = self.batch_transform(images, self._one_hot(target))
        loss: Tensor = self.loss(self(images), target)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=len(images), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the val split."""
        self._score(batch, self.val_scores, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one batch of the test split."""
        self._score(batch, self.test_scores, "test")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Logits `(N, num_classes)` of one batch, with or without labels."""
        logits: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return logits

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer and schedule that were given, or the defaults."""
        if self.make_optimizer is None:
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
        else:
            optimizer = self.make_optimizer(self.parameters())
        if self.make_scheduler is not None:
            return [optimizer], [self.make_scheduler(optimizer)]
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            return optimizer  # no end to fall towards
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Refuse a batch transform that cannot know the number of classes."""
        if self.batch_transform is not None and not hasattr(self.trainer.datamodule, "num_classes"):  # type: ignore[attr-defined]  # set by Lightning
            raise MisconfigurationException(
                f"{type(self.batch_transform).__name__} needs the number of classes, but the trainer was given no "
                "data module that has `num_classes`. "
                "Pass one of `qcal.data`, or set that attribute."
            )

    def _one_hot(self, target: Tensor) -> Tensor:
        num_classes: int = self.trainer.datamodule.num_classes  # type: ignore[attr-defined]  # set by Lightning
        return nn.functional.one_hot(target, num_classes).float()

    def _score(self, batch: Batch, scores: MetricCollection, split: str) -> None:
        images, target = batch
        logits = self(images)
        self.log(f"{split}/loss", self.loss(logits, target), batch_size=len(images), sync_dist=True)
        scores.update(logits, target)
        for name, metric in scores.items():
            self.log(name, metric, prog_bar=name == "val/accuracy", batch_size=len(images))
