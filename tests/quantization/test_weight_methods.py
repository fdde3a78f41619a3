"""Each weight method must buy accuracy where its paper says so; the figures are those of docs/quantization.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2

from benchmarks.weight_methods import Study, residual_study, small_mobilenet, spread_channels
from qcal.quantization.adaround import AdaRoundOptions
from tests.quantization.networks import randomise_batch_norms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def residual(data_dir: Path) -> Study:
    # A fiftieth of the published steps, each fifty times as large: as good here, see the docs.
    quick = AdaRoundOptions(iterations=200, learning_rate=0.05)
    return residual_study(data_dir / "xia2021_resnet20_cifar100.pt", data_dir, quick)


def _accuracies(threads: int) -> dict[str, list[float]]:
    """Accuracy of the depthwise network at each setting, for each seed, in a process with so many threads."""
    settings = ("--settings", "float", "w8a8-pt", "w8a8-pt-cle")
    command = [sys.executable, "-m", "benchmarks.weight_methods", "depthwise", "--threads", str(threads), *settings]
    patient = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # threads that spin take minutes on a busy machine
    output = subprocess.run(command, cwd=ROOT, env=patient, check=True, capture_output=True, text=True).stdout
    rows = (line.strip("|").split("|") for line in output.splitlines() if line.startswith("| `"))
    return {name.strip(" `"): [float(cell) / 100 for cell in cells[:-1]] for name, *cells in rows}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])  # sums are rounded otherwise, so that these are other training runs
def test_equalization_recovers_what_one_scale_a_tensor_costs(threads: int) -> None:
    accuracies = _accuracies(threads)
    columns = zip(*(accuracies[name] for name in ("float", "w8a8-pt", "w8a8-pt-cle")), strict=True)
    recovered = []
    for of_float, plain, equalized in columns:
        assert of_float > 0.75
        assert of_float - plain > 0.3  # a collapse; the docs have what was measured
        recovered.append((equalized - plain) / (of_float - plain))
    assert len(recovered) == 3
    assert min(recovered) > 0.9


def test_channels_are_spread_without_a_change_of_the_logits() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, images = randomise_batch_norms(small_mobilenet()).eval(), torch.randn(4, 3, 16, 16)
        assert isinstance(network, MobileNetV2)
        depthwise = network.get_submodule("features.2.conv.1.0")
        before, expected = _ranges(depthwise), network(images)
        spread_channels(network, 2.0)
    assert torch.equal(network(images), expected)
    factors = _ranges(depthwise) / before
    assert factors.max() / factors.min() == 128  # 10^2, to the nearest power of two


def _ranges(convolution: nn.Module) -> Tensor:
    assert isinstance(convolution, nn.Conv2d)
    return convolution.weight.detach().abs().amax((1, 2, 3))


@pytest.mark.slow
def test_bias_correction_and_adaround_each_beat_nearest_rounding_at_four_bits(residual: Study) -> None:
    nearest, corrected, learned = (residual.accuracy(name) for name in ("w4a8", "w4a8-bc", "w4a8-ada"))
    assert nearest == pytest.approx(0.5635, abs=0.01)
    assert corrected > nearest + 0.06
    assert learned > nearest + 0.07


@pytest.mark.slow
def test_bias_correction_repairs_a_scale_for_the_whole_tensor_too(residual: Study) -> None:
    assert residual.accuracy("w4a8-pt-bc") > residual.accuracy("w4a8-pt") + 0.15
