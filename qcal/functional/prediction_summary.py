"""A network's logits in a few numbers an image, in one pass: all that the analysis of swaps needs of the float network.

The logits are read in slices that stay in a CPU's cache, so that 50,000 images of 1,000 classes need no second table.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_rows, lift_half, raise_if_bad_rows
from qcal.functional.swaps import lowest_argmax, top_is_tied

__all__ = ["PredictionSummary", "QuantizedRows", "compare_rows", "row_blocks", "summarise_predictions"]

# A block of this many logits (2 MB in float32) stays in a core's own cache between the passes over it.
_BLOCK_NUMBERS = 1 << 19
# Two probabilities closer than this are told apart by their logits: softmax may round them together, or apart.
_NEAR_TIE = 1e-5


@dataclass(frozen=True)
class PredictionSummary:
    """Per image, what a network's logits say; see `summarise_predictions`. All `(N,)`, on the CPU.

    Floats are float32 (float64 for float64 logits).

    Attributes:
        num_classes: C.
        prediction: int64, class with the largest logit; of equals the lowest.
        runner_up: int64, class with the next largest.
        confidence: Probability of `prediction`, in (0, 1].
        doubt: Probability of all other classes: `1 - confidence`, also where that rounds to 0.
        runner_up_confidence: Probability of `runner_up`, in [0, 1/2].
        entropy: Of the softmax, in nats, in [0, log C].
        top_logit: Logit of `prediction`.
        runner_up_logit: Logit of `runner_up`.
    """

    num_classes: int
    prediction: Tensor
    runner_up: Tensor
    confidence: Tensor
    doubt: Tensor
    runner_up_confidence: Tensor
    entropy: Tensor
    top_logit: Tensor
    runner_up_logit: Tensor

    @property
    def margin(self) -> Tensor:
        """Lead of the top class in probability, `(N,)` in [0, 1]."""
        return (self.confidence - self.runner_up_confidence).clamp(min=0)

    @property
    def logit_margin(self) -> Tensor:
        """Lead of the top class in logits, `(N,)`, >= 0."""
        return self.top_logit - self.runner_up_logit


@dataclass(frozen=True)
class QuantizedRows:
    """A block of quantized logits beside the float predictions; see `compare_rows`. All `(n,)`.

    Attributes:
        prediction: int64, class with the largest quantized logit; of equals the lowest.
        confidence: Its probability.
        tied: bool, whether several classes share the largest quantized logit.
        float_class_on_top: bool, whether the float prediction is among those.
    """

    prediction: Tensor
    confidence: Tensor
    tied: Tensor
    float_class_on_top: Tensor


def row_blocks(num_rows: int, num_classes: int) -> Iterator[slice]:
    """Slices over the rows of a table, each small enough to stay in cache.

    Example:
        >>> [(block.start, block.stop) for block in row_blocks(1000, 1000)]
        [(0, 524), (524, 1000)]
    """
    rows = max(1, _BLOCK_NUMBERS // num_classes)
    for start in range(0, num_rows, rows):
        yield slice(start, min(start + rows, num_rows))


def summarise_predictions(logits: Tensor, *, name: str = "logits") -> PredictionSummary:
    """Top two classes, their probabilities and logits, and the entropy of each row.

    Entropy is `log S + sum_k p_k (z_max - z_k)` with `S = sum_k exp(z_k - z_max)`: two terms that are not negative, so
    that nothing cancels.

    Args:
        logits: `(N, C)` floating and finite, N >= 1, C >= 2.
        name: What messages call them.

    Returns:
        The summary, on the CPU.

    Raises:
        TypeError: `logits` are not floating.
        ValueError: Another shape; rows with NaN or infinite values (their number is in the message).

    Example:
        >>> summary = summarise_predictions(torch.tensor([[0.0, 2.0, 1.0]]))
        >>> summary.prediction.item(), summary.runner_up.item(), summary.logit_margin.item()
        (1, 2, 1.0)
        >>> round(summary.margin.item(), 4), round(summary.entropy.item(), 4)
        (0.4205, 0.8324)
    """
    check_rows(logits, name)
    parts = [_summarise(lift_half(logits[block].detach())) for block in row_blocks(*logits.shape)]
    columns = [torch.cat(column).cpu() for column in zip(*parts, strict=True)]
    raise_if_bad_rows(columns.pop())
    return PredictionSummary(logits.shape[1], *columns)


def _summarise(rows: Tensor) -> tuple[Tensor, ...]:
    top, prediction = rows.max(dim=1, keepdim=True)
    others = rows.scatter(1, prediction, -torch.inf)
    next_top, runner_up = others.max(dim=1, keepdim=True)
    tied = (next_top == top).squeeze(1)
    if bool(tied.any()):  # max promises no order among equals
        prediction[tied], runner_up[tied] = _lowest_two(rows[tied])
    shifted = rows - top
    probs = torch.softmax(shifted, dim=1)
    confidence = probs.gather(1, prediction).clamp(max=1)
    entropy = (-confidence.log().squeeze(1) - torch.linalg.vecdot(probs, shifted)).clamp(min=0)
    next_confidence = probs.gather(1, runner_up)
    doubt = probs.scatter_(1, prediction, 0).sum(dim=1, keepdim=True)
    columns = (prediction, runner_up, confidence, doubt, next_confidence)
    # The sum is finite exactly when every logit is (short of overflow, which is as unusable).
    return (*(c.squeeze(1) for c in columns), entropy, top.squeeze(1), next_top.squeeze(1), rows.sum(dim=1))


def _lowest_two(rows: Tensor) -> tuple[Tensor, Tensor]:
    first = lowest_argmax(rows)[:, None]
    return first, lowest_argmax(rows.scatter(1, first, -torch.inf))[:, None]


def compare_rows(quant_rows: Tensor, float_prediction: Tensor, scratch: Tensor) -> QuantizedRows:
    """Prediction, confidence and ties of quantized logits, faster for knowing what the float network predicted.

    Finding the top class costs more than a softmax, and most predictions are not swapped: the float class is compared
    with the largest logit, and only rows where it is below, or where two probabilities nearly tie, are searched.

    Args:
        quant_rows: `(n, C)` float32 or float64.
        float_prediction: `(n,)` int64.
        scratch: `(n, C)` of the dtype of `quant_rows`, which is overwritten.

    Returns:
        The four columns; NaN confidence where a row has NaN or +inf.

    Example:
        >>> rows = torch.tensor([[1.0, 1.0, 0.0], [0.0, 3.0, 0.0]])
        >>> after = compare_rows(rows, torch.tensor([1, 1]), torch.empty(2, 3))
        >>> after.prediction.tolist(), after.tied.tolist(), after.float_class_on_top.tolist()
        ([0, 1], [True, False], [True, True])
    """
    top, place = quant_rows.amax(dim=1), float_prediction[:, None]
    on_top = quant_rows.gather(1, place).squeeze(1) == top
    prediction = float_prediction.clone()
    # Of a row with NaN no class is the largest; its confidence is NaN, whichever is looked up.
    prediction[~on_top] = lowest_argmax(quant_rows[~on_top]).clamp(max=quant_rows.shape[1] - 1)
    torch.softmax(quant_rows, dim=1, out=scratch)
    place = prediction[:, None]
    confidence = scratch.gather(1, place).squeeze(1).clamp(max=1)
    rival = scratch.scatter_(1, place, -1.0).amax(dim=1)
    near = ~(rival < confidence * (1 - _NEAR_TIE))
    tied = torch.zeros_like(on_top)
    close = quant_rows[near]
    prediction[near] = lowest_argmax(close).clamp(max=quant_rows.shape[1] - 1)
    tied[near] = top_is_tied(close)
    return QuantizedRows(prediction, confidence, tied, on_top)
