"""Every value of the golden file, which independent packages and closed forms computed on the arrays beside it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qcal.functional.brier_decomposition import top_label_brier_decomposition
from qcal.functional.calibration import ece, mce, over_ece, rms_calibration_error, under_ece
from qcal.functional.classwise import classwise_ece
from qcal.functional.confidence import accuracy, confidence_from_probs
from qcal.functional.equal_count import adaptive_ece, debiased_l2
from qcal.functional.ks_error import ks_calibration_error
from qcal.functional.proper_scores import brier_score, nll, nll_from_probs, top_label_brier
from qcal.functional.selective import aurc, risk_at_coverage
from qcal.functional.smooth_calibration import smooth_ece
from qcal.functional.temperature import fit_temperature
from qcal.functional.top_label import confidence_and_correct

NETWORKS = ("lenet-5-cifar-10", "wideresnet-16-4-cifar-10", "densenet-bc-100-cifar-100")
# Stored with five decimals for one file or another: reproduced to the last one there. Everything else: to 1e-6.
FIVE_DECIMALS = (
    "smooth_ece_mass_preserving",
    "top_label_miscalibration",
    "top_label_discrimination",
    "top_label_uncertainty",
    "mean_confidence",
)
# Of the losses; tested in tests/losses/test_golden_values.py.
LOSSES = ("cross_entropy_label_smoothing_", "focal_gamma_", "flsd_", "confidence_penalty_")


@dataclass(frozen=True)
class Case:
    confidence: Tensor
    correct: Tensor
    probs: Tensor
    target: Tensor


SCORES: dict[str, Callable[[Case], Tensor]] = {
    "accuracy": lambda case: accuracy(case.probs.argmax(dim=1), case.target),
    "mean_confidence": lambda case: case.confidence.double().mean(),
    "share_confidence_exactly_1_float32": lambda case: (case.confidence == 1).double().mean(),
    "ece_15": lambda case: ece(case.confidence, case.correct),
    "ece_15_overconfident_bins": lambda case: over_ece(case.confidence, case.correct),
    "ece_15_underconfident_bins": lambda case: under_ece(case.confidence, case.correct),
    "mce_15": lambda case: mce(case.confidence, case.correct),
    "rms_ce_15": lambda case: rms_calibration_error(case.confidence, case.correct),
    "adaptive_ece_15_equal_count": lambda case: adaptive_ece(case.confidence, case.correct),
    "classwise_ece_15": lambda case: classwise_ece(case.probs, case.target),
    "ks_error": lambda case: ks_calibration_error(case.confidence, case.correct),
    "nll": lambda case: nll_from_probs(case.probs, case.target),
    "brier_score": lambda case: brier_score(case.probs, case.target),
    "top_label_brier": lambda case: top_label_brier(case.confidence, case.correct),
    "top_label_miscalibration": lambda case: (
        top_label_brier_decomposition(case.confidence, case.correct).miscalibration
    ),
    "top_label_discrimination": lambda case: (
        top_label_brier_decomposition(case.confidence, case.correct).discrimination
    ),
    "top_label_uncertainty": lambda case: top_label_brier_decomposition(case.confidence, case.correct).uncertainty,
    "smooth_ece_mass_preserving": lambda case: smooth_ece(case.confidence, case.correct),
    "debiased_l2_top_label_equal_count_15": lambda case: debiased_l2(case.confidence, case.correct),
    "aurc": lambda case: aurc(case.confidence, case.correct),
    "risk_at_80_coverage": lambda case: risk_at_coverage(case.confidence, case.correct, coverage=0.8),
}


@pytest.fixture(scope="module")
def golden(reference_dir: Path) -> dict[str, dict[str, dict[str, float]]]:
    stored = json.loads((reference_dir / "golden_metrics.json").read_text())
    return {"real": stored["real_networks"], "random": {"random_case": stored["random_case"]}}


def _network(reference_dir: Path, name: str) -> Case:
    with np.load(reference_dir / f"probs_{name}.npz") as arrays:
        probs, target = torch.from_numpy(arrays["probs"]), torch.from_numpy(arrays["target"])
    confidence, prediction = confidence_from_probs(probs)
    return Case(confidence, prediction == target, probs, target)


def _random_logits(reference_dir: Path) -> tuple[Tensor, Tensor]:
    with np.load(reference_dir / "random_case.npz") as arrays:
        return torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["target"])


def _random_case(reference_dir: Path) -> Case:
    logits, target = _random_logits(reference_dir)
    confidence, correct = confidence_and_correct(logits, target)
    return Case(confidence, correct, torch.softmax(logits, dim=1), target)


def _check(case: Case, expected: dict[str, float], elsewhere: set[str]) -> None:
    """Compare every stored value that has no test of its own; none may be left over."""
    for name, value in expected.items():
        if name in elsewhere or name.startswith(LOSSES):
            continue
        rounded = name in FIVE_DECIMALS and value == round(value, 5)
        tolerance = 0.5e-5 + 1e-9 if rounded else 1e-6
        assert SCORES[name](case).item() == pytest.approx(value, abs=tolerance), name


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_of_a_real_network(
    name: str, reference_dir: Path, golden: dict[str, dict[str, dict[str, float]]]
) -> None:
    elsewhere = {key for key in golden["real"][name] if "rows_" in key or "tie_orders" in key}
    assert len(elsewhere) == 5
    _check(_network(reference_dir, name), golden["real"][name], elsewhere)


def test_scores_of_the_random_case(reference_dir: Path, golden: dict[str, dict[str, dict[str, float]]]) -> None:
    # The published smooth ECE is that of another kernel: see tests/functional/test_score_oracles.py.
    _check(_random_case(reference_dir), golden["random"]["random_case"], {"smooth_ece_reflected"})


def test_nll_of_the_random_case_from_its_logits(
    reference_dir: Path, golden: dict[str, dict[str, dict[str, float]]]
) -> None:
    expected = golden["random"]["random_case"]["nll"]
    assert nll(*_random_logits(reference_dir)).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_aurc_with_ties_averaged_lies_between_its_tie_orders(
    name: str, reference_dir: Path, golden: dict[str, dict[str, dict[str, float]]]
) -> None:
    case, expected = _network(reference_dir, name), golden["real"][name]
    value = aurc(case.confidence, case.correct).item()
    assert expected["aurc_lowest_over_tie_orders"] <= value <= expected["aurc_highest_over_tie_orders"]
    order = torch.randperm(len(case.confidence), generator=torch.Generator().manual_seed(0))
    assert aurc(case.confidence[order], case.correct[order]).item() == pytest.approx(value, abs=1e-15)


def test_temperature_of_the_random_case(reference_dir: Path) -> None:
    # 1.98799169 to its last digit but one: the root of the derivative, which other solvers confirm in
    # test_temperature.py, is 1.987991711, and a solver that compares losses resolves T to about 1e-8.
    assert fit_temperature(*_random_logits(reference_dir)).temperature == pytest.approx(1.98799169, rel=2e-8)


@pytest.mark.parametrize("name", NETWORKS)
def test_temperature_of_a_real_network_and_its_effect_on_other_rows(
    name: str, reference_dir: Path, golden: dict[str, dict[str, dict[str, float]]]
) -> None:
    """Logits are logarithms of the stored float32 probabilities; none is 0 (the least is 3e-37), so none is clipped."""
    case, expected = _network(reference_dir, name), golden["real"][name]
    assert case.probs.amin() > 0
    logits, target = case.probs.log(), case.target
    fit = fit_temperature(logits[:5000], target[:5000])
    assert fit.temperature == pytest.approx(expected["temperature_fit_on_rows_0_4999"], rel=1e-7)
    before = ece(*confidence_and_correct(logits[5000:], target[5000:]))
    after = ece(*confidence_and_correct(logits[5000:] / fit.temperature, target[5000:]))
    assert before.item() == pytest.approx(expected["ece_15_rows_5000_on_before"], abs=1e-6)
    assert after.item() == pytest.approx(expected["ece_15_rows_5000_on_after"], abs=1e-6)
