import pytest
import torch

from qcal.functional.per_image_scores import row_scores
from qcal.functional.selective_fallback import fallback_accuracy
from qcal.robustness.probabilities import analyse_probabilities
from qcal.robustness.selective_fallback import choose_fallback, handed_over
from tests.robustness.logit_cases import held_out, quantized_pair


def test_the_curve_is_that_of_the_function_in_steps_of_one_percent() -> None:
    float_logits, quant_logits, target = quantized_pair(1000, noise=2.0)
    fallback = analyse_probabilities(float_logits, quant_logits, target, resamples=5).fallback
    rows = row_scores(quant_logits, target)
    exact = fallback_accuracy(rows.confidence, rows.correct, row_scores(float_logits, target).correct)
    assert len(fallback.share) == 101
    assert list(fallback.accuracy) == exact[::10].tolist()


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.05])
def test_the_rule_restores_the_held_out_accuracy_and_a_smaller_share_does_not(tolerance: float) -> None:
    other = held_out(1500, noise=3.0)
    quant = row_scores(other.quant_logits, other.target)
    full = row_scores(other.float_logits, other.target).correct
    rule = choose_fallback(quant, full, tolerance=tolerance)
    goal = full.double().mean().item() - tolerance
    curve = fallback_accuracy(quant.confidence, quant.correct, full)
    k = round(rule.share * 1500)
    assert 0 < k < 1500
    assert curve[k] >= goal - 1e-12
    assert bool((curve[:k] < goal).all())


def test_the_rule_is_applied_by_its_threshold_and_judged_on_the_compared_images() -> None:
    float_logits, quant_logits, target = quantized_pair(2000, noise=3.0)
    other = held_out(2000, noise=3.0)
    analysis = analyse_probabilities(float_logits, quant_logits, target, recalibration=other, tolerance=0.01)
    chosen = analysis.fallback.chosen
    assert chosen is not None
    assert chosen.threshold is not None
    quant, full = row_scores(quant_logits, target), row_scores(float_logits, target).correct
    over = quant.confidence <= chosen.threshold
    joint = torch.where(over, full, quant.correct).double().mean().item()
    assert chosen.handed_over == pytest.approx(over.double().mean().item())
    assert chosen.handed_over == pytest.approx(chosen.share, abs=0.05)
    assert (chosen.accuracy.before, chosen.accuracy.after) == (full.double().mean().item(), joint)
    # Much of what quantization took is back, and the interval knows of the 0.01 that may be missing.
    assert analysis.accuracy.change < -0.05
    assert -0.03 < chosen.accuracy.change < 0.01
    assert chosen.accuracy.low is not None
    assert chosen.accuracy.high is not None
    assert chosen.accuracy.low < chosen.accuracy.change < chosen.accuracy.high


def test_a_network_that_needs_no_help_hands_nothing_over() -> None:
    logits, _, target = quantized_pair(100)
    rows = row_scores(logits, target)
    rule = choose_fallback(rows, rows.correct)
    assert (rule.share, rule.threshold) == (0.0, None)
    assert not handed_over(rows, rule).any()
