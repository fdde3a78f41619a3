"""Small networks with the constructions that quantization has to get right."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.fold import fold_batch_norms
from qcal.quantization.graph import export_graph
from qcal.quantization.place import place_quantizers
from qcal.quantization.placement import Placement
from qcal.quantization.simplify import simplify


def randomise_batch_norms(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics and factors that matter; return the network."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
            if module.affine:
                with torch.no_grad():
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
    return network


class Block(nn.Module):
    """A residual block with an in-place add and in-place ReLUs, as torchvision writes it."""

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(out)
        return result


class TinyResNet(nn.Module):
    """Two residual blocks, a max-pool, dropout and a linear head on 8x8 images."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.pool = nn.MaxPool2d(2)
        self.layer1 = Block(4, 4)
        self.layer2 = Block(4, 8, 2)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(self.pool(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        logits: Tensor = self.fc(self.dropout(x))
        return logits


def tiny_resnet(seed: int = 0) -> TinyResNet:
    """A `TinyResNet` with given weights, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = TinyResNet()
    randomise_batch_norms(network, seed)
    return network.eval()


def tiny_images(count: int = 16, seed: int = 1) -> Tensor:
    """Images (count, 3, 8, 8) for `TinyResNet`."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Forward(nn.Module):
    """A module whose forward is the given function of itself and the images."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:  # Any: layers by name
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def prepared(network: nn.Module, images: Tensor) -> tuple[GraphModule, Placement]:
    """The graph of a network, folded, with its quantizers placed, and the placement."""
    graph = export_graph(network, images)
    simplify(graph)
    fold_batch_norms(graph)
    placement = place_quantizers(graph)
    return GraphModule(graph, graph.graph), placement
