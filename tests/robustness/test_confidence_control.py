import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from qcal.models import CifarResNet, load_weights
from qcal.quantization import Setting
from qcal.robustness.confidence_control import (
    APPLIED,
    ControlPoint,
    TemperatureControl,
    control_answer,
    temperature_control,
)
from qcal.robustness.study import run_study
from qcal.robustness.temperature_fold import find_last_layer, fold_temperature
from tests.quantization.paper_network import normalised

Batch = tuple[Tensor, Tensor]

FLOAT_HEAD, SCALED_HEAD, QUANTIZED_OUTPUT = "w3a4-keep=last", "w3a4", "w3a4-mse-out"
GRID = [FLOAT_HEAD, SCALED_HEAD, QUANTIZED_OUTPUT]


@pytest.fixture(scope="module")
def batches() -> tuple[list[Batch], list[Batch]]:
    """Noisy handwritten digits: 1,200 to train on and 597 to compare on."""
    bunch = load_digits()
    generator = torch.Generator().manual_seed(0)
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    images = images + 0.35 * torch.randn(images.shape, generator=generator)
    target = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(target), generator=generator)
    train, test = (
        list(zip(torch.split(images[part], 64), torch.split(target[part], 64), strict=True))
        for part in torch.split(order, 1200)
    )
    return train, test


