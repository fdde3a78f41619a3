"""The float and the quantized network run side by side give each layer what two ordinary runs give it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

import qcal.quantization.side_by_side as walk
from qcal.quantization.operators import bound, get_tensor
from qcal.quantization.side_by_side import LayerInTurn, max_images, side_by_side
from tests.quantization.networks import Forward, prepared, tiny_images, tiny_resnet


class _Recorder(Interpreter):
    """Runs a graph and keeps what each layer reads and makes."""

    def __init__(self, graph: GraphModule, images: Tensor) -> None:
        super().__init__(graph)
        self.values: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}
        self.run(images.clone())

    def run_node(self, n: Node) -> Any:  # Any: as torch has it
        if n.args and isinstance(n.args[0], Node) and isinstance(self.env.get(n.args[0]), Tensor):
            self.inputs[n.name] = self.env[n.args[0]].clone()
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result.clone()
        return result


def _split_and_join(m: Any, x: Tensor) -> Tensor:  # Any: layers by name
    left, right = m.a(x).chunk(2, 1)
    h = torch.cat([F.relu(left), m.b(right) + x.shape[0]], 1)
    h = h.flatten(1)
    result: Tensor = m.fc(h)
    return result


def _writes_in_place(m: Any, x: Tensor) -> Tensor:  # Any: layers by name
    h = m.a(x)
    h[:, :1] += 1.0  # through a view, which stays in place in the graph
    result: Tensor = m.fc((m.b(h) * x.mean()).flatten(1))
    return result


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": tiny_resnet,
    "several outputs and sizes": lambda: Forward(
        _split_and_join, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(2, 2, 1), fc=nn.Linear(144, 2)
    ),
    "in place": lambda: Forward(_writes_in_place, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 2, 3), fc=nn.Linear(32, 2)),
    "shared weights": lambda: Forward(lambda m, x: m.a(F.relu(m.a(x))).flatten(1), a=nn.Conv2d(3, 3, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_sees_what_two_runs_of_the_network_show_it(name: str) -> None:
    graph, placement = prepared(NETWORKS[name](), tiny_images())
    # All layers but the first, so that the two networks have a common beginning.
    weights = {layer.target: 1.1 * get_tensor(graph, layer.target) for layer in placement.layers[1:]}
    images = tiny_images(10)
    before = images.clone()
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def visit(turn: LayerInTurn) -> list[Tensor] | None:
        seen[turn.layer.node] = torch.cat(turn.inputs).clone(), torch.cat(turn.expected).clone()
        if turn.layer.target not in weights:
            return None
        return [turn.output(x, weights[turn.layer.target]) for x in turn.inputs]

    with torch.no_grad():
        side_by_side(graph, placement, torch.split(images, 4), visit)
    assert torch.equal(images, before)
    # One batch at a time, as a network may compute with the number or the mean of its images.
    for at, part in enumerate(torch.split(images, 4)):
        plain = _Recorder(graph, part)
        with bound(graph, weights):
            changed = _Recorder(graph, part)
        assert list(seen) == [layer.node for layer in placement.layers]
        for node, (inputs, expected) in seen.items():
            torch.testing.assert_close(torch.split(inputs, 4)[at], changed.inputs[node])
            torch.testing.assert_close(torch.split(expected, 4)[at], plain.values[node])


def _computed_nodes(rounded: slice) -> int:
    """How often a tensor passed a quantizer of a residual network with the weights of some layers changed."""
    graph, placement = prepared(tiny_resnet(), tiny_images())
    weights = {layer.target: 0.9 * get_tensor(graph, layer.target) for layer in placement.layers[rounded]}
    passed = []
    for quantizer in placement.quantizers:
        quantizer.register_forward_hook(lambda *_: passed.append(1))

    def visit(turn: LayerInTurn) -> list[Tensor] | None:
        target = turn.layer.target
        return [turn.output(x, weights[target]) for x in turn.inputs] if target in weights else None

    with torch.no_grad():
        side_by_side(graph, placement, [tiny_images()], visit)
    return len(passed)


def test_what_nothing_quantized_has_reached_is_computed_once() -> None:
    nothing, last, everything = (_computed_nodes(part) for part in (slice(0), slice(-1, None), slice(None)))
    assert nothing == last
    # All quantizers twice but those of the input, which is the same, and of the logits, which are not needed.
    assert everything == 2 * nothing - 1


def test_the_activation_function_of_a_layer_is_the_one_that_alone_reads_it() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:  # Any: layers by name
        h = m.prelu(m.a(x))
        h = m.b(h)
        h = F.silu(h) + h
        result: Tensor = F.hardtanh(m.c(h).flatten(1))
        return result

    layers = {"a": nn.Conv2d(3, 4, 3), "prelu": nn.PReLU(4), "b": nn.Conv2d(4, 4, 3), "c": nn.Conv2d(4, 2, 4)}
    graph, placement = prepared(Forward(forward, **layers), tiny_images())
    x = torch.randn(2, 4, 3, 3)
    made: list[Tensor] = []

    def visit(turn: LayerInTurn) -> None:
        made.append(turn.activation(x))

    with torch.no_grad():
        side_by_side(graph, placement, [tiny_images()], visit)
    assert torch.equal(made[0], layers["prelu"](x))
    assert torch.equal(made[1], x)
    assert torch.equal(made[2], x)  # flattened before the function, so it is not fused


def test_as_many_images_are_taken_as_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    graph, _ = prepared(network, tiny_images())
    # At the widest place a convolution's output and its ReLU: 4 x 6 x 6 float32 numbers each, in two networks. Before,
    # the images and their quantizer's output are 3 x 8 x 8 each, and the convolution needs one of them.
    widest = 2 * max(2 * 192 * 4, (192 + 144) * 4, 2 * 144 * 4)
    monkeypatch.setattr(walk, "MAX_BYTES", 10 * widest + 1)
    assert max_images(graph) == 10
    monkeypatch.setattr(walk, "MAX_BYTES", 1)
    assert max_images(graph) == 1
