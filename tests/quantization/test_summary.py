"""What a plan says of itself."""

import pytest
import torch
from torch import nn

from qcal.quantization import Plan, prepare
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
    assert lines[0].split() == ["quantizer", "shape", "minimum", "maximum"]
    assert [line.split()[0] for line in lines[1:11]] == [quantizer.name for quantizer in observed.quantizers]
    assert lines[10].startswith("fc (logits)")
    assert f"{observed.statistics['conv1'].maximum:.4g}" in lines[2]
    assert lines[11] == "10 activation quantizers, 7 layers with quantized weights"
    assert lines[12].startswith("in float: adaptive_avg_pool2d")