def trained(batches: list[Batch], *, temperature: float) -> nn.Sequential:
    """A small network, trained by cross-entropy of its logits divided by a temperature."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(10):
            for images, target in batches:
                optimizer.zero_grad()
                F.cross_entropy(network(images) / temperature, target).backward()  # type: ignore[no-untyped-call]  # torch's own
                optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def network(batches: tuple[list[Batch], list[Batch]]) -> nn.Sequential:
    return trained(batches[0], temperature=1.0)


@pytest.fixture(scope="module")
def control(batches: tuple[list[Batch], list[Batch]], network: nn.Sequential) -> TemperatureControl:
    return temperature_control(
        network,
        GRID,
        data=batches[1],
        range_estimation=batches[0][:4],
        temperatures=(0.5, 1.0, 1.7, 2.0),
        trained={"trained at T = 0.3": trained(batches[0], temperature=0.3)},
    )


def points(control: TemperatureControl, setting: str, *, network: str = APPLIED) -> list[ControlPoint]:
    return [point for point in control.points if (point.network, point.setting) == (network, setting)]


def test_confidence_falls_as_the_temperature_rises_in_float_and_quantized(control: TemperatureControl) -> None:
    for setting in GRID:
        at = points(control, setting)
        assert [point.temperature for point in at] == [0.5, 1.0, 1.7, 2.0]
        for figure in ("float_confidence", "mean_confidence", "float_overconfidence", "overconfidence"):
            values = [getattr(point, figure) for point in at]
            assert values == sorted(values, reverse=True)
            assert values[0] - values[-1] > 0.2


@pytest.mark.parametrize("setting", [FLOAT_HEAD, SCALED_HEAD])
def test_with_a_head_in_float_or_scaled_with_its_weights_no_prediction_moves(
    control: TemperatureControl, setting: str
) -> None:
    at = points(control, setting)
    assert at[0].swap_rate > 0.05  # there are swaps that could have moved
    assert len({(point.swap_rate, point.accuracy, point.ties) for point in at}) == 1
    assert [point.moved for point in at] == [0, 0, 0, 0]


def test_with_a_quantized_output_powers_of_two_move_nothing_and_others_only_ties(control: TemperatureControl) -> None:
    """A logit half-way between two levels may be rounded to the other when 1.7 rounds differently in float32."""
    at = {point.temperature: point for point in points(control, QUANTIZED_OUTPUT)}
    assert at[1.0].ties > 0.05
    assert at[0.5].moved == at[2.0].moved == 0
    assert at[1.7].moved is not None
    assert at[1.7].moved <= 3
    assert at[1.7].moved_at_tie == at[1.7].moved


def test_a_trained_in_temperature_moves_confidence_and_swaps(control: TemperatureControl) -> None:
    (other,) = points(control, SCALED_HEAD, network="trained at T = 0.3")
    base = points(control, SCALED_HEAD)[1]
    assert (other.temperature, other.moved, other.moved_at_tie) == (1.0, None, None)
    assert abs(other.float_confidence - base.float_confidence) > 0.02
    assert abs(other.swap_rate - base.swap_rate) > 0.02


def test_figures_at_1_are_those_of_a_study_of_the_network(
    control: TemperatureControl, network: nn.Sequential, batches: tuple[list[Batch], list[Batch]]
) -> None:
    setting = Setting.parse(SCALED_HEAD)
    study = run_study(network, [setting], data=batches[1], range_estimation=batches[0][:4]).compared
    before, after = study.float.argmax(dim=1), study.settings[SCALED_HEAD].argmax(dim=1)
    point = points(control, SCALED_HEAD)[1]
    assert point.swap_rate == pytest.approx((before != after).double().mean().item())
    assert point.accuracy == pytest.approx((after == study.target).double().mean().item())
    confidence = study.settings[SCALED_HEAD].softmax(dim=1).amax(dim=1).mean().item()
    assert point.mean_confidence == pytest.approx(confidence, abs=1e-6)
    assert point.overconfidence == pytest.approx(point.mean_confidence - point.accuracy)
    assert (control.last_layer, control.num_images) == ("8", 597)


def test_the_answer_says_what_moved(control: TemperatureControl) -> None:
    answer = control_answer(control)
    moved = sum(point.moved or 0 for point in control.points)
    assert f"and {moved} of 5,373 predictions" in answer  # three temperatures, three settings
    (other,) = points(control, SCALED_HEAD, network="trained at T = 0.3")
    assert (
        f"swaps {100 * points(control, FLOAT_HEAD, network=other.network)[0].swap_rate:.1f} % at {FLOAT_HEAD}" in answer
    )
    assert f"at T = 1, {100 * points(control, FLOAT_HEAD)[1].swap_rate:.1f} % swap at {FLOAT_HEAD}, " in answer
    json.dumps(asdict(control), allow_nan=False)


def test_the_network_is_not_changed(network: nn.Sequential, batches: tuple[list[Batch], list[Batch]]) -> None:
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = fold_temperature(network, 2.0, batches[0][0][0][:2], layer="8")
    assert network.training
    assert not folded.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.eval()


@pytest.mark.parametrize("temperature", [0.25, 3.0])
def test_folded_logits_are_the_logits_divided(network: nn.Sequential, temperature: float) -> None:
    images = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    folded = fold_temperature(network, temperature, images, layer="8")
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images) / temperature)


def test_the_last_layer_is_found_before_pooling_and_without_a_bias() -> None:
    head = nn.Sequential(nn.Conv2d(3, 5, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network, images = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), head), torch.randn(2, 1, 8, 8)
    layer = find_last_layer(network, images)
    assert layer == "2.0"
    with torch.no_grad():
        torch.testing.assert_close(fold_temperature(network, 3.0, images, layer=layer)(images), network(images) / 3)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("0", r"`layer` must scale the logits, got '0': divided by 2, it leaves logits that are off by"),
        ("9", r"`layer` must name a module of the network, got '9'\. Choose one of"),
        ("7", r"`layer` must have a weight, got '7', a Flatten\. Name the last linear layer"),
    ],
)
def test_layers_that_do_not_make_the_logits_are_refused(network: nn.Sequential, layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fold_temperature(network, 2.0, torch.ones(2, 1, 8, 8), layer=layer)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_that_are_not_positive_are_refused(network: nn.Sequential, temperature: float) -> None:
    with pytest.raises(ValueError, match="`temperature` must be positive and finite"):
        fold_temperature(network, temperature, torch.ones(2, 1, 8, 8), layer="8")


def test_what_cannot_be_compared_is_refused(network: nn.Sequential, batches: tuple[list[Batch], list[Batch]]) -> None:
    data = batches[1][:1]

    def run(**changed: object) -> TemperatureControl:
        arguments = {"data": data, "range_estimation": data, **changed}
        return temperature_control(network, "w4afp", **arguments)  # type: ignore[arg-type]  # wrong ones among them

    with pytest.raises(ValueError, match=r"`temperatures` must hold 1, .* got \[0\.5, 2\.0\]\. Add 1\.0"):
        run(temperatures=[0.5, 2.0])
    with pytest.raises(ValueError, match="`data` must be readable once for every network, got list_iterator"):
        run(data=iter(data))
    with pytest.raises(ValueError, match="must not name a network 'applied after training'"):
        run(trained={APPLIED: network})
    with pytest.raises(ValueError, match="`range_estimation` gave no batch"):
        run(range_estimation=[])


def test_data_in_another_order_each_time_is_refused(
    network: nn.Sequential, batches: tuple[list[Batch], list[Batch]]
) -> None:
    class Shuffled:
        def __init__(self) -> None:
            self.read = 0

        def __iter__(self) -> Iterator[Batch]:
            self.read += 1
            yield from batches[1][: self.read]

    with pytest.raises(
        ValueError, match="`data` must give the same images in the same order each time, got other labels"
    ):
        temperature_control(network, ["w4afp"], data=Shuffled(), range_estimation=batches[0][:1])


@pytest.mark.slow
def test_temperatures_move_no_swap_of_the_papers_resnet20(data_dir: Path) -> None:
    network = CifarResNet(depth=20, num_classes=100)
    load_weights(network, data_dir / "xia2021_resnet20_cifar100.pt")
    images = normalised(data_dir / "cifar100_test.npz", 500)
    with np.load(data_dir / "cifar100_test.npz") as arrays:
        target = torch.from_numpy(arrays["y"][:500].astype(np.int64))
    ranges = normalised(data_dir / "cifar100_train_0.npz", 256)
    control = temperature_control(
        network,
        ["w4a8-keep=last", "w4a8", "w4a8-out"],
        data=[(images, target)],
        range_estimation=[(ranges, torch.zeros(256, dtype=torch.int64))],
    )
    assert control.last_layer == "fc"
    assert [point.moved for point in control.points] == [0] * 9
    assert all(point.swap_rate > 0.2 for point in control.points)
    for setting in ("w4a8-keep=last", "w4a8", "w4a8-out"):
        confidence = [point.mean_confidence for point in points(control, setting)]
        assert confidence[0] - confidence[-1] > 0.3
