"""Small Lightning projects in the styles people write, with nothing of qcal in them.

Each function makes a project for one of Lightning's two packages: its module, its loaders, and an evaluation loop of
its own, written as its authors would, that gives accuracy and negative log-likelihood of the val split.
"""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from tests.clients.project import BATCH, NUM_CLASSES, ConvNet, Project, Score, make_loaders, pair, score

Labelled = namedtuple("Labelled", ["picture", "category"])


def plain(pl: ModuleType, *, compiled: bool = False, make_network: Callable[[], nn.Module] = ConvNet) -> Project:
    class LitClassifier(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            network = make_network()
            self.model = torch.compile(network, backend="eager") if compiled else network

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            loss = F.cross_entropy(self(x), y)
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            logits = self(x)
            self.log("val_loss", F.cross_entropy(logits, y), prog_bar=True)
            self.log("val_acc", (logits.argmax(dim=1) == y).float().mean(), prog_bar=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = LitClassifier()
    train, val = make_loaders(pair)
    return Project(module, train, val, lambda: score(module, val, module))


def template(pl: ModuleType) -> Project:
    class LitModule(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self, net: nn.Module, optimizer: Callable[..., torch.optim.Optimizer], scheduler: Any) -> None:
            super().__init__()
            self.save_hyperparameters(logger=False, ignore=["net"])
            self.net = net
            self.criterion = nn.CrossEntropyLoss()
            self.train_acc, self.val_acc = MulticlassAccuracy(NUM_CLASSES), MulticlassAccuracy(NUM_CLASSES)
            self.train_loss, self.val_loss = MeanMetric(), MeanMetric()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.net(x)
            return logits

        def on_train_start(self) -> None:
            self.val_loss.reset()
            self.val_acc.reset()

        def model_step(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
            x, y = batch
            logits = self.forward(x)
            loss = self.criterion(logits, y)
            return loss, torch.argmax(logits, dim=1), y

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss, preds, targets = self.model_step(batch)
            self.train_loss(loss)
            self.train_acc(preds, targets)
            self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss, preds, targets = self.model_step(batch)
            self.val_loss(loss)
            self.val_acc(preds, targets)
            self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
            self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

        def configure_optimizers(self) -> dict[str, Any]:
            optimizer = self.hparams.optimizer(params=self.trainer.model.parameters())
            scheduler = self.hparams.scheduler(optimizer=optimizer)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss"}}

    schedule = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=1)
    module = LitModule(ConvNet(), partial(torch.optim.Adam, lr=1e-2), schedule)
    train, val = make_loaders(pair)
    return Project(module, train, val, lambda: score(module, val, module.net))


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class ForImageClassification(nn.Module):
    """Takes labels too, and computes the loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(6, NUM_CLASSES)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.classifier(self.encoder(pixel_values).flatten(1))
        loss = F.cross_entropy(logits.view(-1, NUM_CLASSES), labels.view(-1)) if labels is not None else None
        return Output(logits, loss)


def dict_batch(pl: ModuleType) -> Project:
    class LitForImages(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            self.model = ForImageClassification()

        def forward(self, **inputs: Tensor) -> Output:
            output: Output = self.model(**inputs)
            return output

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            loss: Tensor = self(**batch).loss
            return loss

        def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
            output = self(**batch)
            self.log("val_loss", output.loss, batch_size=len(batch["labels"]))
            return {"preds": output.logits.argmax(dim=1), "labels": batch["labels"]}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    module = LitForImages()
    train, val = make_loaders(lambda image, label: {"labels": label, "pixel_values": image})
    pairs = [(batch["pixel_values"], batch["labels"]) for batch in val]
    return Project(module, train, val, lambda: score(module, pairs, lambda x: module.model(x).logits))


def features_and_head(pl: ModuleType) -> Project:
    class LitFeatures(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.head = nn.Linear(6, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            features: Tensor = self.backbone(x)
            normalised: Tensor = F.normalize(features.flatten(1), dim=1)
            return normalised * 5

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self(batch.picture)), batch.category)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.head(self(batch.picture)), batch.category), batch_size=BATCH)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module = LitFeatures()
    train, val = make_loaders(Labelled)
    return Project(module, train, val, lambda: score(module, val, lambda x: module.head(module(x))))


def manual_optimization(pl: ModuleType) -> Project:
    class LitManual(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
            self.fc = nn.Linear(6, NUM_CLASSES)
            self.scores: list[Tensor] = []

        def training_step(self, batch: Any, batch_idx: int) -> None:
            (images, _index), target = batch
            loss = F.cross_entropy(self.fc(self.encoder(images).flatten(1)), target)
            optimizers = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            (images, _index), target = batch
            logits = self.fc(self.encoder(images).flatten(1))
            self.scores.append(F.nll_loss(F.log_softmax(logits, dim=1), target))

        def on_validation_epoch_end(self) -> None:
            self.log("val_nll", torch.stack(self.scores).mean())
            self.scores.clear()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.encoder, self.fc)]

    module = LitManual()
    train, val = make_loaders(lambda image, label: ((image, label + 10), label))
    pairs = [(images, target) for (images, _index), target in val]
    return Project(module, train, val, lambda: score(module, pairs, lambda x: module.fc(module.encoder(x)[:, :, 0, 0])))


def binary(pl: ModuleType) -> Project:
    class LitBinary(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            self.model = ConvNet(1)
            self.loss = nn.BCEWithLogitsLoss()

        def forward(self, x: Tensor) -> Tensor:
            logit: Tensor = self.model(x)
            return logit.squeeze(-1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss: Tensor = self.loss(self(batch[0]), batch[1].float())
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            logit = self(batch[0])
            self.log("val_loss", self.loss(logit, batch[1].float()))
            self.log("val_acc", ((logit > 0) == batch[1]).float().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = LitBinary()
    train, val = make_loaders(pair, num_classes=2)

    def evaluate() -> Score:
        module.eval()
        images, labels = (torch.cat(parts) for parts in zip(*val, strict=True))
        with torch.no_grad():
            p = torch.sigmoid(module(images).double())
        return float(((p > 0.5) == labels).double().mean()), float(F.binary_cross_entropy(p, labels.double()))

    return Project(module, train, val, evaluate)
