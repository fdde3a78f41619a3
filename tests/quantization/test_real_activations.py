"""Ranges of every stored tensor of ResNet20 (trained weights, CIFAR-100 images) beside those of torch's observers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver, ObserverBase

from qcal.models.cifar_resnet import CifarResNet
from qcal.models.weights import load_weights
from qcal.quantization import prepare
from qcal.quantization.observers import RangeObserver
from qcal.quantization.quantizer import Grid
from qcal.quantization.ranges import activation_grid
from qcal.quantization.setting import ActivationRange
from qcal.quantization.specs import ActivationSpec
from tests.quantization.distributions import mse, seen

BATCH = 32
METHODS: tuple[ActivationRange, ...] = ("minmax", "percentile", "mse", "entropy")  # that ignore how batches were cut


@pytest.fixture(scope="module")
def stored(data_dir: Path) -> dict[str, tuple[RangeObserver, list[Tensor]]]:
    """What each quantizer observed of two batches, and what passed it: a tensor a batch, averages after those."""
    network = CifarResNet(depth=20, num_classes=100)
    load_weights(network, data_dir / "xia2021_resnet20_cifar100.pt")
    images = torch.from_numpy(np.load(data_dir / "cifar100_train_0.npz")["x"][: 2 * BATCH]).permute(0, 3, 1, 2)
    images = images.float().div(255).sub(0.48).div(0.27)
    plan = prepare(network.eval(), images)
    passed: dict[str, list[Tensor]] = {quantizer.name: [] for quantizer in plan.quantizers}
    for quantizer in plan.quantizers:
        quantizer.register_forward_pre_hook(lambda module, inputs: passed[module.name].append(inputs[0].clone()))
    plan.observe(images, batch_size=BATCH)
    return {name: (plan.statistics[name], parts) for name, parts in passed.items()}


def _numbers(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _theirs(make: Callable[..., ObserverBase], parts: list[Tensor]) -> Grid:
    observer = make(dtype=torch.quint8, quant_min=0, quant_max=255)
    for part in parts:
        observer(part)
    scale, zero_point = observer.calculate_qparams()  # type: ignore[no-untyped-call]  # torch's
    return Grid(scale.item(), int(zero_point), 0, 255)


def test_every_stored_tensor_is_compared(stored: dict[str, tuple[RangeObserver, list[Tensor]]]) -> None:
    # The image, 19 convolutions and 2 more in shortcuts, 9 additions, the logits.
    assert len(stored) == 32


def test_a_saved_observer_of_real_activations_gives_the_same_grids(
    stored: dict[str, tuple[RangeObserver, list[Tensor]]],
) -> None:
    for observer, x in stored.values():
        restored = RangeObserver.from_state_dict(observer.state_dict())
        whole = seen(_numbers(x))
        for method in METHODS:
            spec = ActivationSpec(4, method)
            assert activation_grid(restored, spec) == activation_grid(observer, spec) == activation_grid(whole, spec)


@pytest.mark.parametrize(
    ("method", "make"), [("minmax", MinMaxObserver), ("moving_average", MovingAverageMinMaxObserver)]
)
def test_grids_of_extremes_are_those_of_torchs_observers(
    stored: dict[str, tuple[RangeObserver, list[Tensor]]], method: ActivationRange, make: Callable[..., ObserverBase]
) -> None:
    for observer, x in stored.values():
        ours = activation_grid(observer, ActivationSpec(8, method))
        theirs = _theirs(make, x)
        assert ours.scale == pytest.approx(theirs.scale, rel=3e-7)  # theirs computes in float32
        assert ours.zero_point == theirs.zero_point


def test_at_eight_bits_the_error_is_at_most_that_of_torchs_histogram_observer(
    stored: dict[str, tuple[RangeObserver, list[Tensor]]],
) -> None:
    for observer, x in stored.values():
        ours, theirs = activation_grid(observer, ActivationSpec(8, "mse")), _theirs(HistogramObserver, x)
        assert mse(_numbers(x), ours) <= 1.001 * mse(_numbers(x), theirs)
