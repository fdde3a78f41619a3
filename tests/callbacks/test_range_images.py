"""Training images for the activation ranges: which ones, through which transforms, and what is said of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

from qcal.callbacks.range_images import training_batches

AS_TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
AUGMENTED = v2.Compose([v2.ToImage(), v2.RandomErasing(p=1.0, value=0), v2.ToDtype(torch.float32, scale=True)])


class _Images(Dataset[Any]):
    def __init__(self, size: int, transform: Callable[[Any], Any] | None) -> None:
        self.size, self.transform = size, transform

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image: Any = torch.full((3, 8, 8), 1.0 + index)
        return (image if self.transform is None else self.transform(image)), index


def _read(loader: Any, size: int = 1024, val: Any = None) -> tuple[Tensor, str]:
    batches, how = training_batches(loader, val, size)
    return torch.cat([images for images, _ in batches]), how


def test_a_fixed_selection_of_the_training_images_is_read_once_each() -> None:
    loader = DataLoader(_Images(50, None), batch_size=8, shuffle=True)
    first, how = _read(loader, 20)
    again, _ = _read(loader, 20)
    assert torch.equal(first, again)
    assert len(set(first[:, 0, 0, 0].tolist())) == 20
    assert first[:, 0, 0, 0].max() > 30  # not the first twenty
    assert how == "20 of 50 training images, with the transforms of training, as they are"


def test_augmentation_is_left_out_where_the_val_set_is_of_the_same_kind() -> None:
    train, val = _Images(30, AUGMENTED), _Images(9, AS_TENSOR)
    images, how = _read(DataLoader(train, 8, shuffle=True), 1024, DataLoader(val, 8))
    assert how == "30 of 30 training images, with the transforms of the val split"
    assert bool((images == images[:, :1, :1, :1]).all())
    assert train.transform is AUGMENTED


def test_wrappers_are_looked_through() -> None:
    base, plain = _Images(30, AUGMENTED), _Images(30, AS_TENSOR)
    train, val = Subset(base, [3, 7, 20]), Subset(plain, [1, 2])
    images, how = _read(DataLoader(train, 2), 1024, DataLoader(val, 2))
    assert images[:, 0, 0, 0].tolist() == [4.0, 8.0, 21.0]
    assert "transforms of the val split" in how
    assert train.dataset is base
    assert _read(DataLoader(train, 2), 9, DataLoader(plain, 2))[1].endswith("of the val split")
    assert _read(DataLoader(base, 2), 9, DataLoader(val, 2))[1].endswith("of the val split")


def test_torchvisions_data_sets_are_read_without_augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "__init__", _fake_cifar)
    train, val = CIFAR10(tmp_path, transform=AUGMENTED), CIFAR10(tmp_path, transform=AS_TENSOR)
    images, how = _read(DataLoader(train, 4), 10, DataLoader(val, 4))
    assert "transforms of the val split" in how
    assert torch.equal(images, torch.ones(10, 3, 32, 32))


def _fake_cifar(self: CIFAR10, root: Path, transform: Any) -> None:
    super(CIFAR10, self).__init__(root, transform=transform)
    self.data, self.targets = np.full((12, 32, 32, 3), 255, dtype=np.uint8), [*range(10), 0, 1]


def test_transforms_that_do_not_fit_the_training_images_are_not_taken() -> None:
    class Named(_Images):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image: Any = {"pixels": torch.ones(3, 8, 8)} if self.size == 5 else torch.ones(3, 8, 8)
            assert self.transform is not None
            return self.transform(image), index

    train, val = Named(6, lambda image: image), Named(5, lambda named: named["pixels"])
    _, how = _read(DataLoader(train, 2), 6, DataLoader(val, 2))
    assert how == "6 of 6 training images, with the transforms of training, as they are"


def test_a_mixing_collation_is_replaced_with_that_of_val() -> None:
    def mixed(items: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(items), 3, 8, 8), torch.rand(len(items), 10)

    train = DataLoader(_Images(6, AUGMENTED), 2, collate_fn=mixed)
    images, _ = _read(train, 6, DataLoader(_Images(6, AS_TENSOR), 2))
    assert bool((images > 0).all())


def test_a_stream_gives_whole_batches_until_there_are_enough() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for index in range(100):
                yield torch.full((3, 4, 4), float(index)), index

    images, how = _read(DataLoader(Stream(), batch_size=8), 20)
    assert images[:, 0, 0, 0].tolist() == list(range(24))
    assert how == "the first 20 images of the training loader as it is"


def test_the_state_of_the_training_loader_and_of_random_numbers_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(_Images(30, AUGMENTED), 8, shuffle=True, generator=generator)
    before, everywhere = generator.get_state(), torch.get_rng_state()
    training_batches(loader, DataLoader(_Images(9, AS_TENSOR), 8), 20)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), everywhere)
