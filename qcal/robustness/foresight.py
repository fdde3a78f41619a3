"""Foresight: how well the float network's own scores tell, before anything is quantized, which predictions will swap.

Two questions. Does the score rank them (AUROC, average precision)? And does it say how many: read as a probability of a
swap, does it match the share that swapped? For the second the Brier score is taken apart by isotonic regression:
miscalibration is what the right monotone map of the score would gain, discrimination what it would then be worth.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.brier_decomposition import top_label_brier_decomposition
from qcal.functional.ranking import ranking_quality
from qcal.robustness.float_reference import FloatReference

__all__ = ["ConfidenceDistribution", "Foresight", "Reading", "confidence_distribution", "foresight"]


@dataclass(frozen=True)
class Reading:
    """A score read as P(swap); see `FloatReference.readings`.

    Attributes:
        mean: Mean of the reading: the swap rate it foretells, in [0, 1].
        brier: Mean squared difference from what happened, in [0, 1].
        miscalibration: What the best monotone map would take off, >= 0.
        discrimination: How much better than the swap rate for all images it would then be, >= 0.
        uncertainty: Brier score of saying the swap rate for all images, so that
            `brier = miscalibration - discrimination + uncertainty`.
    """

    mean: float
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float


@dataclass(frozen=True)
class Foresight:
    """How well a score of the float network foretells swaps; see `foresight`.

    Attributes:
        auroc: Probability that a swapped image is more doubtful than one that was not, ties one half; None without
            swaps, or when all swapped.
        average_precision: Mean precision over the swapped images, from the most doubtful on; None without swaps.
        reading: The score read as P(swap); None for scores that are no probability (logit margin, top logit).
    """

    auroc: float | None
    average_precision: float | None
    reading: Reading | None


@dataclass(frozen=True)
class ConfidenceDistribution:
    """Float confidence of some images; see `confidence_distribution`.

    Attributes:
        count: Images.
        mean: Mean confidence; None without images.
        deciles: Eleven values from the smallest to the largest; a q-quantile is the smallest value with at least a
            share q at or below it, so that the middle one is the lower median. None without images.
        histogram: Images in ten bins of equal width over [0, 1], `(lo, hi]`.
        float_accuracy: Share of them that the float network had right; None without images.
    """

    count: int
    mean: float | None
    deciles: tuple[float, ...] | None
    histogram: tuple[int, ...]
    float_accuracy: float | None


def foresight(reference: FloatReference, swapped: Tensor) -> dict[str, Foresight]:
    """Judge every score of the float network as a prophet of its swaps.

    Args:
        reference: From `float_reference`, of N images.
        swapped: `(N,)` bool.

    Returns:
        By score: `confidence`, `margin`, `entropy`, `logit_margin`, `top_logit`.

    Example:
        >>> from qcal.robustness.float_reference import float_reference
        >>> reference = float_reference(torch.tensor([[9.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 0]))
        >>> foresight(reference, torch.tensor([False, True]))["confidence"].auroc
        1.0
    """
    found = {}
    for name, ranked in reference.ranked.items():
        quality = ranking_quality(ranked, swapped)
        reading = reference.readings.get(name)
        judged = None if reading is None else _judge(reading, swapped)
        found[name] = Foresight(quality.auroc, quality.average_precision, judged)
    return found


def confidence_distribution(confidence: Tensor, right: Tensor) -> ConfidenceDistribution:
    """Describe the confidences of some images, of which there may be none.

    Args:
        confidence: `(n,)` in [0, 1].
        right: `(n,)` bool.

    Example:
        >>> confidence_distribution(torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([True] * 4)).deciles[5]
        0.5
    """
    count = len(confidence)
    values = confidence.double().sort().values
    edges = torch.arange(1, 10, dtype=torch.float64) / 10
    histogram = tuple(torch.bincount(torch.bucketize(values, edges), minlength=10).tolist())
    if count == 0:
        return ConfidenceDistribution(0, None, None, histogram, None)
    places = [max(-(-count * tenth // 10), 1) - 1 for tenth in range(11)]  # ceil(q n)-th smallest
    mean, accuracy = values.mean().item(), right.double().mean().item()
    return ConfidenceDistribution(count, mean, tuple(values[places].tolist()), histogram, accuracy)


def _judge(reading: Tensor, swapped: Tensor) -> Reading:
    parts = top_label_brier_decomposition(reading, swapped)
    return Reading(
        mean=reading.double().mean().item(),
        brier=parts.score.item(),
        miscalibration=parts.miscalibration.item(),
        discrimination=parts.discrimination.item(),
        uncertainty=parts.uncertainty.item(),
    )
