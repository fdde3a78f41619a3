"""What each image's probabilities are worth: the summands of the scores of one network, all from one pass over logits.

A paired comparison needs the scores image by image. Here they come at any temperature, slice by slice, so that beside
the logits only `(N,)` vectors are kept; 50,000 images of 1,000 classes are no burden.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.confidence import confidence_from_logits
from qcal.functional.proper_scores import brier_per_sample, nll_per_sample
from qcal.functional.score_inputs import check_class_target, check_rows, lift_half
from qcal.functional.swaps import lowest_argmax

__all__ = ["RowScores", "row_scores"]

_SLICE_NUMBERS = 1 << 21  # logits scored at a time: 8 MB in float32, which a CPU's cache holds


@dataclass(frozen=True)
class RowScores:
    """The scores of each image, `(N,)` each; their means are the network's scores.

    Attributes:
        confidence: float64 in (0, 1], top-class probability.
        correct: bool, whether the top class is the target; of tied classes the lowest is the prediction.
        nll: float64 >= 0, negative log-likelihood of the target in nats.
        brier: float64 in [0, 2], Brier score over all classes.
    """

    confidence: Tensor
    correct: Tensor
    nll: Tensor
    brier: Tensor


def row_scores(logits: Tensor, target: Tensor, *, temperature: float | Tensor = 1.0) -> RowScores:
    """Confidence, correctness, NLL and Brier score of each row of `softmax(logits / temperature)`.

    No positive temperature changes a prediction, and here none does even by rounding: correctness is that of the
    logits as they are.

    Args:
        logits: `(N, C)` floating, finite.
        target: `(N,)` int64 class indices.
        temperature: What divides the logits: one positive number, or `(N,)` of them, one an image.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; rows with NaN or infinite logits; targets out of range; a temperature that is not
            positive and finite.

    Example:
        >>> rows = row_scores(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), temperature=2.0)
        >>> rows.confidence.tolist(), rows.correct.tolist(), rows.brier[1].item()
        ([0.7310585975646973, 0.5], [True, False], 0.5)
    """
    check_rows(logits, "logits")
    check_class_target(target, *logits.shape)
    divisor = _temperatures(temperature, logits)
    rows = max(1, _SLICE_NUMBERS // logits.shape[1])
    slices = (torch.split(column, rows) for column in (logits.detach(), target, divisor))
    parts = [_score_slice(*part) for part in zip(*slices, strict=True)]
    return RowScores(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _score_slice(logits: Tensor, target: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scaled = lift_half(logits)
    scaled = scaled / temperature[:, None].to(scaled.dtype)
    confidence, _ = confidence_from_logits(scaled)
    score = nll_per_sample(scaled, target)  # refuses rows that are not finite
    brier = brier_per_sample(torch.softmax(scaled, dim=1), target)
    return confidence.double(), lowest_argmax(logits) == target, score, brier


def _temperatures(temperature: float | Tensor, logits: Tensor) -> Tensor:
    """One temperature a row, `(N,)` float64."""
    num_rows, device = len(logits), logits.device
    given = torch.as_tensor(temperature, dtype=torch.float64, device=device)
    if given.ndim not in (0, 1) or (given.ndim == 1 and len(given) != num_rows):
        raise ValueError(
            f"`temperature` must be one number or ({num_rows},), one for each row of logits, got {tuple(given.shape)}. "
            "Leave out further axes."
        )
    good = (given > 0) & (given < math.inf)
    if not bool(good.all()):
        raise ValueError(
            f"`temperature` must be positive and finite, got {int((~good).sum())} of {given.numel()} that are not. "
            "1 changes nothing."
        )
    return given.expand(num_rows)
