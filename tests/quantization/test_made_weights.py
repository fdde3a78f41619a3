"""Weights of a large network are made when a layer reads them: same numbers, one copy of the weights in memory."""

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

import qcal.quantization.made_weights as made_weights
from qcal.quantization import AdaRoundOptions, Plan, Setting, prepare
from qcal.quantization.made_weights import MadeWeight
from qcal.quantization.observers import _lanes
from qcal.robustness import run_study
from tests.quantization.networks import tiny_images, tiny_resnet
from tests.support.live_memory import LiveMemory

SETTINGS = ("float", "w8a8", "w4a4-mse", "w3a8-bc", "w4a8-cle", "w3a8-pt-cle", "w4a8-ada", "w4a8-pct99-full")
WIDTH, DEPTH = 192, 6


def _observed() -> Plan:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.adaround_options = AdaRoundOptions(iterations=20)
    plan.observe(tiny_images(32), equalized=True)
    return plan


def _linear() -> tuple[nn.Module, Tensor]:
    layers = [part for _ in range(DEPTH) for part in (nn.Linear(512, 512), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(512, 4)), torch.randn(16, 512)


def _convolutions() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = []
    for _ in range(DEPTH):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 4))
    return network, torch.randn(16, WIDTH, 3, 3)


def test_weights_that_are_made_give_the_logits_of_weights_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, images = _observed(), tiny_images(8, seed=5)
    expected = kept.run_grid(SETTINGS, images)
    monkeypatch.setattr(made_weights, "CACHE_BYTES", 0)
    plan = _observed()
    assert sum(isinstance(module, MadeWeight) for module in plan.network.modules()) == len(plan.layers)
    assert not any(isinstance(module, MadeWeight) for module in kept.network.modules())
    for setting, logits in plan.run_grid(SETTINGS, images).items():
        assert torch.equal(logits, expected[setting]), setting
    assert plan._identity == kept._identity
    assert plan.summary("w4a8") == kept.summary("w4a8")
    assert plan.sensitivity(images) == kept.sensitivity(images)
    assert torch.equal(plan.to("cpu").run("w8a8", images), expected[Setting.parse("w8a8")])


@pytest.mark.parametrize("make", [_linear, _convolutions])
def test_a_study_of_a_large_network_holds_one_copy_of_its_weights(
    make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    network, images = make()
    weights = sum(parameter.nbytes for parameter in network.parameters())
    largest = max(parameter.nbytes for parameter in network.parameters())
    monkeypatch.setattr(made_weights, "CACHE_BYTES", weights // 2)
    tables = [_lanes(torch.device("cpu"))]  # the same for every network
    before = copy.deepcopy(network.state_dict())
    batches = [(images, torch.arange(16) % 4)] * 2
    settings = [Setting.parse(text) for text in ("w8a8", "w6a8", "w4a8", "w3a8")]
    with LiveMemory(largest // 2, [*network.state_dict().values(), *tables]) as memory:
        study = run_study(network, settings, data=batches, range_estimation=batches)
    assert list(study.compared.settings) == ["w8a8", "w6a8", "w4a8", "w3a8"]
    # The float baseline's copy; of one layer its float weight (with batch norm folded), the same laid out for the
    # device or rounded, and what rounding needs on its way.
    assert weights <= memory.peak <= weights + 3 * largest
    gc.collect()  # torch.export leaves cycles
    assert memory.now == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_network_of_exactly_the_budget_keeps_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(4, 2)
    monkeypatch.setattr(made_weights, "CACHE_BYTES", 4 * 10)
    assert not made_weights.is_large(network)
    monkeypatch.setattr(made_weights, "CACHE_BYTES", 4 * 10 - 1)
    assert made_weights.is_large(network)


def test_another_layout_is_given_to_what_is_made_and_not_to_the_source() -> None:
    source = torch.randn(4, 3, 3, 3)
    weight = MadeWeight(source, torch.full((4,), 0.5, dtype=torch.float64))
    weight.to(memory_format=torch.channels_last)
    assert weight.source.data_ptr() == source.data_ptr()
    assert weight().is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(weight(), source / 2)
    assert copy.deepcopy(weight).source.data_ptr() == source.data_ptr()
    weight.to(memory_format=torch.contiguous_format)
    assert weight().is_contiguous()
