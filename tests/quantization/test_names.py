"""Operations are called what the user called their modules."""

import torch
import torch.nn.functional as F
from torch import nn

from qcal.quantization.graph import export_graph
from qcal.quantization.names import layer_name
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


def _names(network: nn.Module, example: torch.Tensor) -> list[str]:
    graph = export_graph(network, example).graph
    return [layer_name(node) for node in graph.nodes if node.op != "get_attr"]


def test_modules_go_by_their_path_and_functions_by_their_place() -> None:
    names = _names(tiny_resnet(), tiny_images())
    expected = {"input", "conv1", "bn1", "relu", "pool", "layer1.conv2", "layer1.add", "layer2.downsample.1", "fc"}
    assert expected <= set(names)


def test_a_functional_layer_goes_by_its_weight() -> None:
    network = Forward(lambda m, x: F.linear(x, m.inner.fc.weight), inner=Forward(lambda m, x: x, fc=nn.Linear(4, 2)))
    assert "inner.fc" in _names(network, torch.randn(2, 4))


def test_the_operations_of_attention_are_told_apart() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    network = Forward(lambda m, x: m.fc(m.attention(x, x, x)[0][:, 0]), attention=attention, fc=nn.Linear(4, 2))
    names = _names(network.eval(), torch.randn(2, 3, 4))
    assert {"attention.in_proj", "attention.softmax", "attention.out_proj", "fc"} <= set(names)
    assert "attention" not in names


def test_a_module_called_twice_keeps_its_name() -> None:
    network = Forward(lambda m, x: m.fc(m.fc(x)), fc=nn.Linear(4, 4))
    assert _names(network, torch.randn(2, 4)).count("fc") == 2
