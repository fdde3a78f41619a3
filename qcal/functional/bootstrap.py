"""The bootstrap: what a figure would have been on other images, by drawing the images again, with replacement.

Resampling is paired: one draw of rows serves every column, so that a difference or a quotient of two columns has the
spread of paired data. All figures here are made of sums over images, so the sums are what is resampled; the caller
forms shares, differences and quotients of them.

References:
    B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, chapters 6 and 13.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RESAMPLES", "Interval", "percentile_interval", "resampled_counts", "resampled_sums"]

RESAMPLES = 10_000
"""Enough for the ends of a 95 % interval: 250 resamples lie beyond each."""

# Drawn indices held at once (8 bytes each): as many as stay in a CPU's cache between drawing and counting.
_BLOCK_NUMBERS = 1 << 18
# Counts held at once (8 bytes each): they meet the columns together, which are then read once for all of them.
_COUNT_NUMBERS = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A range that is meant to hold the true value.

    Attributes:
        low: Lower end.
        high: Upper end, at least `low`.
    """

    low: float
    high: float


def resampled_sums(values: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """Column sums over rows that are drawn with replacement, as many rows as there are.

    Each resample is a vector of multinomial counts of the N rows, drawn row by row; its sums are `counts @ values`.
    Memory is bounded: only a block of counts is held at once. torch's global generator is neither read nor moved.

    Args:
        values: `(N, K)` real, N >= 1, K >= 1: one row an image, one column a quantity.
        resamples: R >= 1, number of draws.
        seed: Of the generator that draws.

    Returns:
        `(R, K)` float64, on the device of `values`. Divide by N for means.

    Raises:
        ValueError: Another shape, values that are not finite, or no resamples.

    Example:
        >>> sums = resampled_sums(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), resamples=4)
        >>> sums.sum(dim=1).tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    if values.ndim != 2 or 0 in values.shape or values.is_complex():
        raise ValueError(
            f"`values` must have shape (N, K) with N >= 1 rows and K >= 1 columns, got {tuple(values.shape)} "
            f"{values.dtype}. Stack the quantities of each image as columns."
        )
    _check_resamples(resamples)
    columns = values.detach().double()
    _check_finite(columns, "values")
    num_rows = len(columns)
    generator = torch.Generator().manual_seed(seed)
    sums = columns.new_empty(resamples, columns.shape[1])
    for part in torch.split(sums, max(1, _COUNT_NUMBERS // num_rows)):
        part.copy_(_row_counts(num_rows, len(part), generator).to(columns.device) @ columns)
    return sums


def resampled_counts(counts: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """How often each category is drawn when the images are: exactly, at a cost that does not grow with their number.

    With `c_j` of N images in category j, the counts in a resample are multinomial with N draws and probabilities
    `c_j / N`. They are drawn category by category: given the earlier ones, count j is binomial with the draws that are
    left and probability `c_j / (c_j + c_{j+1} + ...)`. The law is that of `resampled_sums` of one-hot rows.

    Args:
        counts: `(M,)` integers >= 0, M >= 1, with a sum N in [1, 2^53].
        resamples: R >= 1, number of draws.
        seed: Of the generator that draws.

    Returns:
        `(R, M)` float64 whole numbers, on the CPU; each row sums to N.

    Raises:
        ValueError: Another shape or type, a negative count, no image at all, or no resamples.

    Example:
        >>> draws = resampled_counts(torch.tensor([90, 0, 10]), resamples=1000)
        >>> draws.shape, draws[0].sum().item(), draws[:, 1].amax().item()
        (torch.Size([1000, 3]), 100.0, 0.0)

    References:
        L. Devroye: Non-Uniform Random Variate Generation, 1986, chapter XI.1.4 (the conditional method).
    """
    integral = not (counts.is_floating_point() or counts.is_complex())
    if counts.ndim != 1 or not integral or len(counts) == 0 or bool((counts < 0).any()) or int(counts.sum()) == 0:
        raise ValueError(
            "`counts` must be a one-dimensional tensor of whole numbers >= 0 that are not all 0, got "
            f"{counts.dtype} {tuple(counts.shape)}. Pass how many images are in each category, as integers."
        )
    _check_resamples(resamples)
    sizes = counts.detach().cpu().long()
    left_over = sizes.flip(0).cumsum(0).flip(0)
    probability = sizes.double() / left_over.clamp(min=1)  # exactly 1 for the last category with images
    generator = torch.Generator().manual_seed(seed)
    remaining = torch.full((resamples,), float(left_over[0]), dtype=torch.float64)
    draws = remaining.new_empty(resamples, len(sizes))
    for category in range(len(sizes)):
        chance = probability[category].expand(resamples).contiguous()
        draws[:, category] = torch.binomial(remaining, chance, generator=generator)
        remaining = remaining - draws[:, category]
    return draws


def percentile_interval(samples: Tensor, *, level: float = 0.95) -> Interval:
    """The central range that holds a share `level` of the samples: the bootstrap's percentile interval.

    Its ends are the `(1 - level) / 2` and `(1 + level) / 2` quantiles, interpolated between neighbouring samples.

    Args:
        samples: `(R,)` real, R >= 1: one value of the figure for each resample.
        level: Coverage the interval aims at, in (0, 1).

    Returns:
        The interval.

    Raises:
        ValueError: Another shape, samples that are not finite, or a level outside (0, 1).

    Example:
        >>> percentile_interval(torch.arange(101.0), level=0.9)
        Interval(low=5.0, high=95.0)

    References:
        B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}. For 95 percent pass 0.95.")
    if samples.ndim != 1 or len(samples) == 0:
        raise ValueError(
            f"`samples` must have shape (R,) with R >= 1, got {tuple(samples.shape)}. Pass one figure at a time."
        )
    ordered = samples.detach().double()
    _check_finite(ordered, "samples")
    ordered = ordered.sort().values
    return Interval(_quantile(ordered, (1 - level) / 2), _quantile(ordered, (1 + level) / 2))


def _row_counts(num_rows: int, resamples: int, generator: torch.Generator) -> Tensor:
    """`(resamples, num_rows)` float64: how often each row is drawn in each of some resamples."""
    counts = torch.empty(resamples, num_rows, dtype=torch.float64)
    for part in torch.split(counts, max(1, _BLOCK_NUMBERS // num_rows)):
        drawn = torch.randint(num_rows, part.shape, generator=generator)
        drawn += torch.arange(0, part.numel(), num_rows)[:, None]
        part.copy_(torch.bincount(drawn.view(-1), minlength=part.numel()).view(part.shape))
    return counts


def _quantile(ordered: Tensor, share: float) -> float:
    # torch.quantile refuses more than 2^24 numbers; sorted ones need no more than this.
    place = round(share * (len(ordered) - 1), 9)  # 0.95 * 100 is 94.99999999999999, which means 95
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below].lerp(ordered[above], place - below))


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise ValueError(f"`resamples` must be at least 1, got {resamples}. 10,000 are enough for a 95 % interval.")


def _check_finite(numbers: Tensor, name: str) -> None:
    bad = ~numbers.isfinite()
    if bool(bad.any()):
        raise ValueError(
            f"`{name}` must be finite, got {int(bad.sum())} of {numbers.numel()} that are NaN or infinite. "
            "Leave out the images, or the resamples, where the figure is undefined."
        )
