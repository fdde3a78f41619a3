"""Small Lightning projects that do something to images or outputs on the way; see `projects`."""

from types import ModuleType
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from tests.clients.project import BATCH, NUM_CLASSES, ConvNet, Project, make_loaders, pair, score
from tests.clients.projects import plain

SCALE = torch.tensor(3.0)  # a tensor, which no path to the images can name


def transfer_learning(pl: ModuleType) -> Project:
    class LitTransferLearning(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            backbone = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
            self.feature_extractor = nn.Sequential(*list(backbone.children())[:-1])
            self.classifier = nn.Linear(backbone.fc.in_features, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            self.feature_extractor.eval()
            with torch.no_grad():
                representations = self.feature_extractor(x).flatten(1)
            logits: Tensor = self.classifier(representations)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.classifier.parameters(), lr=1e-2)

    module = LitTransferLearning()
    train, val = make_loaders(pair)
    evaluate = lambda x: module.classifier(module.feature_extractor(x)[..., 0, 0])  # noqa: E731  # as short as it is
    return Project(module, train, val, lambda: score(module, val, evaluate))


def normalises_in_forward(pl: ModuleType) -> Project:
    class LitNormalised(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            self.net = ConvNet()
            self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
            self.std = 0.25

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                x = x.flip(-1)
            logits: Tensor = self.net((x - self.mean.to(self.device)) / self.std)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = LitNormalised()
    train, val = make_loaders(pair)
    pairs = [((images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.25, labels) for images, labels in val]
    return Project(module, train, val, lambda: score(module, pairs, module.net))


def transfer_hooks(pl: ModuleType) -> Project:
    class LitTransfer(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            self.net, self.accuracy = ConvNet(), MulticlassAccuracy(NUM_CLASSES)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            images, labels = batch
            if self.trainer.training:
                images = images * 0  # an augmentation that nothing survives
            return images / 2, labels

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.accuracy.update(self.net(batch[0]), batch[1])
            self.log("val_acc", self.accuracy)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    module = LitTransfer()
    train, val = make_loaders(pair)
    return Project(module, train, val, lambda: score(module, val, lambda x: module.net(x / 2)))


def probabilities(pl: ModuleType) -> Project:
    project = plain(pl)
    kind = type(project.module)

    class LitProbabilities(kind):  # type: ignore[misc,valid-type]  # the class of the other project
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = super().forward(x)
            return logits.softmax(dim=1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.nll_loss(torch.log(self(batch[0]) + 1e-8), batch[1])

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.nll_loss(torch.log(self(batch[0]) + 1e-8), batch[1]))

    module = LitProbabilities()
    return Project(module, project.train, project.val, lambda: score(module, project.val, module.model))


def scales_in_the_step(pl: ModuleType) -> Project:
    project = plain(pl)
    kind = type(project.module)

    class LitScales(kind):  # type: ignore[misc,valid-type]  # the class of the other project
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            image, label = batch["sample"]
            self.log("val_loss", F.cross_entropy(self(image / SCALE), label), batch_size=BATCH)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            image, label = batch["sample"]
            return F.cross_entropy(self(image / SCALE), label)

    module = LitScales()
    train, val = make_loaders(lambda image, label: {"sample": (image, label)})
    pairs = [batch["sample"] for batch in val]
    return Project(module, train, val, lambda: score(module, pairs, lambda x: module.model(x / 3)))


def inputs_of_scaled(batch: Any) -> tuple[Tensor, Tensor]:
    """The `batch_to_inputs` of `scales_in_the_step`."""
    image, label = batch["sample"]
    return image / 3, label
