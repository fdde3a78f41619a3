"""ResNet20 on CIFAR-100, with the paper's weights and images where they are, and a network folded by torch itself."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from qcal.models import CifarResNet, load_weights
from tests.quantization.networks import randomise_batch_norms

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def resnet20_and_images(request: pytest.FixtureRequest, count: int) -> tuple[nn.Module, Tensor]:
    """The paper's ResNet20 with `count` test images; without the reference material, random weights and images."""
    network = CifarResNet(depth=20, num_classes=100)
    try:
        data_dir: Path = request.getfixturevalue("data_dir")
    except pytest.skip.Exception:
        generator = torch.Generator().manual_seed(0)
        for weight in network.parameters():
            weight.data.normal_(0, weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.1, generator=generator)
        randomise_batch_norms(network)
        return network.eval(), torch.randn(count, 3, 32, 32, generator=generator)
    load_weights(network, data_dir / "xia2021_resnet20_cifar100.pt")
    return network.eval(), normalised(data_dir / "cifar100_test.npz", count)


def normalised(path: Path, count: int) -> Tensor:
    """The first `count` images of a file, (N, 3, 32, 32), as the paper's weights expect them."""
    with np.load(path) as arrays:
        x = torch.from_numpy(arrays["x"][:count]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (x - mean) / std


def folded_by_torch(network: nn.Module) -> nn.Module:
    """The network with each convolution folded with the batch norm after it, in place, in float32, by torch's function.

    Two libraries that fold on their own differ in the last bit, and a weight that lies on a tie then falls to either
    side; on a network without batch norm they start from the same bits.
    """
    leaves = [(name, module) for name, module in network.named_modules() if not any(module.children())]
    for (name, layer), (norm_name, norm) in pairwise(leaves):
        if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            network.set_submodule(name, fuse_conv_bn_eval(layer, norm))
            network.set_submodule(norm_name, nn.Identity())
    return network
