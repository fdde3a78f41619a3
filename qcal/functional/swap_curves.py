"""Swap curves: where along a score of the float network the swaps lie, and what they did there.

The score (confidence, margin, entropy) is cut into bins once, by its own values; every setting is then counted in the
same bins, so that settings can be laid over each other. A bin is `(lo, hi]`, the first includes its lower end. Bins of
equal width cover the score's range; bins of equal count follow its values (edges half-way between neighbours, equal
values never separated, as in `qcal.functional.equal_count`).

References:
    Xia, Ha, Azevedo, Maji: An Underexplored Dilemma between Confidence and Calibration in Quantized Neural Networks,
    2021, arXiv 2111.08163, figure 2: swaps against float confidence.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qcal.functional.intervals import wilson_interval

__all__ = ["Binning", "ScoreBins", "SwapCurve", "score_bins", "swap_curve"]

Binning = Literal["equal_width", "equal_count"]


@dataclass(frozen=True)
class ScoreBins:
    """A score cut into B bins; see `score_bins`.

    Attributes:
        binning: By which rule.
        edges: `(B + 1,)` float64, increasing.
        index: `(N,)` int64 in [0, B), the bin of each image.
        count: `(B,)` int64, images in each bin.
        mean: `(B,)` float64, mean score in each bin; NaN where it is empty.
    """

    binning: Binning
    edges: Tensor
    index: Tensor
    count: Tensor
    mean: Tensor


@dataclass(frozen=True)
class SwapCurve:
    """Per bin of a score, what quantization changed; see `swap_curve`. B bins; None in place of a share of no images.

    Attributes:
        binning: `equal_width` or `equal_count`.
        edges: B + 1 numbers; bin b is `(edges[b], edges[b + 1]]`.
        mean_score: Mean score in each bin.
        count: Images in each bin.
        swap_rate: Share swapped.
        swap_low: Lower end of its 95 % Wilson interval.
        swap_high: Upper end.
        harmful: Share that was right and is wrong.
        harmful_low: Lower end of its 95 % Wilson interval.
        harmful_high: Upper end.
        float_accuracy: Share that the float network had right.
        float_accuracy_low: Lower end of its 95 % Wilson interval.
        float_accuracy_high: Upper end.
        quant_accuracy: Share that the quantized network has right.
    """

    binning: Binning
    edges: tuple[float, ...]
    mean_score: tuple[float | None, ...]
    count: tuple[int, ...]
    swap_rate: tuple[float | None, ...]
    swap_low: tuple[float | None, ...]
    swap_high: tuple[float | None, ...]
    harmful: tuple[float | None, ...]
    harmful_low: tuple[float | None, ...]
    harmful_high: tuple[float | None, ...]
    float_accuracy: tuple[float | None, ...]
    float_accuracy_low: tuple[float | None, ...]
    float_accuracy_high: tuple[float | None, ...]
    quant_accuracy: tuple[float | None, ...]


def score_bins(score: Tensor, *, binning: Binning, num_bins: int = 10, high: float = 1.0) -> ScoreBins:
    """Cut a score that starts at 0 into bins.

    Args:
        score: `(N,)` floating in [0, high], N >= 1.
        binning: `equal_width`: edges `b * high / B`. `equal_count`: B runs of the sorted scores whose lengths differ by
            at most one, with the edge half-way between neighbours; fewer bins when there are fewer images.
        num_bins: B >= 1.
        high: Upper end of the score's range, > 0: 1 for probabilities, `log C` for entropy, the largest value for a
            margin of logits.

    Returns:
        The bins; the edges run from 0 to `high`.

    Raises:
        ValueError: Another shape, scores outside [0, high] or NaN, an unknown rule, no bins.

    Example:
        >>> bins = score_bins(torch.tensor([0.1, 0.2, 0.9]), binning="equal_width", num_bins=2)
        >>> bins.count.tolist(), [round(mean, 4) for mean in bins.mean.tolist()]
        ([2, 1], [0.15, 0.9])
    """
    values = _checked(score, num_bins, high)
    if binning == "equal_width":
        inner = torch.arange(1, num_bins, dtype=torch.float64, device=values.device) / num_bins * high
    elif binning == "equal_count":
        inner = _even_edges(values.sort().values, min(num_bins, len(values)))
    else:
        raise ValueError(f"`binning` must be 'equal_width' or 'equal_count', got {binning!r}. Choose one of the two.")
    index = torch.bucketize(values, inner)
    num_bins = len(inner) + 1
    count = torch.bincount(index, minlength=num_bins)
    ends = values.new_tensor([0.0, high])
    mean = torch.bincount(index, weights=values, minlength=num_bins) / count
    return ScoreBins(binning, torch.cat([ends[:1], inner, ends[1:]]), index, count, mean)


def swap_curve(bins: ScoreBins, swapped: Tensor, right_before: Tensor, right_after: Tensor) -> SwapCurve:
    """Count swaps, harmful swaps and right predictions in the bins of a score.

    Args:
        bins: From `score_bins`, of N images.
        swapped: `(N,)` bool, whether the prediction changed.
        right_before: `(N,)` bool, whether the float prediction is right.
        right_after: `(N,)` bool, whether the quantized prediction is right.

    Returns:
        The shares of each bin with their Wilson intervals.

    Raises:
        TypeError: A tensor is not bool.
        ValueError: Shapes do not fit.

    Example:
        >>> bins = score_bins(torch.tensor([0.1, 0.2, 0.9]), binning="equal_width", num_bins=2)
        >>> no, yes = torch.tensor([False] * 3), torch.tensor([True] * 3)
        >>> swap_curve(bins, torch.tensor([True, False, False]), yes, no).swap_rate
        (0.5, 0.0)
    """
    for name, flags in {"swapped": swapped, "right_before": right_before, "right_after": right_after}.items():
        if flags.dtype != torch.bool:
            raise TypeError(f"`{name}` must be a bool tensor, got {flags.dtype}. Pass a comparison, such as `a != b`.")
        if flags.shape != bins.index.shape:
            raise ValueError(
                f"`{name}` must have shape {tuple(bins.index.shape)}, one value an image of the bins, got "
                f"{tuple(flags.shape)}. Pass all of the same images."
            )
    harmful = swapped & right_before
    swap_rate, swap_low, swap_high = _shares(bins, swapped)
    harmful_share, harmful_low, harmful_high = _shares(bins, harmful)
    accuracy, accuracy_low, accuracy_high = _shares(bins, right_before)
    return SwapCurve(
        binning=bins.binning,
        edges=tuple(bins.edges.tolist()),
        mean_score=_or_none(bins.mean),
        count=tuple(bins.count.tolist()),
        swap_rate=swap_rate,
        swap_low=swap_low,
        swap_high=swap_high,
        harmful=harmful_share,
        harmful_low=harmful_low,
        harmful_high=harmful_high,
        float_accuracy=accuracy,
        float_accuracy_low=accuracy_low,
        float_accuracy_high=accuracy_high,
        quant_accuracy=_shares(bins, right_after)[0],
    )


Column = tuple[float | None, ...]


def _shares(bins: ScoreBins, happened: Tensor) -> tuple[Column, Column, Column]:
    """Per bin: the share in which something happened, and the ends of its interval."""
    hits = torch.bincount(bins.index[happened], minlength=len(bins.count))
    low, high = wilson_interval(hits, bins.count)
    return _or_none(hits.double() / bins.count), _or_none(low), _or_none(high)


def _or_none(numbers: Tensor) -> Column:
    return tuple(None if number != number else number for number in numbers.tolist())


def _even_edges(ordered: Tensor, num_bins: int) -> Tensor:
    """Half-way points between consecutive runs of the sorted scores, `(num_bins - 1,)`."""
    short, longer = divmod(len(ordered), num_bins)
    run = torch.arange(1, num_bins, device=ordered.device)
    start = run * short + run.clamp(max=longer)
    return (ordered[start - 1] + ordered[start]) / 2


def _checked(score: Tensor, num_bins: int, high: float) -> Tensor:
    if score.ndim != 1 or len(score) == 0 or not score.is_floating_point():
        raise ValueError(
            f"`score` must be floating and of shape (N,) with N >= 1, got {score.dtype} {tuple(score.shape)}. "
            "Pass one score an image."
        )
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}. 10 are usual.")
    values = score.detach().double()
    inside = (values >= 0) & (values <= high)  # False for NaN as well
    if high <= 0 or not bool(inside.all()):
        raise ValueError(
            f"`score` must lie in [0, {high:g}], got {int((~inside).sum())} of {len(score)} values outside or NaN. "
            "Pass `high=` the largest value the score can take, > 0."
        )
    return values
