"""What every measuring function asks of its inputs; each refusal says what came, what is allowed and how to repair it.

Shapes and types are looked at first. Checks of values (NaN, ranges, row sums) read one small tensor from the device,
once per call.
"""

import torch
from torch import Tensor

__all__ = [
    "SUM_TOLERANCE",
    "check_class_target",
    "check_confidence",
    "check_probs",
    "check_rows",
    "lift_half",
    "raise_if_bad_rows",
]

# How far a row of probabilities may be from 1. Float: room for values printed with a few digits over 1000 classes;
# half types: each entry is off by up to 2^-9 of itself.
SUM_TOLERANCE = 1e-3
_HALF_SUM_TOLERANCE = 1e-2
_HALF_TYPES = (torch.float16, torch.bfloat16)


def lift_half(scores: Tensor) -> Tensor:
    """`scores` in float32 if they were in float16 or bfloat16, else as they are.

    Example:
        >>> lift_half(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return scores.float() if scores.dtype in _HALF_TYPES else scores


def check_rows(scores: Tensor, name: str) -> None:
    """Check that `scores` is a floating tensor `(N, C)` with N >= 1 and C >= 2.

    Raises:
        TypeError: not a floating tensor.
        ValueError: another shape.
    """
    if not scores.is_floating_point():
        raise TypeError(
            f"`{name}` must be a floating tensor, got {scores.dtype}. Pass the model's output before argmax."
        )
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < 2:
        raise ValueError(
            f"`{name}` must have shape (N, C) with N >= 1 samples and C >= 2 classes, got {tuple(scores.shape)}. "
            "Pass the model's output before argmax, one row per sample."
        )


def check_class_target(target: Tensor, num_samples: int, num_classes: int | None = None) -> None:
    """Check that `target` is int64 `(num_samples,)` and, if `num_classes` is given, that it lies in [0, num_classes).

    Raises:
        TypeError: not int64.
        ValueError: another shape, or values out of range (their number is in the message).
    """
    if target.dtype != torch.int64:
        raise TypeError(f"`target` must hold int64 class indices, got {target.dtype}. Convert it with `.long()`.")
    if tuple(target.shape) != (num_samples,):
        raise ValueError(
            f"`target` must have shape ({num_samples},), one class index per sample, got {tuple(target.shape)}. "
            "Pass class indices, not one-hot rows, for the same batch as the scores."
        )
    if num_classes is not None and bool(_outside(target, num_classes).any()):
        raise ValueError(_target_message(target, num_classes))


def check_confidence(confidence: Tensor, correct: Tensor) -> None:
    """Check that `confidence` is floating `(N,)` with values in [0, 1] and `correct` is bool `(N,)`, N >= 1.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, NaN, or values outside [0, 1] (their number is in the message).
    """
    if not confidence.is_floating_point():
        raise TypeError(
            f"`confidence` must be a floating tensor, got {confidence.dtype}. Pass top-class probabilities."
        )
    if correct.dtype != torch.bool:
        raise TypeError(f"`correct` must be a bool tensor, got {correct.dtype}. Pass `prediction == target`.")
    if confidence.ndim != 1 or confidence.shape != correct.shape or confidence.shape[0] < 1:
        raise ValueError(
            "`confidence` and `correct` must both have shape (N,) with N >= 1, got "
            f"{tuple(confidence.shape)} and {tuple(correct.shape)}. Pass one value per sample, of a split with samples."
        )
    inside = (confidence >= 0) & (confidence <= 1)  # False for NaN as well
    if not bool(inside.all()):
        raise ValueError(
            f"`confidence` must lie in [0, 1], got {int((~inside).sum())} of {confidence.shape[0]} values outside or "
            "NaN. Pass probabilities, for instance from `confidence_from_logits`."
        )


def check_probs(probs: Tensor) -> Tensor:
    """Check that the rows of `probs` `(N, C)` are distributions; return them in float32 or better.

    A row passes when no entry is negative or NaN and its sum is within 1e-3 of 1 (1e-2 for half types).

    Raises:
        TypeError: not a floating tensor.
        ValueError: wrong shape, or bad rows (their number is in the message).
    """
    check_rows(probs, "probs")
    tolerance = _HALF_SUM_TOLERANCE if probs.dtype in _HALF_TYPES else SUM_TOLERANCE
    probs = lift_half(probs)
    row_sum, lowest = probs.sum(dim=1), probs.amin(dim=1)  # both are NaN where the row has a NaN
    good = (row_sum - 1).abs().le(tolerance) & lowest.ge(0)
    if not bool(good.all()):
        raise ValueError(_probs_message(row_sum, lowest, tolerance))
    return probs


def _probs_message(row_sum: Tensor, lowest: Tensor, tolerance: float) -> str:
    nan, negative = row_sum.isnan(), lowest.lt(0)
    unnormalised = ~nan & ~negative & (row_sum - 1).abs().gt(tolerance)
    return (
        f"`probs` must be non-negative rows that sum to 1 (within {tolerance:g}), got {int(nan.sum())} rows with NaN, "
        f"{int(negative.sum())} with negative entries and {int(unnormalised.sum())} that do not sum to 1, of "
        f"{len(nan)}. If these are logits, use the function or `inputs=` for logits."
    )


def raise_if_bad_rows(row_score: Tensor, target: Tensor | None = None, num_classes: int | None = None) -> None:
    """Raise if a row's score is NaN or infinite, or a target out of range; both are read from the device at once.

    Args:
        row_score: `(N,)`, a number derived from each row of logits that is not finite if the row is not usable.
        target: `(N,)` int64, or None to check the scores only.
        num_classes: C, needed with `target`.

    Raises:
        ValueError: with the number of bad rows or targets.
    """
    bad = ~row_score.isfinite()
    checks = bad if target is None or num_classes is None else bad | _outside(target, num_classes)
    if not bool(checks.any()):
        return
    if bool(bad.any()):
        raise ValueError(
            f"`logits` must be finite, got {int(bad.sum())} of {bad.shape[0]} rows with NaN or infinite values. "
            "Look for a diverged training run, an overflow in half precision, or NaN in the images."
        )
    assert target is not None  # only its values can be what is wrong here
    assert num_classes is not None
    raise ValueError(_target_message(target, num_classes))


def _outside(target: Tensor, num_classes: int) -> Tensor:
    return (target < 0) | (target >= num_classes)


def _target_message(target: Tensor, num_classes: int) -> str:
    outside = target[_outside(target, num_classes)]
    return (
        f"`target` must lie in [0, {num_classes - 1}], the {num_classes} classes of the scores, got {outside.numel()} "
        f"of {target.numel()} outside (for instance {int(outside[0])}). Check the label encoding and the number of "
        "outputs of the model."
    )
