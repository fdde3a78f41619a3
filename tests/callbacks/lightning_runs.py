"""A small module, its loaders and a trainer, for tests of what the callbacks do around a fit."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

NUM_CLASSES = 4


def images_and_labels(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random images in which the label shows."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, NUM_CLASSES, (size,), generator=generator)
    return torch.randn(size, 3, 8, 8, generator=generator) + labels[:, None, None, None] / 2, labels


def loader(size: int, *, seed: int, shuffle: bool = False, batch_size: int = 8) -> Any:
    return DataLoader(TensorDataset(*images_and_labels(size, seed)), batch_size, shuffle=shuffle)


class Lit(LightningModule):
    """A classifier as people write it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
        self.model = nn.Sequential(*body, nn.Flatten(), nn.Linear(24, NUM_CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        logits = self.model(images)
        self.log("val_loss", F.cross_entropy(logits, labels), sync_dist=True, add_dataloader_idx=True)
        self.log("val_acc", (logits.argmax(dim=1) == labels).float().mean(), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        self.log("test_loss", F.cross_entropy(self.model(images), labels), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class StillLit(Lit):
    """Counts steps and learns nothing: what is measured must not depend on how training was shared out."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]  # manual optimization returns nothing
        self.optimizers().step()  # type: ignore[union-attr]  # there is one


def make_trainer(folder: Path, *callbacks: Callback, csv: bool = False, **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": CSVLogger(folder, name="", version="") if csv else False,
        "default_root_dir": folder,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "callbacks": list(callbacks),
    }
    return Trainer(**(defaults | kwargs))


def fit(trainer: Trainer, module: LightningModule | None = None) -> LightningModule:
    """Train a module (or a new one) on 24 images, with 21 for validation; returns it."""
    module = module or Lit()
    trainer.fit(module, loader(24, seed=0, shuffle=True), loader(21, seed=1))
    return module
