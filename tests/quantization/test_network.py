"""Weight methods through a plan: made once, from the images it kept, and what they made is what runs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import qcal.quantization.network as network_module
from qcal.quantization import AdaRoundOptions, Plan, Setting, prepare
from qcal.quantization.adaround import adaround
from qcal.quantization.bias_correction import corrected_biases
from qcal.quantization.network import graph_of
from qcal.quantization.operators import bound
from qcal.quantization.resolve import resolve
from tests.quantization.networks import tiny_images, tiny_resnet

QUICK = AdaRoundOptions(iterations=20, learning_rate=0.1)


def _plan(seed: int = 1, sample_size: int = 1024) -> Plan:
    plan = prepare(tiny_resnet(), tiny_images())
    plan.adaround_options = QUICK
    plan.observe(tiny_images(48, seed), equalized=True, sample_size=sample_size)
    return plan


def test_a_plan_runs_what_the_methods_make_of_its_sample() -> None:
    plan, images = _plan(), tiny_images(8, seed=5)
    graph, placement = graph_of(plan.network), plan._variants.plain.placement
    specs = resolve(Setting.parse("w3afp"), placement).weights
    sample = tiny_images(48).contiguous(memory_format=plan.image_layout)
    rounded = adaround(graph, placement, specs, sample, options=QUICK)
    biases = corrected_biases(graph, placement, rounded, [sample])
    for setting, tensors in {"w3afp-ada": rounded, "w3afp-ada-bc": {**rounded, **biases}}.items():
        logits = plan.run(setting, images)
        with bound(graph, tensors), torch.no_grad():
            torch.testing.assert_close(logits, graph(images), rtol=1e-5, atol=1e-5)
    assert not torch.equal(plan.run("w3afp-ada", images), plan.run("w3afp", images))


def _counted(function: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:  # Any: passes all on
    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return function(*args, **kwargs)

    return counted


def test_a_method_runs_once_for_all_settings_that_share_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("adaround", "corrected_biases"):
        monkeypatch.setattr(network_module, name, _counted(getattr(network_module, name), name, calls))
    plan = _plan()
    plan.run_grid(["w3afp-ada", "w3a8-ada", "w3a4-ada-mse", "w3a8-ada-bc", "w3a4-ada-bc", "w3a8-bc"], tiny_images(8))
    plan.run("w3a8-ada-bc", tiny_images(4))
    assert (calls.count("adaround"), calls.count("corrected_biases")) == (1, 2)
    plan.observe(tiny_images(48, seed=9))  # other images teach anew
    plan.run("w3afp-ada", tiny_images(4))
    assert calls.count("adaround") == 2


def test_being_made_ready_tells_how_far_it_is() -> None:
    plan, seen = _plan(), []
    plan.make_ready(["w3afp-ada", "w3a8"], progress=lambda *step: seen.append(step))
    assert seen == [("adaround", done, len(plan.layers)) for done in range(1, len(plan.layers) + 1)]


def test_methods_need_kept_images() -> None:
    plan = _plan(sample_size=0)
    with pytest.raises(ValueError, match=r"`adaround` looks at images, got none\. Call `plan\.observe"):
        plan.run("w4a8-ada", tiny_images(4))
