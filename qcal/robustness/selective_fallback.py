"""Send the least confident predictions of the quantized network to the float one: how many restore its accuracy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.per_image_scores import RowScores
from qcal.functional.selective_fallback import fallback_accuracy, fallback_threshold, smallest_fallback
from qcal.robustness.paired_change import Change, ResampledScore, change_between

__all__ = ["FallbackChoice", "FallbackRule", "SelectiveFallback", "choose_fallback", "summarise_fallback"]

TOLERANCE = 0.001
"""Accuracy that may be missing from the float network's when k is chosen: a tenth of a percent."""

_STEPS = 100  # the curve is kept in steps of one percent


@dataclass(frozen=True)
class FallbackRule:
    """Which images to hand over, chosen on held-out images.

    Attributes:
        share: Share of the held-out images that goes to the float network, in [0, 1].
        threshold: Images whose quantized confidence is at most this go; None if none does.
        tolerance: Accuracy that was allowed to be missing, as a fraction.
    """

    share: float
    threshold: float | None
    tolerance: float


@dataclass(frozen=True)
class FallbackChoice(FallbackRule):
    """A rule, and what it did on the compared images.

    Attributes:
        handed_over: Share of the compared images that the rule sends to the float network.
        accuracy: The float network's accuracy against that of the two networks together.
    """

    handed_over: float
    accuracy: Change


@dataclass(frozen=True)
class SelectiveFallback:
    """Accuracy against the share handed over, and the share that was chosen.

    Attributes:
        share: 0, 0.01, ... 1: shares of images, the least confident, that go to the float network.
        accuracy: Accuracy of the two networks together at each share, on the compared images.
        chosen: The smallest share that restored the float accuracy on held-out images; None without those.
        missing: Why `chosen` is None.
    """

    share: tuple[float, ...]
    accuracy: tuple[float, ...]
    chosen: FallbackChoice | None
    missing: str | None


def choose_fallback(quant: RowScores, float_correct: Tensor, *, tolerance: float = TOLERANCE) -> FallbackRule:
    """The smallest share of held-out images that restores the float accuracy there, within a tolerance.

    Args:
        quant: Scores of the quantized network on held-out images.
        float_correct: `(M,)` bool, whether the float network is right on them.
        tolerance: Accuracy that may be missing, as a fraction in [0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; `tolerance` outside [0, 1].

    Example:
        >>> from qcal.functional.per_image_scores import row_scores
        >>> quant = row_scores(torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))
        >>> rule = choose_fallback(quant, torch.tensor([True, True, True]))
        >>> round(rule.share, 3), round(rule.threshold, 3)
        (0.333, 0.731)
    """
    accuracy = fallback_accuracy(quant.confidence, quant.correct, float_correct)
    k = smallest_fallback(accuracy, tolerance=tolerance)
    threshold = fallback_threshold(quant.confidence, k) if k else None
    return FallbackRule(k / len(float_correct), threshold, tolerance)


def handed_over(quant: RowScores, rule: FallbackRule) -> Tensor:
    """Which images a rule sends to the float network, `(N,)` bool."""
    if rule.threshold is None:
        return torch.zeros_like(quant.correct)
    return quant.confidence <= rule.threshold


def joint_correct(quant: RowScores, float_correct: Tensor, rule: FallbackRule) -> Tensor:
    """Whether the two networks together are right, `(N,)` float64 of 0 and 1."""
    return torch.where(handed_over(quant, rule), float_correct, quant.correct).double()


def summarise_fallback(
    quant: RowScores,
    float_correct: Tensor,
    rule: FallbackRule | str,
    *,
    float_samples: Tensor,
    joint_samples: Tensor,
) -> SelectiveFallback:
    """The curve on the compared images, and what the chosen rule did there.

    Args:
        quant: Scores of the quantized network on the compared images.
        float_correct: `(N,)` bool, whether the float network is right on them.
        rule: From `choose_fallback`, or why there is none.
        float_samples: Accuracy of the float network on resampled images; empty if there are none.
        joint_samples: Likewise of the two networks together under `rule`.
    """
    accuracy = fallback_accuracy(quant.confidence, quant.correct, float_correct)
    num_images = len(float_correct)
    # The whole number of images nearest to each share.
    places = [round(step * num_images / _STEPS) for step in range(_STEPS + 1)]
    chosen = None
    if isinstance(rule, FallbackRule):
        joint = joint_correct(quant, float_correct, rule).mean().item()
        chosen = FallbackChoice(
            share=rule.share,
            threshold=rule.threshold,
            tolerance=rule.tolerance,
            handed_over=handed_over(quant, rule).double().mean().item(),
            accuracy=change_between(
                ResampledScore(float_correct.double().mean().item(), float_samples),
                ResampledScore(joint, joint_samples),
            ),
        )
    return SelectiveFallback(
        share=tuple(step / _STEPS for step in range(_STEPS + 1)),
        accuracy=tuple(accuracy[places].tolist()),
        chosen=chosen,
        missing=rule if isinstance(rule, str) else None,
    )
