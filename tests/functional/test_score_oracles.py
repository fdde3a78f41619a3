"""The scores beside scikit-learn and relplot."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qcal.functional.brier_decomposition import isotonic_recalibration
from qcal.functional.confidence import confidence_from_logits, top_k_accuracy
from qcal.functional.proper_scores import brier_score, nll, top_label_brier
from qcal.functional.selective import augrc
from qcal.functional.smooth_calibration import smooth_ece, smooth_ece_at_bandwidth
from qcal.functional.top_label import confidence_and_correct
from tests.functional.score_cases import calibrated, random_logits

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, targets, confidence and correctness, all float64, a tenth of the confidences rounded to make ties."""
    logits, target = random_logits(3000, 8)
    logits[::10] = logits[::10].round()
    logits = logits.double()
    return logits, target, *confidence_and_correct(logits, target)


def test_nll_is_that_of_scikit_learn(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    from sklearn.metrics import log_loss

    logits, target, *_ = case
    assert nll(logits, target).item() == pytest.approx(log_loss(target, torch.softmax(logits, dim=1)), rel=1e-12)


def test_brier_scores_are_those_of_scikit_learn(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    from sklearn.metrics import brier_score_loss

    logits, target, confidence, correct = case
    probs = torch.softmax(logits, dim=1)
    assert top_label_brier(confidence, correct).item() == pytest.approx(
        brier_score_loss(correct, confidence), rel=1e-12
    )
    by_class = sum(brier_score_loss(target == k, probs[:, k]) for k in range(probs.shape[1]))
    assert brier_score(probs, target).item() == pytest.approx(by_class, rel=1e-12)


def test_isotonic_recalibration_is_that_of_scikit_learns_estimator(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    from sklearn.isotonic import IsotonicRegression

    *_, confidence, correct = case
    fitted = IsotonicRegression().fit_transform(confidence.numpy(), correct.double().numpy())
    np.testing.assert_allclose(isotonic_recalibration(confidence, correct).numpy(), fitted, rtol=0, atol=1e-12)


def test_augrc_follows_from_scikit_learns_auroc(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    from sklearn.metrics import roc_auc_score

    *_, confidence, correct = case
    error = 1 - correct.double().mean().item()
    expected = (1 - roc_auc_score(correct, confidence)) * error * (1 - error) + error**2 / 2
    assert augrc(confidence, correct).item() == pytest.approx(expected, rel=1e-12)


def test_top_five_is_that_of_scikit_learn(case: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    from sklearn.metrics import top_k_accuracy_score

    logits, target, *_ = case
    untied = logits + 1e-9 * torch.rand(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert top_k_accuracy(untied, target, k=5).item() == pytest.approx(
        top_k_accuracy_score(target, untied, k=5), rel=1e-12
    )


@pytest.mark.parametrize("bandwidth", [0.02, 0.05, 0.1])  # wider, its kernel is cut off
def test_smooth_ece_is_near_relplots_where_its_boundary_does_not_matter(bandwidth: float) -> None:
    import relplot

    confidence, correct = calibrated(4000)
    confidence = 0.3 + 0.4 * confidence  # away from both ends
    published = relplot.smECE_sigma(confidence.numpy(), correct.double().numpy(), sigma=bandwidth)
    ours = smooth_ece_at_bandwidth(confidence, correct, bandwidth=bandwidth).item()
    assert ours == pytest.approx(published, abs=2e-5)


def test_smooth_ece_with_its_own_bandwidth_is_near_relplots() -> None:
    import relplot

    confidence, correct = calibrated(4000)
    confidence = 0.9 * confidence  # largest below 0.998
    published = relplot.smECE(confidence.numpy(), correct.double().numpy())
    assert smooth_ece(confidence, correct).item() == pytest.approx(published, abs=2e-3)


def test_relplot_overstates_where_many_confidences_are_one_and_we_do_not() -> None:
    import relplot

    certain, unsure = torch.ones(1000, dtype=torch.float64), torch.full((3000,), 0.75, dtype=torch.float64)
    confidence = torch.cat([certain, unsure])
    correct = torch.cat([certain > 0, torch.arange(3000) % 2 == 0])  # the certain are right, of the others one in two
    ours = smooth_ece(confidence, correct).item()
    assert ours == pytest.approx(0.25 * 0.75, abs=1e-12)
    assert relplot.smECE(confidence.numpy(), correct.double().numpy()) > 1.1 * ours


def test_the_golden_reflected_value_is_relplots_and_ours_is_near(reference_dir: Path) -> None:
    import relplot

    golden = json.loads((reference_dir / "golden_metrics.json").read_text())["random_case"]["smooth_ece_reflected"]
    with np.load(reference_dir / "random_case.npz") as arrays:
        logits, target = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["target"])
    confidence, prediction = confidence_from_logits(logits.double())
    correct = prediction == target
    published = relplot.smECE(confidence.numpy(), correct.double().numpy())
    assert published == pytest.approx(golden, abs=1e-6)
    assert smooth_ece(confidence, correct).item() == pytest.approx(published, abs=3e-4)
