import json
import math
import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.brier_decomposition import top_label_brier_decomposition
from qcal.functional.calibration import ece
from qcal.functional.confidence import confidence_from_logits, overconfidence
from qcal.functional.proper_scores import brier_score, nll
from qcal.functional.selective import aurc, risk_at_coverage
from qcal.functional.smooth_calibration import smooth_ece
from qcal.robustness.paired_change import Change
from qcal.robustness.probabilities import ProbabilityAnalysis, analyse_probabilities
from qcal.robustness.probability_words import what_was_hurt
from qcal.robustness.repair import Recalibration
from tests.robustness.logit_cases import held_out, quantized_pair

quick = settings(deadline=None, max_examples=10, derandomize=True)


def changes(analysis: ProbabilityAnalysis) -> dict[str, Change]:
    found = {field.name: getattr(analysis, field.name) for field in fields(analysis)}
    return {name: value for name, value in found.items() if isinstance(value, Change)}


@pytest.fixture(scope="module")
def case() -> tuple[Tensor, Tensor, Tensor]:
    return quantized_pair(1000)


@pytest.fixture(scope="module")
def analysis(case: tuple[Tensor, Tensor, Tensor]) -> ProbabilityAnalysis:
    return analyse_probabilities(*case, recalibration=held_out(1000))


def test_scores_before_and_after_are_those_of_the_functions(
    analysis: ProbabilityAnalysis, case: tuple[Tensor, Tensor, Tensor]
) -> None:
    *both, target = case
    for logits, side in zip(both, ("before", "after"), strict=True):
        confidence, prediction = confidence_from_logits(logits)
        correct = prediction == target
        parts = top_label_brier_decomposition(confidence, correct)
        expected = {
            "accuracy": correct.double().mean(),
            "mean_confidence": confidence.double().mean(),
            "overconfidence": overconfidence(confidence, correct),
            "ece": ece(confidence, correct),
            "smooth_ece": smooth_ece(confidence, correct),
            "nll": nll(logits, target),
            "brier": brier_score(torch.softmax(logits, dim=1), target),
            "top_label_brier": parts.score,
            "miscalibration": parts.miscalibration,
            "discrimination": parts.discrimination,
            "uncertainty": parts.uncertainty,
            "discrimination_share": parts.discrimination / parts.uncertainty,
        }
        for name, value in expected.items():
            assert getattr(changes(analysis)[name], side) == pytest.approx(value.item(), abs=1e-6), name


def test_the_parts_of_the_scores_add_up(analysis: ProbabilityAnalysis) -> None:
    found = changes(analysis)
    for side in ("before", "after", "change"):
        value = {name: getattr(change, side) for name, change in found.items()}
        parts = value["miscalibration"] - value["discrimination"] + value["uncertainty"]
        assert value["top_label_brier"] == pytest.approx(parts, abs=1e-12)
        for score in ("nll", "brier"):
            assert value[score] == pytest.approx(value[f"{score}_refinement"] + value[f"{score}_miscalibration"])
        assert value["overconfidence"] == pytest.approx(value["mean_confidence"] - value["accuracy"], abs=1e-12)


def test_risk_and_coverage_are_those_of_the_functions(
    analysis: ProbabilityAnalysis, case: tuple[Tensor, Tensor, Tensor]
) -> None:
    confidence, prediction = confidence_from_logits(case[1])
    correct, curves = prediction == case[2], analysis.risk_coverage
    assert curves.quant_aurc == pytest.approx(aurc(confidence, correct).item())
    assert (curves.coverage[0], curves.coverage[-1]) == (0.02, 1.0)
    expected = [risk_at_coverage(confidence, correct, coverage=coverage).item() for coverage in curves.coverage]
    assert list(curves.quant_risk) == pytest.approx(expected)


def test_noise_on_calibrated_logits_hurts_ranking_and_calibration() -> None:
    analysis = analyse_probabilities(*quantized_pair(4000, noise=2.0), recalibration=held_out(2000, noise=2.0))
    assert analysis.discrimination_share is not None
    assert analysis.discrimination_share.direction == "fell"
    assert analysis.miscalibration.direction == analysis.ece.direction == "rose"
    words = what_was_hurt(analysis, setting="w2a2")
    assert "w2a2 hurt both the ranking of the predictions and their calibration" in words
    assert "is refinement and" in words


