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
# Two probabilities closer than this are told apart by their logits: softmax may round them together, or apart, by a few
# units in the last place of float32.
_NEAR_TIE = 1e-5


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
    logits, num_classes = logits.detach(), logits.shape[1]
    at = target.clamp(0, num_classes - 1)
    in_range = at == target
    if logits.device.type == "cpu":
        own, rival = _own_and_rival(logits, at)
        lead, confidence = own - rival, torch.maximum(own, rival)
        correct = lead > 0
        # The usual batch ends here: no tie, no class that does not exist, and (NaN is above nothing) no NaN.
        if bool(((lead.abs_() > _NEAR_TIE) & in_range).all()):
            return confidence, correct
        near = lead <= _NEAR_TIE
        correct[near] = logits[near].argmax(dim=1) == at[near]
    else:
        confidence, correct = _score_by_argmax(logits, at)
    if validate:
        raise_if_bad_rows(confidence, target, num_classes)
    return confidence, correct & in_range


def row_slices(logits: Tensor) -> tuple[Tensor, ...]:
    """The rows in slices that stay in a CPU's cache between the passes over them; on other devices all rows at once."""
    return (logits,) if logits.device.type != "cpu" else torch.split(logits, _rows_per_slice(logits))


def top_class(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence and class, `(n, 1)` each; the class is that of the logits, which softmax may round together."""
    prediction = rows.argmax(dim=1, keepdim=True)
    return torch.softmax(lift_half(rows), dim=1).gather(1, prediction).clamp(max=1), prediction


def _rows_per_slice(logits: Tensor) -> int:
    return max(1, min(logits.shape[0], _SLICE_NUMBERS // logits.shape[1]))


def _score_by_argmax(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    confidence, prediction = top_class(logits)
    return confidence.squeeze(1), prediction.squeeze(1) == at


def _own_and_rival(logits: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """The target's probability and the largest of the others, `(N,)` each; NaN where the row has no softmax."""
    (size, num_classes), rows = logits.shape, _rows_per_slice(logits)
    own, rival = (lift_half(logits[:1]).new_empty(size) for _ in range(2))
    table = own.new_empty(rows, num_classes)  # one for all slices: fresh memory would cost as much as a pass over it
    flat, bits, first = table.view(-1), _as_integers(table), torch.arange(0, table.numel(), num_classes)
    rival_bits = _as_integers(rival)
    for start in range(0, size, rows):
        part = slice(start, start + rows)
        if start + rows > size:
            table, bits, first = table[: size - start], bits[: size - start], first[: size - start]
        torch.softmax(lift_half(logits[part]), dim=1, out=table)
        place = first + at[part]
        torch.take(flat, place, out=own[part])
        flat.index_fill_(0, place, -1.0)
        torch.amax(bits, dim=1, out=rival_bits[part])
    return own, rival  # at most 1 without clamping: each is one summand of a sum of what is not negative, over that sum


def _as_integers(values: Tensor) -> Tensor:
    """The bits of floats that are not negative, or -1: ordered as the floats are, and their maximum costs less.

    NaN stays NaN where it fills the row, as softmax leaves it.
    """
    return values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)
