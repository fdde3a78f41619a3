"""Compare a quantized network with its float self, from logits alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.calibration import ece
from qcal.functional.confidence import confidence_from_logits, overconfidence
from qcal.functional.proper_scores import nll
from qcal.functional.swaps import lowest_argmax, swap_counts, top_is_tied


@dataclass(frozen=True)
class Scores:
    """What one network's logits are worth, as fractions: see `score`.

    Attributes:
        accuracy: Share of predictions that are right, in [0, 1].
        ece: Expected calibration error, 15 equal-width bins `(lo, hi]`, L1, in [0, 1].
        overconfidence: Mean confidence minus accuracy, signed, in [-1, 1].
        mean_confidence: Mean top-class probability, in [0, 1].
        nll: Mean negative log-likelihood in nats, >= 0.
    """

    accuracy: float
    ece: float
    overconfidence: float
    mean_confidence: float
    nll: float


@dataclass(frozen=True)
class Comparison(Scores):
    """One quantized network beside its float self; see `compare`.

    Shares are of all predictions, in [0, 1], unless stated otherwise.

    Attributes:
        num_images: Number of predictions compared.
        error_change: `error(quantized) - error(float) = harmful - beneficial`, in [-1, 1].
        swap_rate: Share of predictions whose argmax differs.
        harmful: Share that was right and is wrong.
        beneficial: Share that was wrong and is right.
        neutral: Share that was wrong and is wrong with another class.
        damage_per_swap: `error_change / swap_rate`; None without swaps.
        ties: Share of predictions whose top quantized logit is shared by several classes (the lowest index was taken).
        swaps_by_tie: Share that is swapped although the float prediction is among the tied top classes: the
            tie-break's swaps, nothing else's.
        float_confidence_of_swapped: Mean float confidence of the swapped predictions; None without swaps.
        float_confidence_of_unswapped: The same of the others; None when all swapped.
    """

    num_images: int
    error_change: float
    swap_rate: float
    harmful: float
    beneficial: float
    neutral: float
    damage_per_swap: float | None
    ties: float
    swaps_by_tie: float
    float_confidence_of_swapped: float | None
    float_confidence_of_unswapped: float | None


def score(logits: Tensor, target: Tensor) -> Scores:
    """Accuracy and confidence of one network's logits.

    Args:
        logits: `(N, C)`, any floating dtype, finite.
        target: `(N,)` int64 in [0, C).

    Returns:
        The five numbers; of tied top logits the lowest class index is the prediction.

    Raises:
        ValueError: Shapes do not fit, logits are not finite, a target is out of range.

    Example:
        >>> score(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])).accuracy
        0.5
    """
    _check(logits, target, "logits")
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    confidence, _ = confidence_from_logits(logits)
    correct = lowest_argmax(logits) == target
    return Scores(
        accuracy=correct.double().mean().item(),
        ece=ece(confidence, correct).item(),
        overconfidence=overconfidence(confidence, correct).item(),
        mean_confidence=confidence.double().mean().item(),
        nll=nll(logits, target).item(),
    )


def compare(float_logits: Tensor, quant_logits: Tensor, target: Tensor) -> Comparison:
    """What quantization changed in the predictions and in their probabilities.

    Args:
        float_logits: `(N, C)` of the float network.
        quant_logits: `(N, C)` of the quantized network, same images in the same order.
        target: `(N,)` int64 in [0, C).

    Returns:
        The quantized network's scores and the swaps between the two, as a `Comparison`.

    Raises:
        ValueError: Shapes do not fit, logits are not finite, a target is out of range.

    Example:
        >>> before, after = torch.tensor([[2.0, 0.0], [0.1, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.1]])
        >>> result = compare(before, after, torch.tensor([0, 0]))
        >>> result.swap_rate, result.error_change, result.damage_per_swap
        (0.5, 0.5, 1.0)
    """
    _check(float_logits, target, "float_logits")
    _check(quant_logits, target, "quant_logits")
    if float_logits.shape != quant_logits.shape:
        raise ValueError(
            f"`float_logits` and `quant_logits` must have one shape, got {tuple(float_logits.shape)} and "
            f"{tuple(quant_logits.shape)}. "
            "Run both networks on the same images."
        )
    before, after = lowest_argmax(float_logits), lowest_argmax(quant_logits)
    counts = swap_counts(before, after, target)
    swapped, tied = before != after, top_is_tied(quant_logits)
    float_class_is_top = quant_logits.gather(1, before[:, None]).squeeze(1) == quant_logits.amax(dim=1)
    confidence = confidence_from_logits(float_logits)[0].double()
    n = counts.num_images
    return Comparison(
        **vars(score(quant_logits, target)),
        num_images=n,
        error_change=counts.error_change,
        swap_rate=counts.swap_rate,
        harmful=counts.harmful / n,
        beneficial=counts.beneficial / n,
        neutral=counts.neutral / n,
        damage_per_swap=counts.damage_per_swap,
        ties=int(tied.sum()) / n,
        swaps_by_tie=int((swapped & float_class_is_top).sum()) / n,
        float_confidence_of_swapped=confidence[swapped].mean().item() if counts.swapped else None,
        float_confidence_of_unswapped=confidence[~swapped].mean().item() if counts.swapped < n else None,
    )


def _check(logits: Tensor, target: Tensor, name: str) -> None:
    if logits.ndim != 2 or target.ndim != 1 or len(logits) != len(target) or len(target) == 0:
        raise ValueError(
            f"`{name}` must have shape (N, C) and `target` (N,) with N > 0, got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}. "
            "Pass the model's output before argmax, and the labels of the same images."
        )
    broken = int((~torch.isfinite(logits)).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinity in {broken} of {len(logits)} rows. "
            "Look for a diverged training run or an overflow in half precision."
        )
    if int(target.min()) < 0 or int(target.max()) >= logits.shape[1]:
        raise ValueError(
            f"`target` must lie in [0, {logits.shape[1] - 1}], got values in [{int(target.min())}, "
            f"{int(target.max())}]. "
            "The model has fewer outputs than the data has classes, or the labels do not start at 0."
        )
