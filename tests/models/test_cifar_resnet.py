from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qcal.models import BasicBlock, CifarResNet, load_weights

# What `reference_dir` was computed with.
MEAN = torch.tensor([0.5071, 0.4867, 0.4408]).view(1, 3, 1, 1)
STD = torch.tensor([0.2675, 0.2565, 0.2761]).view(1, 3, 1, 1)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images.permute(0, 3, 1, 2) / 255 - MEAN) / STD


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56, 110])
def test_depth_counts_the_weighted_layers_outside_the_shortcuts(depth: int) -> None:
    model = CifarResNet(depth)
    layers = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert sum("downsample" not in name for name in layers) == depth
    assert sum("downsample" in name for name in layers) == 2


@pytest.mark.parametrize(("depth", "nearest"), [(21, 20), (1, 8), (2, 8), (18, 20), (-4, 8)])
def test_other_depths_are_refused_with_the_allowed_ones(depth: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"`depth` must be 6 n \+ 2.*20, 32.*got {depth}\. Take .*, {nearest}\."):
        CifarResNet(depth)


@pytest.mark.parametrize(("name", "value"), [("num_classes", 1), ("in_channels", 0), ("width", 0)])
def test_too_small_arguments_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be an integer of at least {value + 1}, got {value}\."):
        CifarResNet(**{name: value})


@pytest.mark.parametrize("size", [1, 8, 32, 33])
def test_gives_one_logit_per_class_for_any_image_size(size: int) -> None:
    model = CifarResNet(depth=8, num_classes=7, in_channels=1, width=4).eval()
    assert model(torch.zeros(3, 1, size, size)).shape == (3, 7)


def test_each_later_stage_halves_the_size_and_doubles_the_channels() -> None:
    model, x = CifarResNet(depth=14, width=4).eval(), torch.zeros(1, 4, 16, 16)
    shapes = []
    for stage in ("layer1", "layer2", "layer3"):
        x = model.get_submodule(stage)(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]


def test_block_adds_the_shortcut_before_the_last_relu() -> None:
    block = BasicBlock(2, 2).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    torch.testing.assert_close(block(x), x.clamp(min=0))  # the residual branch is 0, so what is left is relu(x)


def test_convolutions_start_with_the_fan_out_variance() -> None:
    torch.manual_seed(0)
    weight = CifarResNet(depth=20, width=64).get_parameter("layer3.1.conv1.weight")
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


def test_gradients_reach_every_parameter() -> None:
    model = CifarResNet(depth=8, num_classes=3, width=4)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.mark.parametrize("depth", [20, 56])
def test_published_weights_load_strictly(data_dir: Path, depth: int) -> None:
    model, file = CifarResNet(depth, num_classes=100), data_dir / f"xia2021_resnet{depth}_cifar100.pt"
    load_weights(model, file)
    stored = torch.load(file, weights_only=True)
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "wrong"), [(20, 3338), (56, 2991)])
def test_published_weights_give_the_published_error(data_dir: Path, depth: int, wrong: int) -> None:
    model = CifarResNet(depth, num_classes=100).eval()
    load_weights(model, data_dir / f"xia2021_resnet{depth}_cifar100.pt")
    with np.load(data_dir / "cifar100_test.npz") as test:
        images, target = torch.from_numpy(test["x"]), torch.from_numpy(test["y"])
    with torch.inference_mode():
        predictions = [model(normalised(batch)).argmax(dim=1) for batch in torch.split(images, 500)]
    assert int((torch.cat(predictions) != target).sum()) == wrong


def test_published_weights_give_the_authors_logits(data_dir: Path, reference_dir: Path) -> None:
    model = CifarResNet(20, num_classes=100).eval()
    load_weights(model, data_dir / "xia2021_resnet20_cifar100.pt")
    with np.load(data_dir / "cifar100_test.npz") as test, np.load(reference_dir / "xia2021_resnet20_logits.npz") as ref:
        images, expected = torch.from_numpy(test["x"][:64]), torch.from_numpy(ref["float"][:64])
    with torch.inference_mode():
        logits = model(normalised(images))
    torch.testing.assert_close(logits, expected.float(), rtol=0, atol=0.02)
