"""The parts that steps of projects use: networks of many kinds, and a module that holds them."""

import copy
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from qcal.losses import LogitNormLoss

NUM_CLASSES = 5


class Net(nn.Module):
    def __init__(self, num_outputs: int = NUM_CLASSES) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, num_outputs)

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x))
        return logits


class Dictionary(Net):
    def forward(self, pixels: Tensor, labels: Tensor | None = None) -> Any:
        logits = super().forward(pixels)
        loss = F.cross_entropy(logits.view(-1, NUM_CLASSES), labels) if labels is not None else None
        return {"loss": loss, "features": pixels.mean((2, 3)), "logits": logits}


class WholeBatch(Net):
    """Takes the batch, scales its images and has an option."""

    def forward(self, batch: Any, *, sign: int = 1) -> Tensor:
        images = batch["x"] if isinstance(batch, dict) else batch[0]
        return super().forward(images / 2) * sign


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, training=True)


class Exits(Net):
    """An auxiliary output first, as networks with early exits have it."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]  # a network of another kind
        features = self.features(x)
        return [self.early(features), self.fc(features)]


class Margin(nn.Module):
    """Scores of features; lower for the right class where it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, NUM_CLASSES)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        scores: Tensor = self.fc(features)
        return scores if labels is None else scores - F.one_hot(labels, NUM_CLASSES)


class TwoInputs(Net):
    def forward(self, x: Tensor, more: Tensor) -> Tensor:  # type: ignore[override]  # as above
        return super().forward(x) + more.mean((1, 2))[:, None]


class Module(LightningModule):
    """The parts that the steps under test use in different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.dictionary = Dictionary()
        self.whole = WholeBatch()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 8), nn.ReLU())
        self.head = nn.Linear(4, NUM_CLASSES)
        self.flat = nn.Linear(192, NUM_CLASSES)
        self.binary = Net(1)
        self.colours = Net(2)
        self.two = nn.ModuleList([Net(), Net()])
        self.normalise = nn.BatchNorm2d(3)
        self.convolutional = nn.Conv2d(3, NUM_CLASSES, 8)
        self.exits, self.margin, self.two_inputs = Exits(), Margin(), TwoInputs()
        self.teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, NUM_CLASSES)).requires_grad_(False)
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.noisy = nn.Sequential(nn.Flatten(), Noise(), nn.Linear(192, NUM_CLASSES))
        self.dropout = nn.Dropout()
        self.criterion = nn.CrossEntropyLoss()
        self.logit_norm = LogitNormLoss()
        self.accuracy = MulticlassAccuracy(NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net((x - 0.5) / 0.3)
        return logits


class Probabilities(Module):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=1)


class InPlace(Module):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.sub_(0.5).div_(0.3))
        return logits


class LogProbabilities(Module):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(dim=1)
