"""The float network's side of every comparison: its scores, their order and their bins, made once for all settings."""

import math
from dataclasses import dataclass

from torch import Tensor

from qcal.functional.prediction_summary import PredictionSummary, summarise_predictions
from qcal.functional.ranking import RankedScores, rank_scores
from qcal.functional.score_inputs import check_class_target
from qcal.functional.swap_curves import ScoreBins, score_bins

__all__ = ["FloatReference", "float_reference"]

_CURVE_BINS = 10


@dataclass(frozen=True)
class FloatReference:
    """What the float network says of N images, ready to be compared with any number of settings; see `float_reference`.

    Attributes:
        predictions: Top two classes, confidence and entropy of each image.
        target: `(N,)` int64.
        right: `(N,)` bool, whether the float prediction is right.
        readings: `(N,)` each, what a score says of P(swap) when it is read as a probability: `confidence` as
            `1 - confidence`, `margin` as `(1 - margin) / 2` (a lead of 0 falls every other time), `entropy` as
            `entropy / log C`.
        ranked: Images in the order in which a score expects swaps, most likely first: `confidence`, `margin` (of
            probabilities), `entropy`, `logit_margin`, `top_logit`. Scores are float32 for float32 logits, ties shared.
        bins: Bins of `confidence`, `margin`, `entropy` and `logit_margin`, of equal width and of equal count.
            Confidences that float32 rounds together are told apart here by what the other classes have.
    """

    predictions: PredictionSummary
    target: Tensor
    right: Tensor
    readings: dict[str, Tensor]
    ranked: dict[str, RankedScores]
    bins: dict[str, tuple[ScoreBins, ScoreBins]]


def float_reference(float_logits: Tensor, target: Tensor) -> FloatReference:
    """Read the float logits once.

    Args:
        float_logits: `(N, C)` floating and finite, N >= 1, C >= 2.
        target: `(N,)` int64 in [0, C).

    Returns:
        The reference; pass it to `analyse_swaps` for each setting.

    Raises:
        TypeError: Wrong types.
        ValueError: Shapes do not fit, logits are not finite, or targets out of range.

    Example:
        >>> import torch
        >>> reference = float_reference(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> reference.right.tolist(), reference.ranked["confidence"].group.tolist()
        ([True, False], [1, 0])
    """
    predictions = summarise_predictions(float_logits, name="float_logits")
    check_class_target(target, *float_logits.shape)
    target = target.cpu()
    most = math.log(predictions.num_classes)
    entropy = predictions.entropy.clamp(max=most)  # rounding may put the uniform distribution a hair above
    margin, lead = predictions.margin, predictions.logit_margin
    doubts = {
        "confidence": -predictions.confidence,
        "margin": -margin,
        "entropy": entropy,
        "logit_margin": -lead,
        "top_logit": -predictions.top_logit,
    }
    scores = {
        "confidence": (1 - predictions.doubt.double().clamp(max=1), 1.0),
        "margin": (margin, 1.0),
        "entropy": (entropy.double().clamp(max=most), most),
        "logit_margin": (lead, lead.amax().item() or 1.0),
    }
    return FloatReference(
        predictions=predictions,
        target=target,
        right=predictions.prediction == target,
        readings={
            "confidence": 1 - predictions.confidence,
            "margin": (1 - margin) / 2,
            "entropy": (entropy / most).clamp(max=1),
        },
        ranked={name: rank_scores(doubt) for name, doubt in doubts.items()},
        bins={name: _both_bins(values, high) for name, (values, high) in scores.items()},
    )


def _both_bins(values: Tensor, high: float) -> tuple[ScoreBins, ScoreBins]:
    return (
        score_bins(values, binning="equal_width", num_bins=_CURVE_BINS, high=high),
        score_bins(values, binning="equal_count", num_bins=_CURVE_BINS, high=high),
    )
