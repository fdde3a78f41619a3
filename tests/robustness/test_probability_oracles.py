"""Figures of the analysis that other packages give, too."""

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from qcal.functional.per_image_scores import row_scores
from qcal.robustness.probabilities import ProbabilityAnalysis, analyse_probabilities
from tests.robustness.logit_cases import held_out, quantized_pair

pytestmark = pytest.mark.oracle

PAIR = quantized_pair(3000, classes=8)


@pytest.fixture(scope="module")
def analysis() -> ProbabilityAnalysis:
    return analyse_probabilities(*PAIR, recalibration=held_out(1000, classes=8), resamples=10)


@pytest.mark.filterwarnings("ignore")  # of netcal's own dependencies, while it is imported
def test_ece_before_and_after_and_repaired_is_that_of_netcal(analysis: ProbabilityAnalysis) -> None:
    from netcal.metrics import ECE

    float_logits, quant_logits, target = PAIR
    assert analysis.repair is not None
    temperature = analysis.repair.refitted_temperature
    repaired = analysis.repair.outcome("refitted_temperature").ece.after
    for logits, value in (
        (float_logits, analysis.ece.before),
        (quant_logits, analysis.ece.after),
        (quant_logits / temperature, repaired),
    ):
        probs = torch.softmax(logits.double(), dim=1).numpy()
        assert value == pytest.approx(ECE(15).measure(probs, target.numpy()), abs=1e-5)


def test_likelihood_and_brier_scores_are_those_of_scikit_learn(analysis: ProbabilityAnalysis) -> None:
    _, quant_logits, target = PAIR
    probs = torch.softmax(quant_logits.double(), dim=1).numpy()
    rows = row_scores(quant_logits, target)
    assert analysis.nll.after == pytest.approx(log_loss(target.numpy(), probs), abs=1e-6)
    expected = brier_score_loss(target.numpy(), probs, scale_by_half=False)
    assert analysis.brier.after == pytest.approx(expected, abs=1e-6)
    top = brier_score_loss(rows.correct.numpy(), rows.confidence.numpy())
    assert analysis.top_label_brier.after == pytest.approx(top, abs=1e-6)


def test_the_area_of_risk_and_coverage_follows_from_the_auroc(analysis: ProbabilityAnalysis) -> None:
    _, quant_logits, target = PAIR
    rows = row_scores(quant_logits, target)
    auroc = roc_auc_score(rows.correct.numpy(), rows.confidence.numpy())
    accuracy = rows.correct.double().mean().item()
    expected = (1 - auroc) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2
    assert analysis.risk_coverage.quant_augrc == pytest.approx(expected, abs=1e-9)
