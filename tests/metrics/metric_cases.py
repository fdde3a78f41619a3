"""All metrics with the function each must agree with."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.brier_decomposition import top_label_brier_decomposition
from qcal.functional.calibration import ece, mce, over_ece, rms_calibration_error, under_ece
from qcal.functional.classwise import classwise_ece
from qcal.functional.confidence import accuracy, overconfidence, overconfidence_parts, top_k_accuracy
from qcal.functional.equal_count import adaptive_ece, debiased_l2
from qcal.functional.ks_error import ks_calibration_error
from qcal.functional.proper_scores import brier_score, nll, top_label_brier
from qcal.functional.selective import augrc, aurc, risk_at_coverage
from qcal.functional.smooth_calibration import smooth_ece
from qcal.functional.top_label import confidence_and_correct
from qcal.metrics import (
    AUGRC,
    AURC,
    Accuracy,
    AdaptiveECE,
    BrierScore,
    ClasswiseECE,
    DebiasedL2CalibrationError,
    ExpectedCalibrationError,
    Inputs,
    KSCalibrationError,
    MaximumCalibrationError,
    MeanConfidence,
    NegativeLogLikelihood,
    Overconfidence,
    OverconfidenceOnCorrect,
    OverconfidenceOnWrong,
    OverECE,
    RiskAtCoverage,
    RMSCalibrationError,
    ScoreMetric,
    SmoothECE,
    TopLabelBrier,
    TopLabelBrierDecomposition,
    UnderECE,
)

NUM_CLASSES = 6


@dataclass(frozen=True)
class Case:
    """How a metric is made, and its value as a function of logits and targets."""

    make: Callable[[Inputs], ScoreMetric]
    expected: Callable[[Tensor, Tensor], Tensor]
    keeps_samples: bool = False


def _top_label(score: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, target: score(*confidence_and_correct(logits, target))


def _probs(score: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, target: score(torch.softmax(logits, dim=1), target)


CASES = {
    "accuracy": Case(lambda i: Accuracy(inputs=i), lambda z, y: accuracy(z.argmax(dim=1), y)),
    "top_2_accuracy": Case(lambda i: Accuracy(top_k=2, inputs=i), lambda z, y: top_k_accuracy(z, y, k=2)),
    "ece": Case(lambda i: ExpectedCalibrationError(inputs=i), _top_label(ece)),
    "mce": Case(lambda i: MaximumCalibrationError(inputs=i), _top_label(mce)),
    "rms": Case(lambda i: RMSCalibrationError(inputs=i), _top_label(rms_calibration_error)),
    "over_ece": Case(lambda i: OverECE(inputs=i), _top_label(over_ece)),
    "under_ece": Case(lambda i: UnderECE(inputs=i), _top_label(under_ece)),
    "classwise_ece": Case(lambda i: ClasswiseECE(NUM_CLASSES, inputs=i), _probs(classwise_ece)),
    "overconfidence": Case(lambda i: Overconfidence(inputs=i), _top_label(overconfidence)),
    "overconfidence_on_correct": Case(
        lambda i: OverconfidenceOnCorrect(inputs=i), _top_label(lambda c, k: overconfidence_parts(c, k).on_correct)
    ),
    "overconfidence_on_wrong": Case(
        lambda i: OverconfidenceOnWrong(inputs=i), _top_label(lambda c, k: overconfidence_parts(c, k).on_wrong)
    ),
    "mean_confidence": Case(lambda i: MeanConfidence(inputs=i), _top_label(lambda c, _: c.double().mean())),
    "nll": Case(lambda i: NegativeLogLikelihood(inputs=i), nll),
    "brier_score": Case(lambda i: BrierScore(inputs=i), _probs(brier_score)),
    "top_label_brier": Case(lambda i: TopLabelBrier(inputs=i), _top_label(top_label_brier)),
    "adaptive_ece": Case(lambda i: AdaptiveECE(inputs=i), _top_label(adaptive_ece), keeps_samples=True),
    "debiased_l2": Case(lambda i: DebiasedL2CalibrationError(inputs=i), _top_label(debiased_l2), keeps_samples=True),
    "ks": Case(lambda i: KSCalibrationError(inputs=i), _top_label(ks_calibration_error), keeps_samples=True),
    "smooth_ece": Case(lambda i: SmoothECE(inputs=i), _top_label(smooth_ece), keeps_samples=True),
    "brier_decomposition": Case(
        lambda i: TopLabelBrierDecomposition(inputs=i),
        _top_label(lambda c, k: top_label_brier_decomposition(c, k).miscalibration),
        keeps_samples=True,
    ),
    "aurc": Case(lambda i: AURC(inputs=i), _top_label(aurc), keeps_samples=True),
    "augrc": Case(lambda i: AUGRC(inputs=i), _top_label(augrc), keeps_samples=True),
    "risk_at_coverage": Case(
        lambda i: RiskAtCoverage(0.7, inputs=i),
        _top_label(lambda c, k: risk_at_coverage(c, k, coverage=0.7)),
        keeps_samples=True,
    ),
}


def value_of(metric: ScoreMetric) -> Tensor:
    """The computed value; of the decomposition its miscalibration."""
    value = metric.compute()
    chosen: Tensor = value["miscalibration"] if isinstance(value, dict) else value
    return chosen
