import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from qcal.data import Digits, Images


def whole(data: Digits) -> Images:
    data.setup()
    train, test = data.load("train"), data.load("test")
    return Images(torch.cat([train.x, test.x]), torch.cat([train.y, test.y]), train.classes)


def test_clean_pools_together_are_scikit_learns_digits() -> None:
    images = whole(Digits(noise_std=0))
    ours = sorted((*image.flatten().tolist(), int(label)) for image, label in zip(images.x, images.y, strict=True))
    bunch = load_digits()
    theirs = sorted((*(image / 16), int(label)) for image, label in zip(bunch.data, bunch.target, strict=True))
    assert np.array_equal(np.array(ours), np.array(theirs, dtype=np.float32))


def test_shapes_classes_and_sizes() -> None:
    data = Digits()
    assert data.num_classes == 10
    data.setup()
    assert (data.input_shape, data.classes) == ((1, 8, 8), tuple("0123456789"))
    assert data.roles["test"].size == 597
    assert sum(data.roles[name].size for name in ("train", "val", "recalibration")) == 1200
    assert set(data.load("test").y.tolist()) == set(range(10))


def test_noise_has_the_asked_standard_deviation_and_stays_with_its_image() -> None:
    noise = Digits(noise_std=0.5).load("train").x - Digits(noise_std=0).load("train").x
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.flatten(1).std(0).min() > 0.4  # every pixel has some
    again, other = Digits(noise_std=0.5).load("train"), Digits(noise_std=0.5, noise_seed=1).load("train")
    assert again.x.equal(Digits(noise_std=0.5).load("train").x)
    assert not again.x.equal(other.x)
    assert again.y.equal(other.y)


@pytest.mark.parametrize("noise_std", [0.0, 0.35, 1.0])
def test_normalised_training_images_have_mean_0_and_standard_deviation_1(noise_std: float) -> None:
    dataset = Digits(noise_std=noise_std).dataset("train")
    x = dataset.__getitems__(list(range(len(dataset)))).x
    assert x.mean().item() == pytest.approx(0, abs=0.01)
    assert x.std().item() == pytest.approx(1, abs=0.01)


def test_the_test_pool_is_the_same_for_every_split_seed() -> None:
    assert Digits(split_seed=0).load("test").x.equal(Digits(split_seed=5).load("test").x)


def test_digits_are_never_mirrored() -> None:
    assert not Digits().augmentation().flip


@pytest.mark.parametrize("noise_std", [-0.1, float("nan"), float("inf")])
def test_a_negative_or_infinite_noise_is_refused(noise_std: float) -> None:
    with pytest.raises(ValueError, match=r"`noise_std` must be at least 0 and finite, got .*\. Pass 0"):
        Digits(noise_std=noise_std)


def test_a_small_network_is_right_on_about_four_of_five() -> None:
    torch.manual_seed(0)
    data = Digits()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 16, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    for _ in range(8):
        for x, y in data.train_dataloader():
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(x), y))
            optimizer.step()
    with torch.no_grad():
        right = [bool(hit) for x, y in data.test_dataloader() for hit in net(x).argmax(1) == y]
    assert len(right) == 597
    assert 0.72 < sum(right) / len(right) < 0.88
