"""Quantizers stand where an int8 backend stores a tensor: once each, under the user's names."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcal.quantization import prepare
from qcal.quantization.fold import fold_batch_norms
from qcal.quantization.graph import export_graph
from qcal.quantization.place import place_quantizers
from qcal.quantization.placement import Placement
from qcal.quantization.simplify import simplify
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


def _placed(network: nn.Module, example: Tensor | None = None) -> Placement:
    images = tiny_images(2) if example is None else example
    graph = export_graph(network, images)
    simplify(graph)
    fold_batch_norms(graph)
    expected = graph(images)
    placement = place_quantizers(graph)
    assert torch.equal(graph(images), expected)  # switched off, quantizers change nothing
    return placement


def _names(placement: Placement) -> list[str]:
    return [quantizer.name for quantizer in placement.quantizers]


def test_a_residual_network_is_quantized_at_its_input_layers_and_adds() -> None:
    placement = _placed(tiny_resnet())
    blocks = [
        "layer1.conv1",
        "layer1.conv2",
        "layer1.add",
        "layer2.conv1",
        "layer2.conv2",
        "layer2.downsample.0",
        "layer2.add",
    ]
    assert _names(placement) == ["input", "conv1", *blocks, "fc"]
    assert [layer.name for layer in placement.layers] == ["conv1", *(b for b in blocks if "add" not in b), "fc"]
    assert [q.name for q in placement.quantizers if q.is_output] == ["fc"]
    assert [q.shape for q in placement.quantizers][:3] == [(3, 8, 8), (4, 8, 8), (4, 4, 4)]
    assert placement.float_operations == ()


# Forward of a network with layers conv (3 to 3, 3x3), conv2 (3 to 3), norm and fc (3 to 2), and the sites it must have.
PLACES: dict[str, tuple[Callable[[Any, Tensor], Tensor], list[str]]] = {  # Any: layers by name
    "fused relu": (lambda m, x: m.fc(F.relu(m.conv(x)).mean((2, 3))), ["input", "conv", "fc"]),
    "fused in-place relu6": (lambda m, x: m.fc(F.relu6(m.conv(x), True).mean((2, 3))), ["input", "conv", "fc"]),
    "fused silu": (lambda m, x: m.fc(F.silu(m.conv(x)).mean((2, 3))), ["input", "conv", "fc"]),
    "activation of a shared tensor": (
        lambda m, x: (lambda h: m.fc((F.hardswish(h) + h).mean((2, 3))))(m.conv(x)),
        ["input", "conv", "hardswish", "add", "fc"],
    ),
    "relu of a stored tensor keeps its scale": (
        lambda m, x: (lambda h: m.fc((F.relu(h) + h).mean((2, 3))))(m.conv(x)),
        ["input", "conv", "add", "fc"],
    ),
    "relu of the input": (lambda m, x: m.fc(m.conv(F.relu(x)).mean((2, 3))), ["input", "conv", "fc"]),
    "cat": (
        lambda m, x: m.fc(torch.cat([m.conv(x), m.conv2(x)], 2).amax((2, 3))),
        ["input", "conv", "conv2", "cat", "fc"],
    ),
    "squeeze and excite": (
        lambda m, x: m.fc((torch.sigmoid(m.conv2(F.adaptive_avg_pool2d(x, 1))) * m.conv(x)).mean((2, 3))),
        ["input", "conv2", "conv", "mul", "fc"],
    ),
    "moving numbers": (
        lambda m, x: m.fc(F.pad(F.max_pool2d(m.conv(x), 2).transpose(2, 3), (1, 1))[:, :, 0, :1].flatten(1)),
        ["input", "conv", "fc"],
    ),
    "batch norm that stays": (
        lambda m, x: m.fc(m.conv(F.relu(m.norm(x))).mean((2, 3))),
        ["input", "norm", "conv", "fc"],
    ),
    "functions of shapes and constants": (
        lambda m, x: m.fc(m.conv(x).mean((2, 3)) + torch.arange(3) * x.shape[0] * 0),
        ["input", "conv", "add", "fc"],
    ),
    "one layer called twice": (lambda m, x: m.fc(m.conv(m.conv(x)).mean((2, 3))), ["input", "conv", "conv_1", "fc"]),
    "pooled logits": (lambda m, x: F.adaptive_avg_pool2d(m.conv(x), 1).flatten(1), ["input", "conv", "output"]),
    "reshaped logits": (lambda m, x: m.conv(x).flatten(1), ["input", "conv"]),
    "scaled logits": (lambda m, x: m.fc(m.conv(x).mean((2, 3))) * 3, ["input", "conv", "fc"]),
    "logits with an offset": (lambda m, x: m.fc(m.conv(x).mean((2, 3))) + 3, ["input", "conv", "fc", "add"]),
    "what a layer reads is stored": (
        lambda m, x: m.fc(F.softmax(m.conv(x).amax((2, 3)), 1)),
        ["input", "conv", "softmax", "fc"],
    ),
    "what a layer reads through moved numbers is stored once": (
        lambda m, x: m.fc(
            F.layer_norm(m.conv(x).amax(3).transpose(1, 2), (3,)).transpose(1, 2).reshape(-1, 8, 3)[:, 0]
        ),
        ["input", "conv", "layer_norm", "fc"],
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_quantizers_stand_where_tensors_are_stored(name: str) -> None:
    function, expected = PLACES[name]
    layers = {"conv": nn.Conv2d(3, 3, 3, padding=1), "conv2": nn.Conv2d(3, 3, 1), "norm": nn.BatchNorm2d(3)}
    placement = _placed(Forward(function, **layers, fc=nn.Linear(3, 2)).eval())
    assert _names(placement) == expected
    assert [q.name for q in placement.quantizers if q.is_output] == expected[-1:]


def test_weights_that_are_computed_from_parameters_are_quantized_as_constants() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    placement = _placed(nn.Sequential(conv, nn.Flatten(), nn.Linear(144, 2)))
    assert [layer.name for layer in placement.layers] == ["0", "2"]
    assert placement.layers[0].target.startswith("constant_")


def test_weights_that_are_computed_from_the_images_stay_in_float_and_say_so() -> None:
    def forward(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
        result: Tensor = self.fc(F.linear(x, self.fc.weight * x.mean()))
        return result

    placement = _placed(Forward(forward, fc=nn.Linear(4, 4)), torch.randn(2, 4))
    assert [layer.name for layer in placement.layers] == ["fc"]
    assert [(op.name, op.reason) for op in placement.float_operations if op.operation == "linear"] == [
        ("linear", "its weights are computed from the images")
    ]


def test_a_weight_with_another_reader_is_quantized_for_its_layer_alone() -> None:
    network = Forward(lambda self, x: self.fc(x) + self.fc.weight.sum() * 0, fc=nn.Linear(4, 4))
    placement = _placed(network, torch.randn(2, 4))
    assert placement.layers[0].target.startswith("constant_")


def test_two_layers_may_share_a_weight() -> None:
    network = Forward(lambda self, x: self.fc(self.fc(x)), fc=nn.Linear(4, 4))
    placement = _placed(network, torch.randn(2, 4))
    assert [(layer.name, layer.target) for layer in placement.layers] == [("fc", "fc.weight"), ("fc_1", "fc.weight")]


def test_transposed_convolutions_have_their_channels_on_axis_one() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(324, 2))
    assert [layer.channel_axis for layer in _placed(network).layers] == [1, 0]
    grouped = nn.Sequential(nn.ConvTranspose2d(3, 6, 2, groups=3), nn.Flatten(), nn.Linear(486, 2))
    placement = _placed(grouped)
    assert [layer.name for layer in placement.layers] == ["2"]
    assert placement.float_operations[0].reason == "weights of a transposed convolution in groups"


def _attends(self: Any, x: Tensor) -> Tensor:  # Any: layers by name
    logits: Tensor = self.fc(F.scaled_dot_product_attention(self.q(x), self.k(x), x).mean(1))
    return logits


def test_attention_that_is_not_written_out_is_reported_as_float_and_never_silently() -> None:
    network = Forward(_attends, q=nn.Linear(6, 6), k=nn.Linear(6, 6), fc=nn.Linear(6, 2))
    placement = _placed(network, torch.randn(2, 5, 6))
    assert [(op.operation, op.reason) for op in placement.float_operations] == [
        ("scaled_dot_product_attention", "no integer form"),
        ("mean", "average of a tensor in float"),
    ]


def test_a_product_with_a_constant_is_reported() -> None:
    network = Forward(lambda m, x: m.fc(x @ torch.eye(4)), fc=nn.Linear(4, 2))
    placement = _placed(network, torch.randn(2, 4))
    assert [op.reason for op in placement.float_operations] == ["multiplies by a constant that is no layer's weight"]


def test_an_average_is_rounded_to_the_scale_of_what_it_reads() -> None:
    plan = prepare(tiny_resnet(), tiny_images(16))
    plan.observe(tiny_images(16))
    quantizer = next(q for q in plan.quantizers if q.name == "layer2.add")
    stored: list[Tensor] = []
    handle = quantizer.register_forward_hook(lambda module, args, output: stored.append(output.clone()))
    plan.run("wfpa3", tiny_images(16))
    handle.remove()
    add, average = stored
    assert average.shape[1:] == (8, 1, 1)
    assert torch.isin(average, torch.unique(add)).all()


def test_integer_images_are_stored_once_they_are_cast() -> None:
    network = Forward(lambda m, x: m.fc(x.float().flatten(1) / 255), fc=nn.Linear(192, 2))
    placement = _placed(network, tiny_images(2).to(torch.uint8))
    assert _names(placement) == ["input", "fc"]
    assert placement.float_operations == ()


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a convolution or linear layer to quantize, found none"):
        _placed(nn.Flatten(), torch.randn(2, 4))
