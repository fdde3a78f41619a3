"""Confidence of a classifier, and whether it is deserved: top-class probability, accuracy, and their signed difference.

Confidence is the largest softmax probability. It is computed from the shifted logits, slice by slice, so that no
`(N, C)` table of probabilities is kept; float16 and bfloat16 are lifted to float32 first. Scores (`accuracy`,
`overconfidence`) are 0-dim float64 tensors, because they are differences of nearly equal numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.score_inputs import (
    check_class_target,
    check_confidence,
    check_probs,
    check_rows,
    raise_if_bad_rows,
)
from qcal.functional.top_label import row_slices, top_class

__all__ = [
    "OverconfidenceParts",
    "accuracy",
    "confidence_from_logits",
    "confidence_from_probs",
    "overconfidence",
    "overconfidence_parts",
    "top_k_accuracy",
    "top_k_correct",
]


def confidence_from_logits(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Top-class probability and class of each row of logits.

    `confidence = exp(z_max) / sum_k exp(z_k)`, evaluated after subtracting `z_max`: the exponential of
    `z_max - logsumexp(z)` would lose digits when the logits are large (4e-6 of the value at 60, in float32).

    Args:
        logits: `(N, C)` floating, N >= 1, C >= 2. A class at `-inf` is allowed and has probability 0.

    Returns:
        `(confidence, prediction)`: `(N,)` in (0, 1], float32 or float64 as the logits (half types give float32), and
        `(N,)` int64; of classes that tie, the lowest index.

    Raises:
        TypeError: `logits` are not floating.
        ValueError: another shape; rows with NaN or `+inf` (their number is in the message).

    Example:
        >>> confidence, prediction = confidence_from_logits(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
        >>> confidence, prediction
        (tensor([0.5000, 0.9526]), tensor([0, 1]))
    """
    check_rows(logits, "logits")
    pairs = [top_class(rows) for rows in row_slices(logits)]
    confidence, prediction = (torch.cat(column).squeeze(1) for column in zip(*pairs, strict=True))
    raise_if_bad_rows(confidence.detach())
    return confidence, prediction


def confidence_from_probs(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Top-class probability and class of each row of probabilities.

    Args:
        probs: `(N, C)` floating rows that sum to 1 (within 1e-3, half types 1e-2) and are not negative.

    Returns:
        `(confidence, prediction)` as `confidence_from_logits`; a confidence above 1 by rounding is returned as 1.

    Raises:
        TypeError: `probs` are not floating.
        ValueError: another shape; rows with NaN, with negative entries, or that do not sum to 1 (with their numbers).

    Example:
        >>> confidence_from_probs(torch.tensor([[0.2, 0.8], [0.5, 0.5]]))
        (tensor([0.8000, 0.5000]), tensor([1, 0]))
    """
    probs = check_probs(probs)
    prediction = probs.argmax(dim=1)
    return probs.gather(1, prediction[:, None]).squeeze(1).clamp(max=1), prediction


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of predictions equal to the target, 0-dim float64 in [0, 1].

    Raises:
        TypeError: a tensor is not int64.
        ValueError: shapes other than `(N,)`, N >= 1, twice.

    Example:
        >>> accuracy(torch.tensor([1, 0, 2, 2]), torch.tensor([1, 0, 2, 1])).item()
        0.75
    """
    if prediction.dtype != torch.int64:
        raise TypeError(
            f"`prediction` must hold int64 class indices, got {prediction.dtype}. Pass `scores.argmax(dim=1)`."
        )
    if prediction.ndim != 1 or prediction.shape[0] < 1:
        raise ValueError(
            f"`prediction` must have shape (N,) with N >= 1, got {tuple(prediction.shape)}. Pass one class per sample."
        )
    check_class_target(target, prediction.shape[0])
    return (prediction == target).double().mean()


def top_k_correct(scores: Tensor, target: Tensor, *, k: int) -> Tensor:
    """Whether the target is among the `k` highest scores of its row, `(N,)` bool.

    Classes that tie are ranked by index, lowest first, so that `k=1` agrees with `argmax`.

    Args:
        scores: `(N, C)` floating logits or probabilities.
        target: `(N,)` int64 class indices.
        k: 1 <= k <= C.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, NaN, targets out of range, `k` out of range.

    Example:
        >>> top_k_correct(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), k=2)
        tensor([ True, False])
    """
    check_rows(scores, "logits")
    num_classes = scores.shape[1]
    if not 1 <= k <= num_classes:
        raise ValueError(f"`k` must be in [1, {num_classes}], the number of classes, got {k}. Choose a smaller `k`.")
    check_class_target(target, scores.shape[0], num_classes)
    raise_if_bad_rows(scores.amax(dim=1))
    own = scores.gather(1, target[:, None])
    lower_index = torch.arange(num_classes, device=scores.device) < target[:, None]
    ahead = (scores > own) | ((scores == own) & lower_index)
    return ahead.sum(dim=1) < k


def top_k_accuracy(scores: Tensor, target: Tensor, *, k: int = 5) -> Tensor:
    """Share of samples whose target is among the `k` highest scores, 0-dim float64 in [0, 1]; see `top_k_correct`.

    Example:
        >>> top_k_accuracy(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]]), torch.tensor([1, 2]), k=2).item()
        0.5
    """
    return top_k_correct(scores, target, k=k).double().mean()


def overconfidence(confidence: Tensor, correct: Tensor) -> Tensor:
    """Mean confidence minus accuracy, signed: `mean_i (p_i - c_i)` with `c_i` 1 where correct, else 0.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Returns:
        0-dim float64 in [-1, 1]; positive: more confident than right.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> overconfidence(torch.tensor([0.75, 1.0]), torch.tensor([True, False])).item()
        0.375
    """
    check_confidence(confidence, correct)
    return confidence.double().mean() - correct.double().mean()


@dataclass(frozen=True)
class OverconfidenceParts:
    """Overconfidence, split by whether the prediction is right; `total = on_correct + on_wrong`.

    Attributes:
        total: `mean(confidence) - accuracy`, 0-dim float64.
        on_correct: `sum over correct (p_i - 1) / N`, at most 0: confidence that is missing where it was deserved.
        on_wrong: `sum over wrong (p_i) / N`, at least 0: confidence spent where it was not deserved.
        confidence_correct: Mean confidence of the correct predictions; NaN if there is none.
        confidence_wrong: Mean confidence of the wrong predictions; NaN if there is none.
    """

    total: Tensor
    on_correct: Tensor
    on_wrong: Tensor
    confidence_correct: Tensor
    confidence_wrong: Tensor


def overconfidence_parts(confidence: Tensor, correct: Tensor) -> OverconfidenceParts:
    """Split `overconfidence` into its part on correct and its part on wrong predictions.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> parts = overconfidence_parts(torch.tensor([0.75, 0.5]), torch.tensor([True, False]))
        >>> parts.total.item(), parts.on_correct.item(), parts.on_wrong.item()
        (0.125, -0.125, 0.25)
    """
    check_confidence(confidence, correct)
    confidence = confidence.double()
    on_correct = torch.where(correct, confidence - 1, 0).mean()
    on_wrong = torch.where(correct, 0, confidence).mean()
    return OverconfidenceParts(
        total=on_correct + on_wrong,
        on_correct=on_correct,
        on_wrong=on_wrong,
        confidence_correct=confidence[correct].mean(),
        confidence_wrong=confidence[~correct].mean(),
    )
