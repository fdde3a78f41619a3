"""Tensor maths, torch only: what every number of qcal is computed by. Nothing here knows of Lightning or of files."""

from qcal.functional.affine import (
    Symmetry,
    affine_scale_zero_point,
    dequantize,
    fake_quantize,
    quantize,
    signed_bounds,
    symmetric_scale,
    unsigned_bounds,
)
from qcal.functional.bootstrap import Interval, percentile_interval, resampled_counts, resampled_sums
from qcal.functional.brier_decomposition import (
    BrierDecomposition,
    isotonic_recalibration,
    top_label_brier_decomposition,
)
from qcal.functional.calibrating_losses import brier_loss, dca_loss, mdca_loss, mmce_loss
from qcal.functional.calibration import (
    ReliabilityBins,
    ece,
    mce,
    over_ece,
    reliability_bins,
    rms_calibration_error,
    under_ece,
)
from qcal.functional.classwise import classwise_ece
from qcal.functional.confidence import (
    OverconfidenceParts,
    accuracy,
    confidence_from_logits,
    confidence_from_probs,
    overconfidence,
    overconfidence_parts,
    top_k_accuracy,
)
from qcal.functional.equal_count import adaptive_ece, debiased_l2
from qcal.functional.focal_losses import dual_focal_loss, flsd_loss, focal_loss, inverse_focal_loss
from qcal.functional.intervals import wilson_interval
from qcal.functional.ks_error import ks_calibration_error
from qcal.functional.logit_noise import LogitNoise, logit_noise
from qcal.functional.logit_scale_losses import confidence_dial_loss, logit_norm_loss, training_temperature_loss
from qcal.functional.mcnemar import mcnemar_exact
from qcal.functional.migration import ClassMigration, ConfidenceMigration, class_migration, confidence_migration
from qcal.functional.noise_temperature import NoiseTemperatureFit, fit_noise_temperature
from qcal.functional.per_image_scores import RowScores, row_scores
from qcal.functional.proper_scores import brier_score, nll, nll_from_probs, top_label_brier
from qcal.functional.ranking import Ranking, ranking_quality
from qcal.functional.selective import RiskCoverage, augrc, aurc, risk_at_coverage, risk_coverage_curve
from qcal.functional.selective_fallback import fallback_accuracy, smallest_fallback
from qcal.functional.smooth_calibration import smooth_ece
from qcal.functional.smoothing_losses import (
    confidence_penalty_loss,
    label_smoothing_loss,
    margin_label_smoothing_loss,
    max_sup_loss,
)
from qcal.functional.swap_curves import SwapCurve, score_bins, swap_curve
from qcal.functional.swap_forecast import NoiseModel, SwapProbability, estimate_noise, swap_probability
from qcal.functional.swaps import SwapCounts, lowest_argmax, swap_counts, top_is_tied
from qcal.functional.temperature import TemperatureFit, fit_temperature, scale_logits
from qcal.functional.vector_scaling import VectorScalingFit, fit_vector_scaling

__all__ = [
    "BrierDecomposition",
    "ClassMigration",
    "ConfidenceMigration",
    "Interval",
    "LogitNoise",
    "NoiseModel",
    "NoiseTemperatureFit",
    "OverconfidenceParts",
    "Ranking",
    "ReliabilityBins",
    "RiskCoverage",
    "RowScores",
    "SwapCounts",
    "SwapCurve",
    "SwapProbability",
    "Symmetry",
    "TemperatureFit",
    "VectorScalingFit",
    "accuracy",
    "adaptive_ece",
    "affine_scale_zero_point",
    "augrc",
    "aurc",
    "brier_loss",
    "brier_score",
    "class_migration",
    "classwise_ece",
    "confidence_dial_loss",
    "confidence_from_logits",
    "confidence_from_probs",
    "confidence_migration",
    "confidence_penalty_loss",
    "dca_loss",
    "debiased_l2",
    "dequantize",
    "dual_focal_loss",
    "ece",
    "estimate_noise",
    "fake_quantize",
    "fallback_accuracy",
    "fit_noise_temperature",
    "fit_temperature",
    "fit_vector_scaling",
    "flsd_loss",
    "focal_loss",
    "inverse_focal_loss",
    "isotonic_recalibration",
    "ks_calibration_error",
    "label_smoothing_loss",
    "logit_noise",
    "logit_norm_loss",
    "lowest_argmax",
    "margin_label_smoothing_loss",
    "max_sup_loss",
    "mce",
    "mcnemar_exact",
    "mdca_loss",
    "mmce_loss",
    "nll",
    "nll_from_probs",
    "over_ece",
    "overconfidence",
    "overconfidence_parts",
    "percentile_interval",
    "quantize",
    "ranking_quality",
    "reliability_bins",
    "resampled_counts",
    "resampled_sums",
    "risk_at_coverage",
    "risk_coverage_curve",
    "rms_calibration_error",
    "row_scores",
    "scale_logits",
    "score_bins",
    "signed_bounds",
    "smallest_fallback",
    "smooth_ece",
    "swap_counts",
    "swap_curve",
    "swap_probability",
    "symmetric_scale",
    "top_is_tied",
    "top_k_accuracy",
    "top_label_brier",
    "top_label_brier_decomposition",
    "training_temperature_loss",
    "under_ece",
    "unsigned_bounds",
    "wilson_interval",
]
