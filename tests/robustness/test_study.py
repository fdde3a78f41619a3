"""A whole study of a small network: every logit from one reading of the data, and what was quantized beside it."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcal.quantization import Plan, Setting, prepare
from qcal.robustness import Baseline, prepare_grid, run_study
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
    plan.observe(torch.cat([x for x, _ in ranges]), equalized=True, batch_size=8)
    assert list(study.compared.settings) == [str(setting) for setting in SETTINGS]
    for setting, logits in study.compared.settings.items():
        torch.testing.assert_close(logits, plan.run(setting, images, batch_size=8), rtol=1e-4, atol=1e-4)
    assert torch.equal(study.compared.target, torch.cat([y for _, y in data]))
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


def test_logits_for_recalibration_are_those_of_their_images() -> None:
    data, ranges, aside = _batches(8, seed=3), _batches(16, seed=4), _batches(12, seed=5)
    study = run_study(tiny_resnet(), SETTINGS[:1], data=data, range_estimation=ranges, recalibration=aside)
    other = run_study(tiny_resnet(), SETTINGS[:1], data=aside, range_estimation=ranges)
    assert study.recalibration is not None
    assert len(study.compared) == 8
    assert torch.equal(study.recalibration.float, other.compared.float)
    assert torch.equal(study.recalibration.settings["w8a8"], other.compared.settings["w8a8"])


def test_what_was_measured_before_a_failure_stays() -> None:
    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield from _batches(16, seed=3)
        raise OSError("the disk went away")

    grid = prepare_grid(tiny_resnet(), SETTINGS, range_estimation=_batches(8, seed=4))
    logits = grid.evaluate(broken()).logits()
    whole = run_study(tiny_resnet(), SETTINGS, data=_batches(16, seed=3), range_estimation=_batches(8, seed=4))
    assert grid.errors == {"evaluate": "the disk went away"}
    assert len(logits) == 16
    assert list(logits.settings) == [str(setting) for setting in SETTINGS]
    assert torch.equal(logits.float, whole.compared.float)


def test_a_setting_that_fails_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = prepare_grid(tiny_resnet(), SETTINGS, range_estimation=_batches(8, seed=4))
    run_batch: Callable[..., object] = grid.plan.run_batch
    calls = 0

    def fails_later(settings: list[Setting], images: Tensor) -> object:
        nonlocal calls
        calls += 1
        if SETTINGS[1] in settings and calls > 1:
            raise ValueError("no finite logits")
        return run_batch(settings, images)

    monkeypatch.setattr(grid.plan, "run_batch", fails_later)
    logits = grid.evaluate(_batches(24, seed=3)).logits()
    assert grid.errors == {str(SETTINGS[1]): "no finite logits"}
    assert len(logits) == 24
    assert list(logits.settings) == [str(setting) for setting in SETTINGS if setting != SETTINGS[1]]
    with pytest.raises(ValueError, match="no finite logits"):
        grid.raise_errors()


def test_memory_that_runs_out_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_resnet()
    whole = run_study(network, SETTINGS, data=_batches(20, seed=3), range_estimation=_batches(20, seed=4))
    grid = prepare_grid(copy.deepcopy(network), SETTINGS, range_estimation=_batches(20, seed=4))
    conv, largest = nn.Conv2d.forward, 3
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: conv(self, x) if len(x) <= largest else _no_memory())
    logits = grid.evaluate(_batches(20, seed=3)).logits()
    assert grid.largest_piece == 2
    assert not grid.errors
    torch.testing.assert_close(logits.float, whole.compared.float)
    assert torch.equal(logits.target, whole.compared.target)


def test_ranges_are_observed_in_smaller_pieces_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = prepare_grid(tiny_resnet(), SETTINGS[:1], range_estimation=_batches(20, seed=4))
    observe = Plan.observe
    sizes = []

    def fits_four(self: Plan, images: Iterator[Tensor], *, batch_size: int, **kwargs: Any) -> None:
        sizes.append(batch_size)
        if batch_size > 4:
            next(iter(images))
            raise torch.OutOfMemoryError("CUDA out of memory")
        observe(self, images, batch_size=batch_size, **kwargs)

    monkeypatch.setattr(Plan, "observe", fits_four)
    grid = prepare_grid(tiny_resnet(), SETTINGS[:1], range_estimation=_batches(20, seed=4))
    assert sizes == [256, 4]
    assert grid.range_images == 20
    for name, observer in grid.plan.statistics.items():
        torch.testing.assert_close(observer.minimum, plain.plan.statistics[name].minimum)


def test_the_baseline_is_the_network_in_the_precision_it_was_trained_in() -> None:
    network = tiny_resnet()
    grid = prepare_grid(copy.deepcopy(network), SETTINGS[:1], range_estimation=_batches(8, seed=4))
    half = Baseline(copy.deepcopy(network).bfloat16().eval(), torch.bfloat16, nullcontext)
    logits = grid.evaluate(_batches(8, seed=3), baseline=half).logits()
    plain = grid.evaluate(_batches(8, seed=3)).logits()
    with torch.no_grad():
        expected = half.network(_batches(8, seed=3)[0][0].bfloat16()).float()
    assert torch.equal(logits.float, expected)
    assert logits.float32 is not None
    assert torch.equal(logits.float32, plain.float)
    assert plain.float32 is None
    assert not torch.equal(logits.float, plain.float)


def _no_memory() -> Tensor:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
