"""A batch is computed in portions that fit the caches; nobody can tell, except by the time."""

import math

import pytest
import torch
from torch import nn

from qcal.quantization import prepare
from qcal.quantization.portions import PORTION_BYTES, images_at_a_time
from tests.quantization.networks import TinyResNet, tiny_images, tiny_resnet


def test_the_stored_tensors_of_a_portion_take_the_stated_bytes_on_average() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    count = images_at_a_time(plan.network, plan.quantizers, plan.device)
    mean = sum(4 * math.prod(q.shape) for q in plan.quantizers) / len(plan.quantizers)
    assert count is not None
    assert PORTION_BYTES - mean < count * mean <= PORTION_BYTES


def test_an_image_larger_than_a_portion_is_computed_alone() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plan = prepare(network, torch.randn(2, 1, 1000, 1000))
    assert images_at_a_time(plan.network, plan.quantizers, plan.device) == 1


def test_a_portion_stores_twice_what_the_weights_take_because_it_reads_them_all() -> None:
    network = nn.Sequential(nn.Linear(100, 5000), nn.ReLU(), nn.Linear(5000, 2))
    plan = prepare(network, torch.randn(2, 100))
    with_weights = images_at_a_time(plan.network, plan.quantizers, plan.device)
    plan.network.register_buffer("table", torch.zeros(1 << 20))
    stored = sum(4 * math.prod(q.shape) for q in plan.quantizers)
    weights = 4 * (sum(p.numel() for p in network.parameters()) + (1 << 20))
    assert with_weights is not None
    assert with_weights * stored < 2 * weights
    assert images_at_a_time(plan.network, plan.quantizers, plan.device) == math.ceil(2 * weights / stored)


def test_an_accelerator_gets_the_whole_batch() -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    assert images_at_a_time(plan.network, plan.quantizers, torch.device("cuda")) is None


def test_a_network_that_normalises_by_its_batch_gets_the_whole_batch() -> None:
    network = TinyResNet()
    network.bn1 = nn.BatchNorm2d(4, track_running_stats=False)
    plan = prepare(network, tiny_images())
    assert images_at_a_time(plan.network, plan.quantizers, plan.device) is None
    with torch.no_grad():
        expected = network.eval()(tiny_images(5))
    assert torch.allclose(plan.float_logits(tiny_images(5)), expected, atol=1e-5)


@pytest.mark.parametrize("setting", ["float", "w8a8", "w4a4-out"])
def test_logits_do_not_depend_on_the_portions(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_images(11)
    logits = []
    for count in (None, 4, 1):
        monkeypatch.setattr("qcal.quantization.engines.images_at_a_time", lambda *_, count=count: count)
        plan = prepare(tiny_resnet(), images)
        plan.observe(images)
        logits.append(plan.run(setting, images))
    for other in logits[1:]:
        assert torch.allclose(other, logits[0], rtol=0, atol=1e-5 * logits[0].abs().max().item())


def test_the_quantizers_see_portions_and_the_graph_is_float_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcal.quantization.engines.images_at_a_time", lambda *_: 4)
    images = tiny_images(11)
    plan = prepare(tiny_resnet(), images)
    plan.observe(images)
    seen: list[int] = []
    hook = plan.quantizers[0].register_forward_hook(lambda _, args, __: seen.append(len(args[0])))
    plan.run_batch(["w8a8"], images)
    hook.remove()
    assert seen == [4, 4, 3]
    assert all(quantizer.grid is None for quantizer in plan.quantizers)