def test_a_sharpened_copy_hurts_only_the_probabilities() -> None:
    logits, _, target = quantized_pair(4000, overconfidence=1.0)
    other, _, labels = quantized_pair(2000, overconfidence=1.0, seed=9)
    analysis = analyse_probabilities(logits, 2 * logits, target, recalibration=Recalibration(other, 2 * other, labels))
    assert analysis.miscalibration.direction == "rose"
    assert analysis.accuracy == Change(analysis.accuracy.before, analysis.accuracy.before, 0.0, 0.0, 0.0)
    assert analysis.nll_refinement is not None
    assert analysis.nll_refinement.change == pytest.approx(0, abs=1e-6)  # of one network, at its own temperature
    assert analysis.nll_miscalibration is not None
    assert analysis.nll_miscalibration.direction == "rose"
    assert "hurt the calibration of the predictions, not their ranking" in what_was_hurt(analysis)


@quick
@given(st.integers(0, 50), st.integers(30, 200), st.integers(2, 6))
def test_two_float_copies_change_by_exactly_nothing(seed: int, num: int, classes: int) -> None:
    logits, _, target = quantized_pair(num, classes=classes, seed=seed)
    other, _, labels = quantized_pair(200, classes=classes, seed=seed + 1000)
    recalibration = Recalibration(other, other.clone(), labels)
    analysis = analyse_probabilities(logits, logits.clone(), target, recalibration=recalibration, resamples=50)
    for name, change in changes(analysis).items():
        assert (change.change, change.low, change.high) == (0.0, 0.0, 0.0), name
    assert analysis.repair is not None
    assert analysis.repair.noise_gain.change == 0.0
    for outcome in analysis.repair.outcomes[1:]:
        assert (outcome.ece_gap.change, outcome.nll_gap.change) == (0.0, 0.0)
        assert (outcome.ece_gap.low, outcome.nll_gap.high) == (0.0, 0.0)
    assert analysis.fallback.chosen is not None
    assert (analysis.fallback.chosen.share, analysis.fallback.chosen.threshold) == (0.0, None)
    assert "neither" in what_was_hurt(analysis)


def test_it_is_json_and_the_same_for_the_same_seed(
    analysis: ProbabilityAnalysis, case: tuple[Tensor, Tensor, Tensor]
) -> None:
    text = json.dumps(asdict(analysis), allow_nan=False)
    again = analyse_probabilities(*case, recalibration=held_out(1000))
    assert again == analysis
    assert json.loads(text)["repair"]["outcomes"][0]["method"] == "none"
    other = analyse_probabilities(*case, seed=1)
    assert other.nll.change == analysis.nll.change
    assert other.nll.low != analysis.nll.low


