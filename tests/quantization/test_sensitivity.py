"""The ranking of layers against quantizing them one at a time by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from qcal.quantization import Plan, Sensitivity, Setting, prepare
from tests.quantization.networks import tiny_images, tiny_resnet


@pytest.fixture(scope="module")
def plan() -> Plan:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(64))
    return plan


def _by_hand(plan: Plan, setting: str, images: Tensor) -> tuple[float, float]:
    z, zq = plan.run("float", images).double(), plan.run(setting, images).double()
    centred, e = z - z.mean(1, keepdim=True), (zq - z) - (zq - z).mean(1, keepdim=True)
    sqnr = 10 * math.log10(float((centred**2).sum() / (e**2).sum()))
    return sqnr, float((z.argmax(1) != zq.argmax(1)).double().mean())


def test_each_row_is_that_layer_or_tensor_quantized_alone(plan: Plan) -> None:
    images = tiny_images(40, seed=3)
    rows = plan.sensitivity(images, setting="w3a4-mse", batch_size=16)
    assert {row.name for row in rows if row.part == "weights"} == {layer.name for layer in plan.layers}
    # The logits stay in float at this setting, so their quantizer has no row.
    assert {row.name for row in rows if row.part == "activations"} == {q.name for q in plan.quantizers} - {"fc"}
    for row in rows:
        alone = f"wfpafp-{row.name}:w3" if row.part == "weights" else f"wfpafp-mse-{row.name}:a4"
        sqnr_db, swap_rate = _by_hand(plan, alone, images)
        assert row.bits == (3 if row.part == "weights" else 4)
        assert row.sqnr_db == pytest.approx(sqnr_db, rel=1e-4)
        assert row.swap_rate == pytest.approx(swap_rate, abs=1e-12)


def test_the_noisiest_comes_first(plan: Plan) -> None:
    rows = plan.sensitivity(tiny_images(40, seed=3), setting="w3a4")
    assert [row.sqnr_db for row in rows] == sorted(row.sqnr_db for row in rows)


def test_a_layer_made_fragile_on_purpose_leads_the_ranking() -> None:
    first, fragile = nn.Linear(8, 8), nn.Linear(8, 8)
    network = nn.Sequential(first, nn.ReLU(), fragile, nn.ReLU(), nn.Linear(8, 4))
    with torch.no_grad():
        # A huge weight in each row takes the whole grid, so that the others round to zero; its input is always 0.
        first.bias[0] = -1000.0
        fragile.weight[:, 0] = 100.0
    images = torch.randn(64, 8)
    plan = prepare(network, images)
    worst = plan.sensitivity(images, setting="w4afp")[0]
    assert (worst.name, worst.part, worst.bits) == ("2", "weights", 4)


def test_the_network_is_float_again_afterwards(plan: Plan) -> None:
    images = tiny_images(8, seed=4)
    before = plan.float_logits(images)
    plan.sensitivity(images)
    assert torch.equal(plan.float_logits(images), before)


def test_nothing_changed_is_infinite_signal_to_noise() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
    images = torch.randn(5, 2)
    (row,) = prepare(nn.Sequential(layer), images).sensitivity(images, setting="w2afp")
    assert row == Sensitivity("0", "weights", 2, math.inf, 0.0)


def test_a_setting_of_nothing_and_methods_of_all_layers_are_refused(plan: Plan) -> None:
    with pytest.raises(ValueError, match="`setting` must quantize something, got `wfpafp`"):
        plan.sensitivity(tiny_images(4), setting=Setting(None, None))
    with pytest.raises(ValueError, match="without bias correction, got `w4a8-bc`"):
        plan.sensitivity(tiny_images(4), setting="w4a8-bc")
