"""The placement of the authors' code, on small networks; on the paper's own one see test_xia2021."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qcal.quantization import Plan, prepare
from tests.quantization.networks import Forward, randomise_batch_norms, tiny_images, tiny_resnet


@pytest.fixture(scope="module")
def plan() -> Plan:
    return prepare(tiny_resnet(), tiny_images(), placement="xia2021")


def test_only_the_projection_shortcut_keeps_its_batch_norm(plan: Plan) -> None:
    assert [norm.name for norm in plan.unfolded] == ["layer2.downsample.1"]
    assert "authors' code" in plan.unfolded[0].reason
    assert plan.placement == "xia2021"


def test_the_sites_are_those_of_the_default_but_for_their_place(plan: Plan) -> None:
    default = prepare(tiny_resnet(), tiny_images())
    assert [q.name for q in plan.quantizers] == [q.name for q in default.quantizers]
    assert default.placement == "graph"


def test_a_shortcut_is_quantized_before_its_batch_norm_and_an_add_before_its_relu(plan: Plan) -> None:
    network, images = tiny_resnet(), tiny_images(32)
    seen: dict[str, torch.Tensor] = {}
    projection = network.layer2.get_submodule("downsample.0")
    projection.register_forward_hook(lambda module, args, output: seen.update(shortcut=output))
    with torch.no_grad():
        network(images)
    plan.observe(images)
    shortcut, add = plan.statistics["layer2.downsample.0"], plan.statistics["layer2.add"]
    assert shortcut.minimum == pytest.approx(seen["shortcut"].min().item(), abs=1e-5)
    assert shortcut.maximum == pytest.approx(seen["shortcut"].max().item(), abs=1e-5)
    assert add.minimum < 0
    assert plan.statistics["layer2.conv1"].minimum == 0


def test_the_logits_in_float_are_those_of_the_network(plan: Plan) -> None:
    images = tiny_images(8)
    torch.testing.assert_close(plan.run("float", images), tiny_resnet()(images))


def test_what_the_authors_code_does_not_quantize_is_reported_with_that_reason() -> None:
    network = Forward(
        lambda m, x: m.fc((F.silu(m.conv(x)) * m.conv(x)).mean((2, 3))), conv=nn.Conv2d(3, 3, 3), fc=nn.Linear(3, 2)
    )
    plan = prepare(network, tiny_images(), placement="xia2021")
    assert [q.name for q in plan.quantizers] == ["input", "conv", "conv_1", "fc"]
    reasons = {op.operation: op.reason for op in plan.float_operations}
    assert "authors' code" in reasons["silu"]
    assert "authors' code" in reasons["mul"]
    assert "authors' code" in reasons["mean"]


def test_a_second_convolution_of_the_trunk_is_no_projection_shortcut() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    assert prepare(randomise_batch_norms(network), tiny_images(), placement="xia2021").unfolded == ()


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`placement` must be one of 'graph', 'xia2021', 'modules'; got 'fx'"):
        prepare(tiny_resnet(), tiny_images(), placement="fx")  # type: ignore[arg-type]  # a wrong value is the point
