"""Simplifying keeps the numbers and leaves nothing that could surprise a quantizer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.graph import export_graph
from qcal.quantization.operators import aten, kind
from qcal.quantization.simplify import simplify
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


def _simplified(network: nn.Module, example: Tensor) -> tuple[GraphModule, list[str]]:
    graph = export_graph(network, example)
    simplify(graph)
    return graph, [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_a_residual_network_has_no_in_place_operations_left() -> None:
    network, images = tiny_resnet(), tiny_images()
    graph, operations = _simplified(network, images)
    assert not [name for name in operations if "_." in name]
    assert operations.count("aten.add.Tensor") == 2
    assert torch.equal(graph(images), network(images))


def test_dropout_casts_and_assertions_are_gone() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
        result: Tensor = self.drop(self.fc(x.float()).detach().to(torch.float32))
        return result

    graph, operations = _simplified(Forward(forward, fc=nn.Linear(4, 2), drop=nn.Dropout()), torch.randn(2, 4))
    assert operations == ["aten.linear.default"]
    assert graph(torch.randn(3, 4)).shape == (3, 2)


def test_a_cast_that_changes_the_numbers_stays() -> None:
    network = Forward(lambda self, x: self.fc(x.to(torch.uint8).to(torch.float32)), fc=nn.Linear(4, 2))
    _, operations = _simplified(network, torch.ones(2, 4))
    assert operations.count("aten.to.dtype") == 2


# Each changes `h` in place while something else reads it: the order of reading and writing decides the result.
WRITES: dict[str, Callable[[Any, Tensor], Tensor]] = {  # Any: layers by name
    "read later": lambda self, h: F.relu_(h) * 0 + h,
    "read before": lambda self, h: (h * 1) + F.relu_(h),
    "view read later": lambda self, h: (h.view(-1, 2, 2), F.relu_(h))[0].reshape(-1, 4),
    "written through a view": lambda self, h: (h[:, 1:].mul_(3), h)[1],
    "written twice": lambda self, h: h.add_(1).mul_(h),
}


@pytest.mark.parametrize("name", WRITES)
def test_whoever_reads_a_changed_tensor_reads_the_same_numbers(name: str) -> None:
    network = Forward(lambda self, x: self.out(WRITES[name](self, self.fc(x))), fc=nn.Linear(4, 4), out=nn.Linear(4, 3))
    images = torch.randn(5, 4)
    graph, _ = _simplified(network, images)
    assert torch.equal(graph(images), network(images))


@pytest.mark.parametrize("write", [lambda x: x.sub_(0.5), lambda x: x[:, 1:].sub_(0.5)], ids=["whole", "a view"])
def test_the_images_of_the_caller_are_not_written_to(write: Callable[[Tensor], Tensor]) -> None:
    network = Forward(lambda self, x: (write(x), self.fc(x))[1], fc=nn.Linear(4, 2))
    graph, _ = _simplified(network, torch.randn(2, 4))
    images = torch.randn(3, 4)
    before = images.clone()
    logits = graph(images)
    assert torch.equal(images, before)
    assert torch.equal(logits, network(images))


def test_views_become_reshapes_that_take_channels_last() -> None:
    network = Forward(
        lambda self, x: self.fc(self.conv(x).view(-1, 256)), conv=nn.Conv2d(3, 4, 1), fc=nn.Linear(256, 2)
    )
    graph, _ = _simplified(network, tiny_images())
    images = tiny_images()
    assert not any(kind(node) is aten.view for node in graph.graph.nodes)
    torch.testing.assert_close(graph(images.contiguous(memory_format=torch.channels_last)), network(images))
