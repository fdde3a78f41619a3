"""Small Lightning projects in further styles; see `projects`. Each logs its own accuracy as `val_acc`."""

import copy
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate
from torchmetrics.classification import MulticlassAccuracy
from torchvision.transforms import v2

from tests.clients.project import BATCH, NUM_CLASSES, TRAIN, ConvNet, Samples, make_loaders, pair

Step = Callable[[Any, Any], tuple[Tensor, Tensor, Tensor]]
"""From a module and a batch to loss, logits and labels."""


class Shared(NamedTuple):
    """A module (Any: of either package) and its loaders."""

    module: Any
    train: DataLoader[Any]
    val: DataLoader[Any]


def project(
    pl: ModuleType,
    parts: dict[str, nn.Module],
    step: Step,
    loaders: tuple[DataLoader[Any], ...],
    val_step: Step | None = None,
    after: Callable[[Any], None] = lambda module: None,
) -> Shared:
    """A module with the given parts whose step is used for training and validation, as `shared_step` is."""

    class LitShared(pl.LightningModule):  # type: ignore[name-defined,misc]  # of the package that is given
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                self.add_module(name, part)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return step(self, batch)[0]

        def on_train_batch_end(self, *_args: Any) -> None:
            after(self)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            loss, logits, labels = (val_step or step)(self, batch)
            self.log("val_loss", loss, batch_size=len(labels))
            self.log("val_acc", (logits.argmax(dim=1) == labels).float().mean(), batch_size=len(labels))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([weight for weight in self.parameters() if weight.requires_grad], lr=0.05)

    train, val = loaders
    return Shared(LitShared(), train, val)


def cross_entropy(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    images, labels = batch
    logits = module.net(images)
    return F.cross_entropy(logits, labels), logits, labels


def mixed_batches(pl: ModuleType) -> Shared:
    """MixUp or CutMix as the training loader's collation, as torchvision's documentation has it."""
    mix = v2.RandomChoice([v2.MixUp(num_classes=NUM_CLASSES), v2.CutMix(num_classes=NUM_CLASSES)])
    train = DataLoader(
        Samples(TRAIN, 0, pair), BATCH, shuffle=True, collate_fn=lambda items: mix(*default_collate(items))
    )
    return project(pl, {"net": ConvNet()}, cross_entropy, (train, make_loaders(pair)[1]))


def bytes_divided_in_the_step(pl: ModuleType) -> Shared:
    """Images `(H, W, C)` of whole numbers, made what the network reads in the step."""

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch["image"].permute(0, 3, 1, 2).float() / 255, batch["label"]
        return cross_entropy(module, (images, labels))

    make = lambda image, label: {"image": (image * 40 + 99).clamp(0, 255).byte().permute(1, 2, 0), "label": label}  # noqa: E731  # as short as it is
    return project(pl, {"net": ConvNet()}, step, make_loaders(make))


class WaveNet(nn.Module):
    """A one-dimensional network for sounds that keeps an axis of length one, as M5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv1d(1, 8, 9, stride=4), nn.BatchNorm1d(8), nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.norm(self.conv(x))).mean(dim=2, keepdim=True)
        return F.log_softmax(self.fc(features.permute(0, 2, 1)), dim=2)


def sounds(pl: ModuleType) -> Shared:
    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        waves, labels = batch
        log_probs = module.net(waves).squeeze(1)
        return F.nll_loss(log_probs, labels), log_probs, labels

    loaders = make_loaders(lambda image, label: (image.reshape(1, -1), label))
    return project(pl, {"net": WaveNet()}, step, loaders)


class Student(nn.Sequential):
    def __init__(self) -> None:
        body = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*body, nn.Linear(6, NUM_CLASSES))


def distillation(pl: ModuleType) -> Shared:
    """A frozen teacher whose accuracy is followed beside the student's."""

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        with torch.no_grad():
            wanted = module.teacher(images)
        logits = module.student(images)
        likeness = F.kl_div(F.log_softmax(logits / 2, dim=1), F.softmax(wanted / 2, dim=1), reduction="batchmean")
        return likeness * 4 + F.cross_entropy(logits, labels), logits, labels

    def val_step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        module.log("teacher_loss", F.cross_entropy(module.teacher(batch[0]), batch[1]))
        module.teacher_accuracy(module.teacher(batch[0]), batch[1])
        return step(module, batch)

    parts: dict[str, nn.Module] = {"teacher": ConvNet().requires_grad_(False), "student": Student()}
    parts["teacher_accuracy"] = MulticlassAccuracy(NUM_CLASSES)
    return project(pl, parts, step, make_loaders(pair), val_step)


def moving_average(pl: ModuleType) -> Shared:
    """Validates the network and its moving average; the predictions are the average's."""

    def update(module: Any) -> None:
        for averaged, weight in zip(module.average.parameters(), module.net.parameters(), strict=True):
            averaged.data.lerp_(weight.data, 0.2)

    def val_step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        module.log("val_loss_online", F.cross_entropy(module.net(images), labels))
        logits = module.average(images)
        return F.cross_entropy(logits, labels), logits, labels

    net = Student()
    parts: dict[str, nn.Module] = {"net": net, "average": copy.deepcopy(net).requires_grad_(False)}
    return project(pl, parts, cross_entropy, make_loaders(pair), val_step, update)


class Exits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3)
        self.heads = nn.ModuleList([nn.Linear(6, NUM_CLASSES), nn.Linear(6, NUM_CLASSES)])

    def forward(self, x: Tensor) -> list[Tensor]:
        early = F.relu(self.first(x))
        late = F.relu(self.second(early))
        return [head(maps.mean((2, 3))) for head, maps in zip(self.heads, (early, late), strict=True)]


