"""A placement says who makes and who reads each stored tensor, and finds itself again in a copy of the graph."""

import copy
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from qcal.quantization.graph import export_graph
from qcal.quantization.place import place_quantizers
from qcal.quantization.simplify import simplify
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


def test_nodes_and_quantizers_are_found_again_in_a_deep_copy() -> None:
    graph = export_graph(tiny_resnet(), tiny_images(2))
    simplify(graph)
    placement = place_quantizers(graph)
    graph = GraphModule(graph, graph.graph)
    duplicate = copy.deepcopy(graph)
    nodes = {node.name for node in duplicate.graph.nodes}
    assert {layer.node for layer in placement.layers} <= nodes
    found = placement.in_copy(duplicate)
    assert [q.name for q in found.quantizers] == [q.name for q in placement.quantizers]
    assert all(q in set(duplicate.modules()) for q in found.quantizers)
    assert not set(found.quantizers) & set(placement.quantizers)
    assert [t.readers for t in found.stored] == [t.readers for t in placement.stored]


def test_another_network_has_another_placement() -> None:
    placement = place_quantizers(export_graph(tiny_resnet(), tiny_images(2)))
    with pytest.raises(ValueError, match="must be a deep copy of the one this placement was made in, with its 1"):
        placement.in_copy(nn.Linear(2, 2))


def _readers(network: nn.Module, images: Tensor) -> dict[str, tuple[str | None, tuple[str, ...], bool]]:
    graph = export_graph(network, images)
    simplify(graph)
    return {t.quantizer.name: (t.producer, t.readers, t.read_elsewhere) for t in place_quantizers(graph).stored}


def test_the_readers_of_a_stored_tensor_are_known() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
        h = F.max_pool2d(F.relu(self.conv(x)), 2)
        left, right = self.left(h), self.right(h)
        logits: Tensor = self.fc((left + right).reshape(x.shape[0], -1))
        return logits

    layers = {name: nn.Conv2d(3, 3, 3, padding=1) for name in ("conv", "left", "right")}
    assert _readers(Forward(forward, **layers, fc=nn.Linear(48, 2)), tiny_images(2)) == {
        "input": (None, ("conv",), False),  # its shape is read, too, but none of its numbers
        "conv": ("conv", ("left", "right"), False),
        "left": ("left", (), True),
        "right": ("right", (), True),
        "add": (None, ("fc",), False),
        "fc": ("fc", (), True),
    }


def test_a_tensor_that_a_layer_and_a_merge_read_is_read_elsewhere() -> None:
    network = Forward(lambda m, x: m.fc((m.conv(x) + x).flatten(1)), conv=nn.Conv2d(3, 3, 1), fc=nn.Linear(192, 2))
    assert _readers(network, tiny_images(2))["input"] == (None, ("conv",), True)
