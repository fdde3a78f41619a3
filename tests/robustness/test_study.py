"""A whole study of a small network: every logit from one reading of the data, and what was quantized beside it."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qcal.quantization import Setting, prepare
from qcal.robustness import run_study
from tests.quantization.networks import tiny_images, tiny_resnet

SETTINGS = [Setting.parse(text) for text in ("w8a8", "w4a4-mse-out", "w4afp-bc", "w4a8-cle", "w4a8-keep=first_last")]


def _batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    images = tiny_images(count, seed)
    return [(x, torch.arange(len(x)) % 5) for x in torch.split(images, 8)]


def test_each_setting_has_the_logits_of_a_plan() -> None:
    network, data, ranges = tiny_resnet(), _batches(20, seed=3), _batches(32, seed=4)
    study = run_study(network, SETTINGS, data=data, range_estimation=ranges)
    images = torch.cat([x for x, _ in data])
    plan = prepare(network, images)
    plan.observe(torch.cat([x for x, _ in ranges]), batch_size=8)
    assert list(study.quant_logits) == SETTINGS
    for setting, logits in study.quant_logits.items():
        torch.testing.assert_close(logits, plan.run(setting, images, batch_size=8), rtol=1e-4, atol=1e-4)
    assert torch.equal(study.target, torch.cat([y for _, y in data]))
    assert study.range_images == 32
    assert set(study.seconds) == {"prepare", "observe", "weights", "evaluate"}


def test_the_data_are_read_once_and_the_network_is_not_changed() -> None:
    network, data, ranges = tiny_resnet(), _batches(20, seed=3), _batches(32, seed=4)
    before, reads = copy.deepcopy(network.state_dict()), {"data": 0, "ranges": 0}

    def counted(name: str, batches: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            reads[name] += 1
            yield batch

    run_study(network, SETTINGS, data=counted("data", data), range_estimation=counted("ranges", ranges))
    assert reads == {"data": len(data), "ranges": len(ranges)}
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("placement", ["graph", "xia2021"])
def test_the_study_states_what_was_quantized(placement: str) -> None:
    study = run_study(
        tiny_resnet(),
        SETTINGS[:1],
        data=_batches(8, seed=3),
        range_estimation=_batches(8, seed=4),
        placement=placement,  # type: ignore[arg-type]  # str from parametrize
    )
    plan = prepare(tiny_resnet(), tiny_images(2), placement=placement)  # type: ignore[arg-type]  # as above
    assert study.placement == plan.describe_placement()
    assert study.placement["name"] == placement
    assert study.placement["layers"] == [layer.name for layer in plan.layers]
    assert bool(study.placement["unfolded"]) == (placement == "xia2021")


def test_settings_of_weights_alone_read_one_batch_of_the_training_images() -> None:
    ranges = iter(_batches(32, seed=4))
    study = run_study(tiny_resnet(), [Setting.parse("w4afp")], data=_batches(8, seed=3), range_estimation=ranges)
    assert study.range_images == 0
    assert len(list(ranges)) == 3
