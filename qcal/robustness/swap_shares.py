"""How many predictions changed and what that did to the error: shares with intervals, and a test.

Every share has two intervals. Wilson's needs no resampling and holds at 0 and at 1. The bootstrap's draws the images
again, all shares from the same draw, so that a difference (the error change) and a quotient (damage per swap) get one
too.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.bootstrap import RESAMPLES, Interval, percentile_interval, resampled_counts
from qcal.functional.intervals import wilson_interval
from qcal.functional.mcnemar import mcnemar_exact
from qcal.functional.swaps import swap_counts

__all__ = ["Estimate", "Share", "SwapShares", "swap_shares"]


@dataclass(frozen=True)
class Share:
    """A share of the images that was counted.

    Attributes:
        count: Images.
        share: `count` over all images, in [0, 1].
        wilson: 95 % Wilson interval of the share.
        bootstrap: 95 % percentile interval over resampled images; of no width when the count is 0 or all.
    """

    count: int
    share: float
    wilson: Interval
    bootstrap: Interval


@dataclass(frozen=True)
class Estimate:
    """A figure made of several shares.

    Attributes:
        value: The figure.
        bootstrap: 95 % percentile interval over resampled images.
    """

    value: float
    bootstrap: Interval


@dataclass(frozen=True)
class SwapShares:
    """Swaps of N predictions and what they did; see `swap_shares`.

    Attributes:
        num_images: N.
        swapped: Predictions that changed.
        harmful: Right before, wrong after.
        beneficial: Wrong before, right after.
        neutral: Wrong before and after, with different classes.
        tied: Predictions whose largest quantized logit several classes share; the lowest index is taken.
        swapped_by_tie: Swaps although the float prediction is among those classes: the tie-break's doing.
        float_accuracy: Predictions the float network has right.
        quant_accuracy: Predictions the quantized network has right.
        error_change: `error(quantized) - error(float) = harmful - beneficial`, in [-1, 1].
        damage_per_swap: `error_change / swap rate`, in [-1, 1]; None without swaps. Its interval is over the resamples
            that have a swap.
        mcnemar_p: Exact two-sided p-value of "as many repaired as broken"; 1 when neither occurred.
        resamples: Bootstrap draws behind the intervals.
        seed: Of their generator.
    """

    num_images: int
    swapped: Share
    harmful: Share
    beneficial: Share
    neutral: Share
    tied: Share
    swapped_by_tie: Share
    float_accuracy: Share
    quant_accuracy: Share
    error_change: Estimate
    damage_per_swap: Estimate | None
    mcnemar_p: float
    resamples: int
    seed: int


def swap_shares(
    float_prediction: Tensor,
    quant_prediction: Tensor,
    target: Tensor,
    *,
    tied: Tensor | None = None,
    float_class_on_top: Tensor | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SwapShares:
    """Count swaps by what they did, with intervals and McNemar's exact test.

    The bootstrap is exact and costs nothing with the number of images: an image is one of a few kinds, and the number
    of each kind in a resample is multinomial (`resampled_counts`).

    Args:
        float_prediction: `(N,)` int64, N >= 1.
        quant_prediction: `(N,)` int64.
        target: `(N,)` int64.
        tied: `(N,)` bool, whether the largest quantized logit is shared; None: nowhere.
        float_class_on_top: `(N,)` bool, whether the float prediction has the largest quantized logit; None: where the
            predictions agree.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.

    Returns:
        The shares.

    Raises:
        ValueError: Shapes do not fit, or no images.

    Example:
        >>> before, after, target = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 1, 0]), torch.tensor([0, 1, 1, 1])
        >>> shares = swap_shares(before, after, target)
        >>> shares.swapped.share, shares.harmful.count, shares.error_change.value, shares.mcnemar_p
        (0.75, 1, 0.0, 1.0)
    """
    counts = swap_counts(float_prediction, quant_prediction, target)
    swapped = float_prediction != quant_prediction
    before, after = float_prediction == target, quant_prediction == target
    tied = torch.zeros_like(swapped) if tied is None else tied
    by_tie = torch.zeros_like(swapped) if float_class_on_top is None else swapped & float_class_on_top
    flags = (swapped, before, after, tied, by_tie)
    kinds = sum(flag.long() << bit for bit, flag in enumerate(flags))
    assert isinstance(kinds, Tensor)  # the sum of five
    sizes = torch.bincount(kinds, minlength=1 << len(flags)).cpu()
    present = sizes.nonzero().squeeze(1)
    draws = resampled_counts(sizes[present], resamples=resamples, seed=seed)
    # Which kinds of image a share counts, as 0 or 1 for each kind present.
    swap, was, now, tie, tie_made = ((present >> bit & 1).bool() for bit in range(len(flags)))
    chosen = {
        "swapped": swap,
        "harmful": swap & was,
        "beneficial": swap & now,
        "neutral": swap & ~was & ~now,
        "tied": tie,
        "swapped_by_tie": tie_made,
        "float_accuracy": was,
        "quant_accuracy": now,
    }
    sums = dict(zip(chosen, (draws @ torch.stack(list(chosen.values()), dim=1).double()).unbind(1), strict=True))
    num_images = counts.num_images
    shares = {name: _share(int(sizes[present][kind].sum()), num_images, sums[name]) for name, kind in chosen.items()}
    # The identity that the kinds of swap stand for, counted twice.
    worse = shares["float_accuracy"].count - shares["quant_accuracy"].count
    assert worse == counts.harmful - counts.beneficial == shares["harmful"].count - shares["beneficial"].count
    worse_drawn = sums["harmful"] - sums["beneficial"]
    return SwapShares(
        num_images=num_images,
        **shares,
        error_change=Estimate(counts.error_change, percentile_interval(worse_drawn / num_images)),
        damage_per_swap=_damage(counts.damage_per_swap, worse_drawn, sums["swapped"]),
        mcnemar_p=mcnemar_exact(counts.harmful, counts.beneficial),
        resamples=resamples,
        seed=seed,
    )


def _share(count: int, num_images: int, drawn: Tensor) -> Share:
    low, high = wilson_interval(torch.tensor(count), torch.tensor(num_images))
    wilson = Interval(low.item(), high.item())
    return Share(count, count / num_images, wilson, percentile_interval(drawn / num_images))


def _damage(value: float | None, worse: Tensor, swapped: Tensor) -> Estimate | None:
    with_swaps = swapped > 0
    if value is None or not bool(with_swaps.any()):
        return None
    return Estimate(value, percentile_interval(worse[with_swaps] / swapped[with_swaps]))
