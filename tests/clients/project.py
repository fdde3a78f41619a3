"""What small projects share: random images whose label shows in them, loaders, an evaluation by hand."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

NUM_CLASSES = 4
TRAIN, VAL, BATCH = 24, 21, 8

Score = tuple[float, float]


@dataclass
class Project:
    """A module (Any: of either package), its loaders, and its own evaluation of the val split."""

    module: Any
    train: Iterable[Any]
    val: Iterable[Any]
    evaluate: Callable[[], Score]


class Samples(Dataset[Any]):
    """Random images with a label that shows in them, put together by `collate`."""

    def __init__(self, size: int, seed: int, make: Callable[[Tensor, Tensor], Any], num_classes: int = NUM_CLASSES):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, num_classes, (size,), generator=generator)
        self.images = torch.randn(size, 3, 8, 8, generator=generator) + self.labels[:, None, None, None] / 2
        self.make = make

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.make(self.images[index], self.labels[index])


def make_loaders(make: Callable[[Tensor, Tensor], Any], num_classes: int = NUM_CLASSES) -> tuple[DataLoader[Any], ...]:
    train, val = Samples(TRAIN, 0, make, num_classes), Samples(VAL, 1, make, num_classes)
    return DataLoader(train, BATCH, shuffle=True), DataLoader(val, BATCH)


def pair(image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    return image, label


def score(module: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]], classify: Callable[[Tensor], Tensor]) -> Score:
    """Mean over images of right answers and of the negative logarithm of the right answer's probability."""
    module.eval()
    right, surprise, count = 0, 0.0, 0
    with torch.no_grad():
        for images, labels in pairs:
            probabilities = classify(images).double().softmax(dim=1)
            right += int((probabilities.argmax(dim=1) == labels).sum())
            surprise -= float(probabilities[torch.arange(len(labels)), labels].log().sum())
            count += len(labels)
    return right / count, surprise / count


class ConvNet(nn.Sequential):
    """What a project calls its model."""

    def __init__(self, num_outputs: int = NUM_CLASSES) -> None:
        body = [nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
        super().__init__(*body, nn.Flatten(), nn.Dropout(0.1), nn.Linear(24, num_outputs))
