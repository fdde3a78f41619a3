"""Confidence and correctness of a batch of logits in the fewest passes over it: what every top-label score starts from.

On a CPU finding the top class of each row costs more than its softmax, and a score asks only whether that class is the
target. So the target's probability is compared with the largest of the others; rows where the two nearly tie, which
softmax may round together, are decided by their logits.
"""

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_class_target, check_rows, lift_half, raise_if_bad_rows

__all__ = ["confidence_and_correct", "row_slices", "top_class"]

# A slice of this many logits (8 MB in float32) stays in a CPU's cache between the passes over it; smaller slices cost
# more in calls than they save.
_SLICE_NUMBERS = 1 << 21
# Two probabilities closer than this (relative) are told apart by their logits: softmax may round them together.
_NEAR_TIE = 1e-3


def confidence_and_correct(logits: Tensor, target: Tensor, *, validate: bool = True) -> tuple[Tensor, Tensor]:
    """Confidence, and whether the prediction is right: all that a top-label score needs, in the fewest passes.

    The result is that of `confidence_from_logits` followed by `prediction == target`.

    Args:
        logits: `(N, C)` floating.
        target: `(N,)` int64 class indices.
        validate: Whether to look at values (NaN, range of `target`); False saves a wait for the device, gives NaN
            confidence for NaN logits, and calls predictions of classes that do not exist wrong.

    Returns:
        `(confidence, correct)`: `(N,)` floating and `(N,)` bool; without gradient.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; rows with NaN or `+inf`; targets out of range (with their numbers).

    Example:
        >>> confidence_and_correct(torch.tensor([[0.0, 3.0], [3.0, 3.0]]), torch.tensor([1, 1]))
        (tensor([0.9526, 0.5000]), tensor([ True, False]))
    """
    check_rows(logits, "logits")
    check_class_target(target, logits.shape[0])
    num_classes = logits.shape[1]
    with torch.no_grad():
        at = target.clamp(0, num_classes - 1)
        confidence, correct = (_score_by_rivals if logits.device.type == "cpu" else _score_by_argmax)(logits, at)
        in_range = at == target
        # One look at the device; who is to blame is found out only if there is something to blame.
        if validate and not bool((confidence <= 1).all() & in_range.all()):
            raise_if_bad_rows(confidence, target, num_classes)
    return confidence, correct & in_range


def row_slices(logits: Tensor) -> tuple[Tensor, ...]:
    """The rows in slices that stay in a CPU's cache between the passes over them; on other devices all rows at once."""
    if logits.device.type != "cpu":
        return (logits,)
    return torch.split(logits, max(1, _SLICE_NUMBERS // logits.shape[1]))


def top_class(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and class, `(n, 1)` each; the class is that of the logits, which softmax may round together."""
    prediction = rows.argmax(dim=1, keepdim=True)
    return torch.softmax(lift_half(rows), dim=1).gather(1, prediction).clamp(max=1), prediction


def _score_by_argmax(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    confidence, prediction = top_class(logits)
    return confidence.squeeze(1), prediction.squeeze(1) == at


def _score_by_rivals(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and correctness `(N,)`, from the target's probability and the largest of the others."""
    slices = row_slices(logits)
    rows, num_classes = slices[0].shape
    own, rival = (lift_half(logits[:1]).new_empty(len(at)) for _ in range(2))
    table = own.new_empty(rows, num_classes)  # one for all slices: fresh memory would cost as much as a pass over it
    first = torch.arange(rows) * num_classes
    for part, column, own_part, rival_part in zip(
        slices, *(torch.split(each, rows) for each in (at, own, rival)), strict=True
    ):
        probs = torch.softmax(lift_half(part), dim=1, out=table[: len(part)])
        place = first[: len(part)] + column
        torch.take(probs, place, out=own_part)
        probs.view(-1).index_fill_(0, place, -1.0)
        torch.amax(probs, dim=1, out=rival_part)
    return _decided(logits, at, own, rival)


def _decided(logits: Tensor, at: Tensor, own: Tensor, rival: Tensor) -> tuple[Tensor, Tensor]:
    correct = own > rival * (1 + _NEAR_TIE)
    unclear = (own > rival * (1 - _NEAR_TIE)) & ~correct
    near = unclear.nonzero().squeeze(1)
    if near.numel():
        correct[near] = logits[near].argmax(dim=1) == at[near]
    return torch.maximum(own, rival).clamp_(max=1), correct
