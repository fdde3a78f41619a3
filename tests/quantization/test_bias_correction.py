"""Corrected biases take the mean error off every layer, exactly as correcting one layer after the other does."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from qcal.quantization.bias_correction import corrected_biases
from qcal.quantization.operators import bound, get_tensor
from qcal.quantization.placement import Placement
from qcal.quantization.specs import WeightSpec
from qcal.quantization.weights import quantize_weight
from tests.quantization.networks import prepared, tiny_images, tiny_resnet


def _rounded(graph: GraphModule, placement: Placement, bits: int = 3) -> dict[str, Tensor]:
    return {
        layer.target: quantize_weight(
            get_tensor(graph, layer.target), WeightSpec(bits), channel_axis=layer.channel_axis
        )
        for layer in placement.layers
    }


class _Outputs(Interpreter):
    """Runs a graph and keeps what each node makes."""

    def __init__(self, graph: GraphModule, images: Tensor) -> None:
        super().__init__(graph)
        self.made: dict[str, Tensor] = {}
        self.run(images)

    def run_node(self, n: Node) -> object:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.made[n.name] = result
        return result


def _mean_by_channel(x: Tensor, axis: int = 1) -> Tensor:
    return x.double().movedim(axis, 0).flatten(1).mean(1)


def test_one_layer_loses_the_mean_of_its_error() -> None:
    graph, placement = prepared(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), tiny_images())
    weights = _rounded(graph, placement)
    images = tiny_images(50)
    x = images.flatten(1).double()
    (layer,) = placement.layers
    error = x.mean(0) @ (weights[layer.target] - get_tensor(graph, layer.target)).double().T
    biases = corrected_biases(graph, placement, weights, torch.split(images, 16))
    torch.testing.assert_close(
        biases[layer.bias], (get_tensor(graph, layer.bias).double() - error).float(), rtol=1e-6, atol=1e-6
    )


def _one_layer_after_the_other(
    graph: GraphModule, placement: Placement, weights: dict[str, Tensor], images: Tensor
) -> dict[str, Tensor]:
    """The paper's procedure as it is written: a pass of the network for every layer."""
    expected = _Outputs(graph, images).made
    biases: dict[str, Tensor] = {}
    for layer in placement.layers:
        with bound(graph, {**weights, **biases}):
            made = _Outputs(graph, images).made[layer.node]
        shift = _mean_by_channel(made) - _mean_by_channel(expected[layer.node])
        biases[layer.bias] = (get_tensor(graph, layer.bias).double() - shift).float()
    return biases


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": tiny_resnet,
    "depthwise and strided": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, bias=False),
        nn.ReLU6(),
        nn.Conv2d(6, 6, 3, groups=6, dilation=1, padding=1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ),
    "transposed": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(720, 3)
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_two_passes_give_what_a_pass_for_every_layer_gives(name: str) -> None:
    graph, placement = prepared(NETWORKS[name](), tiny_images())
    weights, images = _rounded(graph, placement), tiny_images(40)
    expected = _one_layer_after_the_other(graph, placement, weights, images)
    biases = corrected_biases(graph, placement, weights, torch.split(images, 16))
    assert biases.keys() == expected.keys() == {layer.bias for layer in placement.layers}
    for target, bias in biases.items():
        torch.testing.assert_close(bias, expected[target], rtol=1e-4, atol=1e-5)


def test_with_corrected_biases_every_layer_makes_its_float_mean() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    weights, images = _rounded(graph, placement), tiny_images(64)
    biases = corrected_biases(graph, placement, weights, [images])
    expected = _Outputs(graph, images).made
    with bound(graph, weights):
        plain = _Outputs(graph, images).made
    with bound(graph, {**weights, **biases}):
        corrected = _Outputs(graph, images).made
    for layer in placement.layers:
        mean = _mean_by_channel(expected[layer.node])
        assert (_mean_by_channel(corrected[layer.node]) - mean).abs().max() < 1e-5
        assert (_mean_by_channel(plain[layer.node]) - mean).abs().max() > 1e-4


def test_layers_in_float_are_left_alone_and_the_graph_is_not_changed() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    before = {name: (tensor, tensor.clone()) for name, tensor in graph.state_dict(keep_vars=True).items()}
    weights = _rounded(graph, placement)
    first, last = placement.layers[0], placement.layers[-1]
    del weights[first.target], weights[last.target]
    biases = corrected_biases(graph, placement, weights, [tiny_images()])
    assert biases.keys() == {layer.bias for layer in placement.layers[1:-1]}
    after = graph.state_dict(keep_vars=True)
    assert all(after[name] is tensor and torch.equal(tensor, copy) for name, (tensor, copy) in before.items())
    assert corrected_biases(graph, placement, {}, [tiny_images()]) == {}


def test_float_weights_leave_nothing_to_correct() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    weights = {layer.target: get_tensor(graph, layer.target) for layer in placement.layers}
    for target, bias in corrected_biases(graph, placement, weights, [tiny_images()]).items():
        assert torch.equal(bias, get_tensor(graph, target))


def test_the_callers_inference_mode_does_not_matter() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    weights = _rounded(graph, placement)
    expected = corrected_biases(graph, placement, weights, [tiny_images()])
    with torch.inference_mode():
        biases = corrected_biases(graph, placement, weights, [tiny_images()])
    assert all(torch.equal(bias, expected[target]) and not bias.is_inference() for target, bias in biases.items())


def test_no_image_and_unknown_weights_are_refused() -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    with pytest.raises(ValueError, match="`images` must hold at least one image, got none"):
        corrected_biases(graph, placement, {}, [])
    with pytest.raises(ValueError, match=r"`weights` must be named by `Layer\.target` of this placement, got fc\."):
        corrected_biases(graph, placement, {"fc": torch.zeros(1)}, [tiny_images()])


def test_no_more_images_are_read_than_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, placement = prepared(tiny_resnet(), tiny_images())
    weights, images = _rounded(graph, placement), tiny_images(40)
    monkeypatch.setattr("qcal.quantization.bias_correction.max_images", lambda _: 20)
    read: list[int] = []

    def batches() -> Iterator[Tensor]:
        for x in torch.split(images, 16):
            read.append(len(x))
            yield x

    biases = corrected_biases(graph, placement, weights, batches())
    assert read == [16, 16]
    monkeypatch.undo()
    expected = corrected_biases(graph, placement, weights, [images[:16], images[16:20]])
    assert all(torch.equal(bias, expected[target]) for target, bias in biases.items())
