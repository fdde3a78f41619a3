"""What a plan says of itself."""

import pytest
import torch
from torch import nn

from qcal.quantization import Plan, prepare
from qcal.quantization.operators import get_tensor
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


@pytest.fixture(scope="module")
def observed() -> Plan:
    """A plan of `tiny_resnet` that has seen 32 images."""
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(32))
    return plan


def test_a_batch_norm_that_stays_is_reported() -> None:
    network = Forward(lambda m, x: m.fc(m.norm(x)), norm=nn.BatchNorm1d(4), fc=nn.Linear(4, 2)).eval()
    plan = prepare(network, torch.randn(2, 4))
    assert [norm.name for norm in plan.unfolded] == ["norm"]
    assert "not folded: norm: no convolution" in plan.summary()


def test_the_summary_lists_every_quantizer_with_its_range(observed: Plan) -> None:
    lines = observed.summary().splitlines()
    assert lines[0].split() == ["activations", "of", "shape", "minimum", "maximum"]
    names = [line.split()[0] for line in lines[1:12]]
    assert names == [*(q.name for q in observed.quantizers[:-1]), "adaptive_avg_pool2d", "fc"]
    assert lines[10].startswith("adaptive_avg_pool2d (as layer2.add)  -")
    assert lines[11].startswith("fc (logits)")
    assert f"{observed.statistics['conv1'].maximum:.4g}" in lines[2]
    assert lines[20] == 'placement "graph": 10 activation quantizers, 7 layers with quantized weights'
    assert len(lines) == 21


def test_the_summary_lists_the_weights_of_every_layer_with_their_range(observed: Plan) -> None:
    lines = observed.summary("w4a6-fc:w8").splitlines()
    assert lines[12].split() == ["weights", "of", "shape", "minimum", "maximum", "bits"]
    rows = {row[0]: row[1:] for row in (line.split() for line in lines[13:20])}
    assert list(rows) == [layer.name for layer in observed.layers]
    weight = get_tensor(observed.network, observed.layers[0].target)
    assert rows["conv1"] == ["4x3x3x3", f"{weight.min():.4g}", f"{weight.max():.4g}", "4"]
    assert rows["fc"][-1] == "8"
    assert [line.split()[-1] for line in observed.summary("wfpa8").splitlines()[13:20]] == ["float"] * 7


def test_the_summary_of_a_setting_has_the_bits_of_every_quantizer(observed: Plan) -> None:
    header, *rows = [line.split() for line in observed.summary("w4a6").splitlines()[:12]]
    assert header[-1] == "bits"
    assert [row[-1] for row in rows] == ["6"] * 10 + ["float"]  # the logits stay in float
    assert [line.split()[-1] for line in observed.summary("w4a6-out").splitlines()[1:12]] == ["6"] * 11
    assert [line.split()[-1] for line in observed.summary("w4afp").splitlines()[1:12]] == ["float"] * 11


def test_ranges_are_dashes_before_anything_was_observed() -> None:
    lines = prepare(tiny_resnet(), tiny_images()).summary().splitlines()
    assert lines[1].split() == ["input", "3x8x8", "-", "-"]


def test_every_operation_in_float_is_listed_with_its_reason_and_the_placement_is_named() -> None:
    plan = prepare(tiny_resnet(), tiny_images(), placement="modules")
    lines = plan.summary().splitlines()
    assert 'placement "modules": 8 activation quantizers, 7 layers with quantized weights' in lines
    listed = [line for line in lines if line.startswith("in float: ")]
    assert listed == [f"in float: {op.name} ({op.operation}): {op.reason}" for op in plan.float_operations]
    assert len(listed) == 3
