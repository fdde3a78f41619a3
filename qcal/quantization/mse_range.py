"""The range at which quantizing what was seen makes the least mean squared error."""

from itertools import pairwise

import torch
from torch import Tensor

from qcal.quantization.observers import RangeObserver
from qcal.quantization.range_search import COARSE, FINE, Levels, Range, extremes_of, range_of, search

# Factors on the best range of one bit less: it grows by a few percent, or, where a far cluster comes to be worth
# covering, manifold.
_NEXT = 2.0 ** (torch.arange(-4, 41, dtype=torch.float64) / 8)


def mse_range(observer: RangeObserver, bits: int, *, signed: bool = False) -> tuple[float, float]:
    """The range at which quantizing the numbers seen to `bits` bits makes the least mean squared error.

    Narrower than the extremes, because clipping a few large values costs less than coarser steps for all. The search
    counts the levels that the grid really has (torch's HistogramObserver counts 256 whatever the width).

    It starts at 2 bits. The best grid of `b` bits with its step halved is a grid of `b + 1` bits that holds all its
    levels; there the search goes on. So more bits never increase the error, of the histogram that is: the tensor's own
    error is known to about a bin's width squared. Nor is it ever larger than at the extremes. How close it comes to
    an exhaustive search, the tests say.

    Args:
        observer: What was seen; at least one number.
        bits: Width of the integers, 2 to 8.
        signed: See `Levels`; then `observer` must be one of absolute values.

    Returns:
        `(lo, hi)` with lo <= 0 <= hi.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.cat([torch.linspace(0, 1, 1000), torch.tensor([10.0])]))
        >>> tuple(round(end, 1) for end in mse_range(observer, bits=2))
        (0.0, 0.9)
    """
    extremes = extremes_of(observer)
    errors = [ErrorOfGrid(observer, Levels(width, signed)) for width in range(2, bits + 1)]
    best = search(errors[0], range_of(errors[0], *extremes), (COARSE, *FINE))
    for fewer, error in pairwise(errors):
        halved = _with_half_the_step(best, fewer.levels, error.levels)
        starts = [range_of(error, *ends) for ends in (halved, extremes, best.ends)]
        best = search(error, min(starts, key=lambda start: start.cost.item()), (_NEXT, *FINE))
    return best.ends


class ErrorOfGrid:
    """Mean squared quantization error of the numbers seen, for many ranges at once.

    The numbers nearest one level are neighbours in the sorted histogram, so with running sums of count, count * v and
    count * v^2 a level q contributes `S2 - 2 q S1 + q^2 S0` over its stretch: one look-up a level, not one a bin.

    Args:
        observer: What was seen; at least one number.
        levels: What a range becomes.
    """

    def __init__(self, observer: RangeObserver, levels: Levels) -> None:
        values, counts = (t.cpu() for t in observer.values_and_counts())
        self.levels = levels
        self._values = values
        moments = torch.stack([counts, counts * values, counts * values**2])
        self._sums = torch.cat([torch.zeros(3, 1, dtype=torch.float64), moments.cumsum(1)], dim=1)

    def __call__(self, lo: Tensor, hi: Tensor) -> Tensor:
        """Error (A,) float64 of the ranges `lo` (A,), `hi` (A,)."""
        integers, scale = self.levels.over(lo, hi)
        inner = torch.searchsorted(self._values, (integers[:, :-1] + 0.5) * scale)
        first, last = torch.zeros(len(lo), 1, dtype=torch.int64), torch.full((len(lo), 1), len(self._values))
        ends = torch.cat([first, inner, last], dim=1)
        count, first_moment, second_moment = self._sums[:, ends].diff(dim=-1)
        q = integers * scale
        total: Tensor = (second_moment - 2 * q * first_moment + q**2 * count).sum(1)
        return total / self._sums[0, -1]


def _with_half_the_step(best: Range, levels: Levels, more: Levels) -> tuple[float, float]:
    """The range whose grid of one more bit has half the step of `best`'s, and zero twice as high."""
    integers, scale = levels.over(best.lo, best.hi)
    lowest = 2 * integers[0, 0].item()
    return lowest * scale.item() / 2, (lowest + more.quant_max) * scale.item() / 2
