"""Each weight method must buy accuracy where its paper says so; the figures are those of docs/quantization.md."""

from pathlib import Path

import pytest

from benchmarks.weight_methods import Study, depthwise_study, residual_study
from qcal.quantization.adaround import AdaRoundOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def residual(data_dir: Path) -> Study:
    # A fiftieth of the published steps, each fifty times as large: as good here, see the docs.
    quick = AdaRoundOptions(iterations=200, learning_rate=0.05)
    return residual_study(data_dir / "xia2021_resnet20_cifar100.pt", data_dir, quick)


@pytest.fixture(scope="module")
def depthwise() -> Study:
    return depthwise_study()


def test_equalization_recovers_what_one_scale_a_tensor_costs_at_six_bits(depthwise: Study) -> None:
    of_float, plain, equalized = (depthwise.accuracy(name) for name in ("float", "w6a8-pt", "w6a8-pt-cle"))
    assert of_float > 0.75
    assert of_float - plain > 0.3  # measured: 71.5 points with one thread, 52.1 with two
    assert of_float - equalized < 0.1 * (of_float - plain)


def test_equalization_leaves_nothing_to_lose_at_eight_bits(depthwise: Study) -> None:
    # What one scale costs at 8 bits hangs on the training run (9.0 points with one thread, 1.3 with two), so it is not
    # asserted; what is left after equalization was 0.3 points of 597 images at most.
    of_float, plain, equalized = (depthwise.accuracy(name) for name in ("float", "w8a8-pt", "w8a8-pt-cle"))
    assert equalized > of_float - 0.015
    assert equalized > plain - 0.015


def test_bias_correction_and_adaround_each_beat_nearest_rounding_at_four_bits(residual: Study) -> None:
    nearest, corrected, learned = (residual.accuracy(name) for name in ("w4a8", "w4a8-bc", "w4a8-ada"))
    assert nearest == pytest.approx(0.5635, abs=0.01)
    assert corrected > nearest + 0.06
    assert learned > nearest + 0.07


def test_bias_correction_repairs_a_scale_for_the_whole_tensor_too(residual: Study) -> None:
    assert residual.accuracy("w4a8-pt-bc") > residual.accuracy("w4a8-pt") + 0.15
