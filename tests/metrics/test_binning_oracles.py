"""`convention=` beside the packages whose binning it reproduces."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qcal.functional.calibration import calibration_error, reliability_bins
from qcal.functional.confidence import confidence_from_probs
from qcal.metrics import ExpectedCalibrationError, MaximumCalibrationError, RMSCalibrationError, ScoreMetric
from tests.functional.score_cases import random_logits

pytestmark = pytest.mark.oracle

KINDS = {"l1": ExpectedCalibrationError, "max": MaximumCalibrationError, "l2": RMSCalibrationError}


def _probs(dtype: torch.dtype, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Probabilities `(N, C)` of which many top ones lie on edges of 4, 10 and 15 bins, at 1, or just beside."""
    logits, target = random_logits(600, num_classes)
    probs = torch.softmax(logits.double(), dim=1)
    edges = torch.cat([torch.arange(int(bins * 0.5) + 1, bins + 1) / bins for bins in (4, 10, 15)]).double()
    for row, edge in enumerate(edges.repeat(6)):
        probs[row, 0] = edge
        probs[row, 1:] = (1 - edge) / (num_classes - 1)
    return probs.to(dtype), target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [4, 10, 15, 20])
@pytest.mark.parametrize("norm", ["l1", "max", "l2"])
def test_torchmetrics_binning(dtype: torch.dtype, num_bins: int, norm: str) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, target = _probs(dtype)
    theirs = multiclass_calibration_error(probs, target, num_classes=4, n_bins=num_bins, norm=norm)  # type: ignore[arg-type]  # a plain str
    kind: Callable[..., ScoreMetric] = KINDS[norm]
    ours = kind(num_bins=num_bins, convention="torchmetrics", inputs="probs")
    ours.update(probs, target)
    assert ours.compute().item() == pytest.approx(theirs.item(), abs=2e-6)  # they add up in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [4, 10, 15])
def test_torchmetrics_bins_hold_the_same_samples(dtype: torch.dtype, num_bins: int) -> None:
    probs, target = _probs(dtype)
    confidence, prediction = confidence_from_probs(probs)
    edges = torch.linspace(0, 1, num_bins + 1)
    theirs = torch.bincount(torch.bucketize(confidence.float(), edges, right=True) - 1, minlength=num_bins + 1)
    ours = reliability_bins(confidence, prediction == target, num_bins=num_bins, convention="torchmetrics")
    assert torch.equal(ours.count, theirs)
    assert ours.count[-1] == (confidence == 1).sum() > 0


@pytest.mark.filterwarnings("ignore")  # of netcal's own dependencies, while it is imported
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_bins", [4, 10, 15, 20])
def test_netcal_binning(dtype: torch.dtype, num_bins: int) -> None:
    from netcal.metrics import ECE, MCE

    probs, target = _probs(dtype)
    confidence, prediction = confidence_from_probs(probs)
    bins = reliability_bins(confidence, prediction == target, num_bins=num_bins, convention="netcal")
    arrays = probs.double().numpy(), target.numpy()  # given float32, it counts and averages by different edges
    assert calibration_error(bins, norm="l1").item() == pytest.approx(ECE(num_bins).measure(*arrays), abs=1e-12)
    assert calibration_error(bins, norm="max").item() == pytest.approx(MCE(num_bins).measure(*arrays), abs=1e-12)
    counts = np.histogram(confidence.double().numpy(), np.linspace(0, 1, num_bins + 1))[0]
    assert bins.count.tolist() == counts.tolist()


def test_without_edges_and_ones_all_conventions_agree_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, target = random_logits(600, 4)
    probs = torch.softmax(logits.double(), dim=1)
    confidence, prediction = confidence_from_probs(probs)
    theirs = multiclass_calibration_error(probs, target, num_classes=4, n_bins=15).item()
    for convention in ("qcal", "torchmetrics", "netcal"):
        bins = reliability_bins(confidence, prediction == target, convention=convention)
        assert calibration_error(bins).item() == pytest.approx(theirs, abs=1e-6)
