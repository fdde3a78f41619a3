"""Settings come and go in one network, each made once, and leave it as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import qcal.quantization.engines as engines
from qcal.quantization import Plan, prepare
from qcal.quantization.operators import get_tensor
from tests.quantization.networks import tiny_images, tiny_resnet


@pytest.fixture(scope="module")
def observed() -> Plan:
    """A plan of `tiny_resnet` that has seen 32 images."""
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images(32))
    return plan


def test_settings_leave_no_trace_in_one_another(observed: Plan) -> None:
    images = tiny_images(8, seed=2)
    before = observed.float_logits(images)
    first = observed.run("w2a2-mse-full-out", images)
    observed.run("w8a8", images)
    assert torch.equal(observed.float_logits(images), before)
    assert torch.equal(observed.run("w2a2-mse-full-out", images), first)


def test_a_failure_in_the_middle_restores_the_float_network(observed: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tiny_images(8, seed=2)
    before = observed.float_logits(images)
    graph = observed.network
    weights = {layer.target: get_tensor(graph, layer.target).clone() for layer in observed.layers}

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("lightning strikes")

    with monkeypatch.context() as patch:
        patch.setattr(observed.quantizers[-1], "forward", fail)
        with pytest.raises(RuntimeError, match="lightning strikes"):
            observed.run("w2a2", images)
    for target, weight in weights.items():
        assert torch.equal(get_tensor(graph, target), weight)
    assert all(quantizer.grid is None for quantizer in observed.quantizers)
    assert torch.equal(observed.float_logits(images), before)


def test_a_setting_is_prepared_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.observe(tiny_images())
    calls: list[str] = []
    for name in ("quantize_weight", "activation_grid"):
        original = getattr(engines, name)

        def counted(*args: Any, _name: str = name, _original: Callable[..., Any] = original, **kwargs: Any) -> Any:
            calls.append(_name)  # Any: passes everything on
            return _original(*args, **kwargs)

        monkeypatch.setattr(engines, name, counted)
    plan.run("w4a8", tiny_images(12), batch_size=3)
    assert calls.count("quantize_weight") == len(plan.layers)
    assert calls.count("activation_grid") == len(plan.quantizers) - 1  # the logits stay in float
    plan.run("w4a8-mse", tiny_images(4))
    assert calls.count("quantize_weight") == len(plan.layers)
    plan.observe(tiny_images(seed=9))
    plan.run("w4a8", tiny_images(4))
    assert calls.count("quantize_weight") == len(plan.layers)
    assert calls.count("activation_grid") == 3 * (len(plan.quantizers) - 1)


def test_the_cache_of_quantized_weights_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = prepare(tiny_resnet(), tiny_images())
    images = tiny_images(4)
    expected = [plan.run(f"w{bits}afp", images) for bits in (8, 6, 4, 2)]
    assert len(plan._variants.plain.simulator._weights) == 4 * len(plan.layers)
    monkeypatch.setattr(engines, "CACHE_BYTES", 0)
    for bits, logits in zip((8, 6, 4, 2), expected, strict=True):
        assert torch.equal(plan.run(f"w{bits}afp", images), logits)
    plan.run("w3afp", images)
    assert len(plan._variants.plain.simulator._weights) == 1