def test_it_leaves_the_callers_random_numbers_alone(case: tuple[Tensor, Tensor, Tensor]) -> None:
    state = torch.get_rng_state()
    analyse_probabilities(*case, resamples=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_held_out_images_nothing_is_fitted(case: tuple[Tensor, Tensor, Tensor]) -> None:
    analysis = analyse_probabilities(*case, resamples=5)
    assert analysis.repair is None
    assert analysis.nll_refinement is None
    assert analysis.fallback.chosen is None
    assert (
        analysis.repair_missing
        == analysis.fallback.missing
        == ("no held-out images were given to fit on (`recalibration`)")
    )
    assert "refinement" not in what_was_hurt(analysis)


@pytest.mark.parametrize("num", [1, 2, 29])
def test_few_images_have_scores_but_no_intervals(num: int) -> None:
    analysis = analyse_probabilities(*quantized_pair(num), recalibration=held_out(500))
    assert {(change.low, change.high) for change in changes(analysis).values()} == {(None, None)}
    assert analysis.interval_missing == f"{num} images; at least 30 are needed"
    assert analysis.nll.after > 0
    json.dumps(asdict(analysis), allow_nan=False)


@pytest.mark.parametrize("right", [True, False])
def test_networks_that_are_always_right_or_always_wrong_have_no_ranking(right: bool) -> None:
    target = torch.arange(60) % 3
    logits = 3 * torch.eye(3)[target if right else (target + 1) % 3]
    recalibration = Recalibration(logits[:40], 2 * logits[:40], target[:40])
    analysis = analyse_probabilities(logits, 2 * logits, target, recalibration=recalibration)
    assert (analysis.discrimination.after, analysis.uncertainty.after) == (0.0, 0.0)
    assert analysis.discrimination_share is None
    assert analysis.repair is None
    assert analysis.repair_missing is not None
    assert ("every prediction is right" if right else "at or below chance") in analysis.repair_missing
    assert "no ranking to hurt" in what_was_hurt(analysis)
    json.dumps(asdict(analysis), allow_nan=False)


def test_images_of_one_class_are_analysed() -> None:
    logits, quant, _ = quantized_pair(100)
    analysis = analyse_probabilities(logits, quant, torch.zeros(100, dtype=torch.int64), resamples=20)
    assert all(math.isfinite(change.change) for change in changes(analysis).values())


def test_held_out_logits_that_are_equal_within_rows_give_a_reason() -> None:
    logits, quant, target = quantized_pair(50)
    recalibration = Recalibration(logits[:40], torch.ones(40, 5), target[:40])
    analysis = analyse_probabilities(logits, quant, target, recalibration=recalibration, resamples=5)
    assert analysis.repair is None
    assert analysis.repair_missing == (
        "the quantized network's logits are equal within every row, so that every temperature is as good"
    )


def test_what_cannot_be_compared_is_refused() -> None:
    logits, quant, target = quantized_pair(50)
    with pytest.raises(ValueError, match=r"must have one shape, got \(50, 5\) and \(49, 5\)"):
        analyse_probabilities(logits, quant[1:], target)
    with pytest.raises(ValueError, match=r"C >= 2 classes, got \(50, 1\)"):
        analyse_probabilities(logits[:, :1], quant[:, :1], target)
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 4\]"):
        analyse_probabilities(logits, quant, target + 5)
    broken = quant.clone()
    broken[7, 2] = math.nan
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 1 of 50"):
        analyse_probabilities(logits, broken, target)
    with pytest.raises(ValueError, match=r"`tolerance` must be in \[0, 1\]"):
        analyse_probabilities(logits, quant, target, recalibration=held_out(50), tolerance=2.0)


def test_repairs_are_not_fitted_on_what_they_are_judged_on() -> None:
    logits, quant, target = quantized_pair(50)
    with pytest.raises(ValueError, match=r"must hold other images than those compared, got the same logits"):
        analyse_probabilities(logits, quant, target, recalibration=Recalibration(logits, quant.clone(), target))
    six = Recalibration(*quantized_pair(50, classes=6))
    with pytest.raises(ValueError, match=r"must have the 5 classes of the compared logits, got 6"):
        analyse_probabilities(logits, quant, target, recalibration=six)


def test_held_out_logits_that_are_broken_are_refused() -> None:
    logits, quant, target = quantized_pair(50)
    good = held_out(40)
    broken = good.float_logits.clone()
    broken[3, 3] = -math.inf
    for bad, message in (
        (Recalibration(broken, good.quant_logits, good.target), "finite, got 1 of 40"),
        (Recalibration(good.float_logits[1:], good.quant_logits, good.target[1:]), r"`target` must have shape \(40,\)"),
        (Recalibration(good.float_logits, good.quant_logits, good.target + 9), r"must lie in \[0, 4\]"),
    ):
        with pytest.raises(ValueError, match=message):
            analyse_probabilities(logits, quant, target, recalibration=bad)


_LARGE = """
import resource
import torch
from qcal.robustness.probabilities import analyse_probabilities
from qcal.robustness.repair import Recalibration

def pair(num):
    logits, target = 2 * torch.randn(num, 1000), torch.randint(1000, (num,))
    logits[torch.arange(num), target] += 6
    return logits, logits + 0.5 * torch.randn(num, 1000), target

recalibration = Recalibration(*pair(10_000))
analysis = analyse_probabilities(*pair(50_000), recalibration=recalibration)
assert analysis.repair is not None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
def test_fifty_thousand_images_of_a_thousand_classes_fit_into_four_gigabytes() -> None:
    """Logits, resamples and torch itself together; in a process of its own, as the peak of a process never falls."""
    done = subprocess.run([sys.executable, "-c", _LARGE], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 4
