"""Every layer gets a weight and a bias of its own that can be replaced, and computes what it did."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.graph import export_graph
from qcal.quantization.layers import find_layers
from qcal.quantization.operators import get_tensor, set_tensor
from qcal.quantization.placement import FloatOperation, Layer
from qcal.quantization.simplify import simplify
from tests.quantization.networks import Forward


def _found(network: nn.Module, images: Tensor) -> tuple[GraphModule, tuple[Layer, ...], tuple[FloatOperation, ...]]:
    """The graph with its layers; the numbers must be those of before."""
    graph = export_graph(network, images)
    simplify(graph)
    expected = graph(images)
    layers, in_float = find_layers(graph)
    graph.recompile()
    assert torch.equal(graph(images), expected)
    return graph, layers, in_float


# A layer without bias, the shape of its images, and the channels of the bias that it is given.
WITHOUT_BIAS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "conv": (nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 8, 8), 4),
    "depthwise conv": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (4, 8, 8), 8),
    "transposed conv": (nn.ConvTranspose2d(3, 4, 2, bias=False), (3, 4, 4), 4),
    "linear": (nn.Linear(6, 4, bias=False), (6,), 4),
    "linear of a sequence": (nn.Linear(6, 4, bias=False), (5, 6), 4),
}


@pytest.mark.parametrize(("layer", "shape", "channels"), WITHOUT_BIAS.values(), ids=list(WITHOUT_BIAS))
def test_a_layer_without_bias_gets_one_of_zeros_that_moves_its_channels(
    layer: nn.Module, shape: tuple[int, ...], channels: int
) -> None:
    images = torch.randn(2, *shape)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    network = nn.Sequential(layer, nn.Flatten())
    graph, layers, _ = _found(network, images)
    assert torch.equal(get_tensor(graph, layers[0].bias), torch.zeros(channels))
    offset = torch.arange(channels, dtype=torch.float32)
    set_tensor(graph, layers[0].bias, offset)
    moved = layer(images) + (offset if axis == -1 else offset.reshape(-1, *[1] * (len(shape) - 1)))
    torch.testing.assert_close(graph(images), moved.flatten(1))


def test_a_bias_belongs_to_one_call_of_one_layer() -> None:
    fc = nn.Linear(4, 4)
    network = Forward(lambda m, x: m.fc(F.relu(m.fc(x))), fc=fc)
    graph, layers, _ = _found(network, torch.randn(2, 4))
    assert len({layer.bias for layer in layers}) == 2
    assert len({layer.target for layer in layers}) == 1
    images = torch.randn(3, 4)
    set_tensor(graph, layers[1].bias, torch.zeros(4))
    torch.testing.assert_close(graph(images), F.linear(F.relu(fc(images)), fc.weight))


def test_a_bias_that_something_else_reads_is_copied() -> None:
    fc = nn.Linear(4, 4)
    network = Forward(lambda m, x: m.fc(x) * m.fc.bias, fc=fc)
    graph, layers, _ = _found(network, torch.randn(2, 4))
    set_tensor(graph, layers[0].bias, torch.zeros(4))
    images = torch.randn(3, 4)
    torch.testing.assert_close(graph(images), F.linear(images, fc.weight) * fc.bias)


def test_a_bias_that_is_computed_from_the_images_leaves_the_layer_in_float() -> None:
    network = Forward(lambda m, x: m.fc(F.linear(x, m.fc.weight, x[0])), fc=nn.Linear(4, 4))
    _, layers, in_float = _found(network, torch.randn(2, 4))
    assert [layer.name for layer in layers] == ["fc_1"]
    assert [op.reason for op in in_float] == ["its bias is computed from the images"]