def early_exits(pl: ModuleType) -> Shared:
    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        exits = module.net(images)
        return torch.stack([F.cross_entropy(logits, labels) for logits in exits]).sum(), exits[-1], labels

    return project(pl, {"net": Exits()}, step, make_loaders(pair))


class LockedNet(ConvNet):
    """Counts its calls under a lock and tells a hook of the project what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.seen = threading.Lock(), list[float]()
        self[0].register_forward_hook(lambda _module, _inputs, output: self.seen.append(float(output.detach().mean())))

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            logits: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch has no types for it
        return logits


def locks_and_hooks(pl: ModuleType) -> Shared:
    return project(pl, {"net": LockedNet()}, cross_entropy, make_loaders(pair))


class AngularMargin(nn.Module):
    """Cosines to a vector a class; that to the right class is made smaller where labels are given."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(NUM_CLASSES, features))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        cosine = F.linear(F.normalize(features), F.normalize(self.weight))
        if labels is not None:
            cosine = cosine - 0.3 * F.one_hot(labels, NUM_CLASSES)
        return cosine * 8


def margin(pl: ModuleType, *, everywhere: bool = False) -> Shared:
    """A margin in the loss; the metric sees scores without it, or (`everywhere`) with it too."""

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        features = module.backbone(images)
        logits = module.margin(features, labels)
        return F.cross_entropy(logits, labels), logits if everywhere else module.margin(features), labels

    backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return project(pl, {"backbone": backbone, "margin": AngularMargin(6)}, step, make_loaders(pair))


def with_numbers(pl: ModuleType) -> Shared:
    """A network of an image and a row of numbers."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.fc = Student(), nn.Linear(NUM_CLASSES + 3, NUM_CLASSES)

        def forward(self, image: Tensor, numbers: Tensor) -> Tensor:
            logits: Tensor = self.fc(torch.cat([self.image(image), numbers], dim=1))
            return logits

    def step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        image, numbers, labels = batch
        logits = module.net(image, numbers)
        return F.cross_entropy(logits, labels), logits, labels

    return project(pl, {"net": Both()}, step, make_loaders(lambda image, label: (image, image.mean((1, 2)), label)))


def always_drops(pl: ModuleType) -> Shared:
    """`F.dropout` without `training=self.training` drops in evaluation too."""

    class Dropping(Student):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = super().forward(F.dropout(x, 0.3))  # type: ignore[no-untyped-call]  # as above
            return logits

    return project(pl, {"net": Dropping()}, cross_entropy, make_loaders(pair))


def flips_in_validation(pl: ModuleType) -> Shared:
    """Test-time augmentation in the step."""

    def val_step(module: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = batch
        logits = (module.net(images) + module.net(images.flip(-1))) / 2
        return F.cross_entropy(logits, labels), logits, labels

    return project(pl, {"net": Student()}, cross_entropy, make_loaders(pair), val_step)
