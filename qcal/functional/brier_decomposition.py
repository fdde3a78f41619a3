"""The Brier score taken apart: what calibration could gain, what discrimination earned, what was there to earn."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.proper_scores import top_label_brier
from qcal.functional.score_inputs import check_confidence

__all__ = ["BrierDecomposition", "isotonic_recalibration", "top_label_brier_decomposition"]


@dataclass(frozen=True)
class BrierDecomposition:
    """`score = miscalibration - discrimination + uncertainty`; each 0-dim float64.

    Attributes:
        score: Top-label Brier score, in [0, 1].
        miscalibration: What isotonic recalibration of the confidences would take off; >= 0, and 0 only if it changes
            nothing.
        discrimination: How much better the recalibrated confidences are than their mean; >= 0.
        uncertainty: Brier score of always saying the accuracy: `accuracy * (1 - accuracy)`, in [0, 1/4].
    """

    score: Tensor
    miscalibration: Tensor
    discrimination: Tensor
    uncertainty: Tensor


def top_label_brier_decomposition(confidence: Tensor, correct: Tensor) -> BrierDecomposition:
    """CORP decomposition of the top-label Brier score, by isotonic regression of correctness on confidence.

    With `f` the isotonic fit, `c_i` 1 where correct, `a` the accuracy and `B(q) = mean_i (q_i - c_i)^2`:
    `miscalibration = B(p) - B(f(p))`, `discrimination = B(a) - B(f(p))`, `uncertainty = B(a)`. No bins are chosen.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> parts = top_label_brier_decomposition(torch.tensor([0.5, 1.0]), torch.tensor([False, True]))
        >>> parts.score.item(), parts.miscalibration.item(), parts.discrimination.item(), parts.uncertainty.item()
        (0.125, 0.125, 0.25, 0.25)

    References:
        Dimitriadis, Gneiting, Jordan: Stable Reliability Diagrams for Probabilistic Classifiers, PNAS 118 (8), 2021.
    """
    score = top_label_brier(confidence, correct)
    hit = correct.double()
    recalibrated = (isotonic_recalibration(confidence, correct) - hit).square().mean()
    rate = hit.mean()
    uncertainty = rate * (1 - rate)
    return BrierDecomposition(
        score=score,
        miscalibration=score - recalibrated,
        discrimination=uncertainty - recalibrated,
        uncertainty=uncertainty,
    )


def isotonic_recalibration(confidence: Tensor, correct: Tensor) -> Tensor:
    """The non-decreasing function of confidence that is closest to correctness, at each sample, `(N,)` float64.

    Samples of equal confidence get one value: they are pooled before the fit, so that their order cannot matter. The
    fit (pool adjacent violators) is scikit-learn's; the pooled values go to the CPU for it and come back.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> isotonic_recalibration(torch.tensor([0.5, 0.5, 0.9]), torch.tensor([True, False, True])).tolist()
        [0.5, 0.5, 1.0]
    """
    # scikit-learn takes a second to import, and only this function needs it.
    from sklearn.isotonic import isotonic_regression

    check_confidence(confidence, correct)
    _, group, size = torch.unique(confidence.double(), return_inverse=True, return_counts=True)
    weight = size.double()
    rate = torch.zeros_like(weight).index_add_(0, group, correct.double()) / weight
    fitted = isotonic_regression(rate.cpu().numpy(), sample_weight=weight.cpu().numpy())
    return torch.as_tensor(fitted, dtype=torch.float64, device=confidence.device)[group]
