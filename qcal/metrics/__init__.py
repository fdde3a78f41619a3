"""Scores of confidence as `torchmetrics.Metric` classes over `qcal.functional`.

All take `update(preds, target)` with `preds` `(N, C)`, logits unless `inputs="probs"`, and `target` `(N,)` int64.
"""

from qcal.metrics.accuracy import Accuracy
from qcal.metrics.base import Inputs, SampleMetric, ScoreMetric
from qcal.metrics.calibration import (
    ClasswiseECE,
    ExpectedCalibrationError,
    MaximumCalibrationError,
    OverECE,
    RMSCalibrationError,
    UnderECE,
)
from qcal.metrics.overconfidence import (
    MeanConfidence,
    Overconfidence,
    OverconfidenceOnCorrect,
    OverconfidenceOnWrong,
)
from qcal.metrics.proper_scores import BrierScore, NegativeLogLikelihood, TopLabelBrier
from qcal.metrics.sample_based import (
    AUGRC,
    AURC,
    AdaptiveECE,
    DebiasedL2CalibrationError,
    KSCalibrationError,
    RiskAtCoverage,
    SmoothECE,
    TopLabelBrierDecomposition,
)

__all__ = [
    "AUGRC",
    "AURC",
    "Accuracy",
    "AdaptiveECE",
    "BrierScore",
    "ClasswiseECE",
    "DebiasedL2CalibrationError",
    "ExpectedCalibrationError",
    "Inputs",
    "KSCalibrationError",
    "MaximumCalibrationError",
    "MeanConfidence",
    "NegativeLogLikelihood",
    "OverECE",
    "Overconfidence",
    "OverconfidenceOnCorrect",
    "OverconfidenceOnWrong",
    "RMSCalibrationError",
    "RiskAtCoverage",
    "SampleMetric",
    "ScoreMetric",
    "SmoothECE",
    "TopLabelBrier",
    "TopLabelBrierDecomposition",
    "UnderECE",
]
