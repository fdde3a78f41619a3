"""Swaps: predictions whose argmax differs between the float and the quantized network.

The counts follow Xia et al. 2021 (arXiv 2111.08163): the paper's "swapped predictions" and, of these, the ones that
moved the error.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SwapCounts:
    """How many of `num_images` predictions changed, and what the change did; see `swap_counts`.

    Attributes:
        num_images: Number of predictions compared.
        swapped: Predictions that differ: `harmful + beneficial + neutral`.
        harmful: Right in float, wrong quantized.
        beneficial: Wrong in float, right quantized.
        neutral: Wrong in both, but another class.
    """

    num_images: int
    swapped: int
    harmful: int
    beneficial: int
    neutral: int

    @property
    def swap_rate(self) -> float:
        """Share of all predictions that changed, in [0, 1]."""
        return self.swapped / self.num_images

    @property
    def error_change(self) -> float:
        """`error(quantized) - error(float) = (harmful - beneficial) / num_images`, in [-1, 1]."""
        return (self.harmful - self.beneficial) / self.num_images

    @property
    def damage_per_swap(self) -> float | None:
        """`error_change / swap_rate`, in [-1, 1]; None (undefined, not 0) when nothing was swapped."""
        return (self.harmful - self.beneficial) / self.swapped if self.swapped else None


def swap_counts(float_prediction: Tensor, quantized_prediction: Tensor, target: Tensor) -> SwapCounts:
    """Count the predictions that quantization changed, by what the change did to them.

    With `f` the float prediction, `q` the quantized one and `y` the target: swapped `f != q`, harmful `f == y != q`,
    beneficial `f != y == q`, neutral the other swaps.

    Args:
        float_prediction: `(N,)` int64, argmax of the float logits.
        quantized_prediction: `(N,)` int64, argmax of the quantized logits.
        target: `(N,)` int64 class indices.

    Returns:
        The counts, as a `SwapCounts`.

    Raises:
        ValueError: The three are not one-dimensional of one length, or empty.

    Example:
        >>> counts = swap_counts(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 0]), torch.tensor([0, 1, 1, 1]))
        >>> counts.harmful, counts.beneficial, counts.neutral, counts.swap_rate
        (1, 1, 1, 0.75)
        >>> counts.error_change, counts.damage_per_swap
        (0.0, 0.0)

    References:
        Xia, Ha, Azevedo, Maji: An Underexplored Dilemma between Confidence and Calibration in Quantized Neural
        Networks, 2021, section 3.
    """
    shapes = {tuple(t.shape) for t in (float_prediction, quantized_prediction, target)}
    if len(shapes) != 1 or float_prediction.ndim != 1 or len(target) == 0:
        raise ValueError(
            "Predictions and target must be one-dimensional and of one length > 0, got "
            f"{tuple(float_prediction.shape)}, "
            f"{tuple(quantized_prediction.shape)} and {tuple(target.shape)}. Pass argmax(dim=1) of both logits."
        )
    swapped = float_prediction != quantized_prediction
    right_before, right_after = float_prediction == target, quantized_prediction == target
    harmful, beneficial = swapped & right_before, swapped & right_after
    neutral = swapped & ~right_before & ~right_after
    kinds = torch.stack([kind.sum() for kind in (swapped, harmful, beneficial, neutral)])
    return SwapCounts(len(target), *kinds.tolist())


def top_is_tied(logits: Tensor) -> Tensor:
    """Whether the largest logit occurs more than once, so that the argmax hangs on the order of the classes.

    Quantizing the logits themselves makes such ties; torch's argmax then takes the lowest class index on the CPU.

    Args:
        logits: `(N, C)`, any floating dtype.

    Returns:
        `(N,)` bool.

    Raises:
        ValueError: `logits` is not `(N, C)`.

    Example:
        >>> top_is_tied(torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0]]))
        tensor([ True, False])
    """
    if logits.ndim != 2:
        raise ValueError(
            f"`logits` must have shape (N, C), got {tuple(logits.shape)}. Pass the model's output before argmax."
        )
    return (logits == logits.amax(dim=1, keepdim=True)).sum(dim=1) > 1


def lowest_argmax(logits: Tensor) -> Tensor:
    """The predicted class; of tied classes the one with the lowest index, on every device.

    Args:
        logits: `(N, C)`, any floating dtype.

    Returns:
        `(N,)` int64.

    Raises:
        ValueError: `logits` is not `(N, C)`.

    Example:
        >>> lowest_argmax(torch.tensor([[0.0, 3.0, 3.0], [1.0, 0.0, 0.0]]))
        tensor([1, 0])
    """
    if logits.ndim != 2:
        raise ValueError(
            f"`logits` must have shape (N, C), got {tuple(logits.shape)}. Pass the model's output before argmax."
        )
    # argmax promises no order among equals; the first True of a boolean mask as the largest of 0/1 has the same
    # freedom, a minimum has not.
    classes = torch.arange(logits.shape[1], device=logits.device)
    is_top = logits == logits.amax(dim=1, keepdim=True)
    return torch.where(is_top, classes, logits.shape[1]).amin(dim=1)
