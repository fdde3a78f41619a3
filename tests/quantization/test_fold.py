"""Folding keeps the numbers, against torch's own fusion and the unfolded network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn.utils.fusion import fuse_conv_bn_eval

from qcal.quantization.fold import Unfolded, fold_batch_norms
from qcal.quantization.graph import export_graph
from qcal.quantization.operators import BATCH_NORMS, argument, aten, get_tensor, kind
from qcal.quantization.simplify import simplify
from tests.quantization.networks import Forward, randomise_batch_norms, tiny_images, tiny_resnet


def _folded(network: nn.Module, example: Tensor) -> tuple[GraphModule, list[Unfolded], int]:
    graph = export_graph(network, example)
    simplify(graph)
    unfolded = fold_batch_norms(graph)
    return graph, unfolded, sum(kind(node) in BATCH_NORMS for node in graph.graph.nodes)


def test_a_residual_network_folds_completely() -> None:
    network, images = tiny_resnet(), tiny_images()
    graph, unfolded, left = _folded(network, images)
    assert (unfolded, left) == ([], 0)
    torch.testing.assert_close(graph(images), network(images), rtol=1e-5, atol=1e-5)


def test_statistics_that_several_devices_share_fold_like_others() -> None:
    network, images = tiny_resnet(), tiny_images()
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch has no types for it
    assert any(isinstance(module, nn.SyncBatchNorm) for module in shared.modules())
    graph, unfolded, left = _folded(shared, images)
    assert (unfolded, left) == ([], 0)
    torch.testing.assert_close(graph(images), shared(images), rtol=1e-5, atol=1e-5)


LAYERS: dict[str, Callable[[], tuple[nn.Module, ...]]] = {
    "bias": lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
    "no bias": lambda: (nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "not affine": lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "large eps": lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.5)),
    "same padding": lambda: (nn.Conv2d(3, 4, 3, padding="same"), nn.BatchNorm2d(4)),
    "grouped": lambda: (nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)),
    "transposed": lambda: (nn.ConvTranspose2d(3, 4, 3, stride=2), nn.BatchNorm2d(4)),
    "1d": lambda: (nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)),
    "linear": lambda: (nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4)),
    "twice": lambda: (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)),
    "dropout between": lambda: (nn.Conv2d(3, 4, 3), nn.Dropout2d(), nn.BatchNorm2d(4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_folds(name: str) -> None:
    network = nn.Sequential(*LAYERS[name](), nn.Flatten(), nn.LazyLinear(3)).eval()
    images = tiny_images()
    network(images)
    randomise_batch_norms(network)
    graph, unfolded, left = _folded(network, images)
    assert (unfolded, left) == ([], 0)
    torch.testing.assert_close(graph(images), network(images), rtol=1e-5, atol=1e-5)


def test_folded_weights_are_those_of_torchs_fusion() -> None:
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    network = randomise_batch_norms(nn.Sequential(conv, norm, nn.Flatten(), nn.Linear(144, 2))).eval()
    graph, _, _ = _folded(network, tiny_images())
    fused = fuse_conv_bn_eval(conv, norm)
    (layer,) = [node for node in graph.graph.nodes if kind(node) is aten.conv2d]
    assert fused.bias is not None
    torch.testing.assert_close(get_tensor(graph, layer.args[1].target), fused.weight.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(get_tensor(graph, layer.args[2].target), fused.bias.detach(), rtol=1e-5, atol=1e-6)


def test_a_convolution_with_two_batch_norms_gets_weights_of_its_own_for_each() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
        result: Tensor = (self.first(self.conv(x)) + self.second(self.conv(x))).mean((2, 3))
        return result

    layers = {"conv": nn.Conv2d(3, 4, 1), "first": nn.BatchNorm2d(4), "second": nn.BatchNorm2d(4)}
    network, images = randomise_batch_norms(Forward(forward, **layers)).eval(), tiny_images()
    graph, unfolded, _ = _folded(network, images)
    assert unfolded == []
    torch.testing.assert_close(graph(images), network(images), rtol=1e-5, atol=1e-5)


def _two_readers(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
    h = self.conv(x)
    result: Tensor = (self.norm(h) + h).mean((2, 3))
    return result


STAY = {
    "norm first": (
        Forward(lambda self, x: self.conv(self.norm(x)).mean((2, 3)), norm=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 1)),
        "no convolution or linear layer directly in front of it",
    ),
    "two readers": (
        Forward(_two_readers, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)),
        "the output of conv is also read elsewhere",
    ),
    "batch statistics": (
        Forward(
            lambda self, x: self.norm(self.conv(x)).mean((2, 3)),
            conv=nn.Conv2d(3, 4, 1),
            norm=nn.BatchNorm2d(4, track_running_stats=False),
        ),
        "it uses the statistics of the batch, not running ones",
    ),
    "tokens": (
        Forward(
            lambda self, x: self.norm(self.conv(x.flatten(2))).mean(2),
            conv=nn.Linear(64, 7),
            norm=nn.BatchNorm1d(3),
        ),
        "it does not normalise the output channels of conv",
    ),
    "transposed in groups": (
        Forward(
            lambda self, x: self.norm(self.conv(x)).mean((2, 3)),
            conv=nn.ConvTranspose2d(3, 6, 2, groups=3),
            norm=nn.BatchNorm2d(6),
        ),
        "conv is a transposed convolution with groups",
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_what_cannot_be_folded_stays_and_says_why(name: str) -> None:
    network, reason = STAY[name]
    images = tiny_images(2)
    randomise_batch_norms(network).eval()
    graph, unfolded, left = _folded(network, images)
    assert unfolded == [Unfolded("norm", reason)]
    assert left == 1
    assert torch.equal(graph(images), network(images))


def test_folding_is_done_in_float64() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, eps=1.0)).eval()
    norm = network[1]
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(2.0)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, 5.196152)
    graph, _, _ = _folded(network, torch.ones(2, 1))
    (layer,) = [node for node in graph.graph.nodes if kind(node) is aten.linear]
    exact = norm.bias.double().item() - 3 * 3 / 3**0.5
    bias = argument(layer, "bias")
    assert isinstance(bias, Node)
    assert get_tensor(graph, str(bias.target)).item() == torch.tensor(exact).float().item()
