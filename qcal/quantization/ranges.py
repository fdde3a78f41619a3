"""Range estimation: from what an observer saw to the ends of an activation's grid."""

from typing import NamedTuple

import torch
from torch import Tensor

from qcal.functional.affine import affine_scale_zero_point, unsigned_bounds
from qcal.quantization.observers import RangeObserver
from qcal.quantization.setting import ActivationRange

# Shrink factors tried first: from 1 to 2^-10 in steps of 8 %. Ranges are judged by ratio, and with 2 bits and a heavy
# tail the best one can be hundreds of times narrower than the extremes.
_COARSE = 2.0 ** (-torch.arange(81, dtype=torch.float64) / 8)
# Then around the best so far: one coarse step to either side, and once more, eight times finer.
_FINE = tuple(2.0 ** (torch.linspace(-1, 1, 17, dtype=torch.float64) * step) for step in (1 / 8, 1 / 64))
_MAX_ROUNDS = 4


def activation_range(observer: RangeObserver, method: ActivationRange, bits: int) -> tuple[float, float]:
    """Lowest and highest value of the grid by the named method; see `minmax_range` and `mse_range`."""
    return mse_range(observer, bits) if method == "mse" else minmax_range(observer)


def minmax_range(observer: RangeObserver) -> tuple[float, float]:
    """The extremes seen, widened to hold 0.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.tensor([0.5, 2.0]))
        >>> minmax_range(observer)
        (0.0, 2.0)
    """
    return min(observer.minimum, 0.0), max(observer.maximum, 0.0)


def mse_range(observer: RangeObserver, bits: int) -> tuple[float, float]:
    """The range at which quantizing the numbers seen to `bits` bits makes the least mean squared error.

    Narrower than the extremes, because clipping a few large values costs less than coarser steps for all. The search
    counts the levels that the grid really has, 2^bits (torch's HistogramObserver counts 256 whatever the width).
    It scales both ends, then each in turn, then refines; the tests compare it with an exhaustive search. It never does
    worse than the extremes themselves, which are the first candidate.

    Args:
        observer: What was seen; at least one number.
        bits: Width of the integers, 2 to 8.

    Returns:
        `(lo, hi)` with lo <= 0 <= hi.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.cat([torch.linspace(0, 1, 1000), torch.tensor([10.0])]))
        >>> tuple(round(end, 1) for end in mse_range(observer, bits=2))
        (0.0, 0.9)
    """
    lo, hi = (torch.tensor([end], dtype=torch.float64) for end in minmax_range(observer))
    error = _ErrorOfGrid(observer, bits)
    best = extremes = _Range(lo, hi, error(lo, hi))
    sides = [(True, True)] if lo == 0 or hi == 0 else [(True, True), (False, True), (True, False)]
    for factors in (_COARSE, *_FINE):
        for _ in range(_MAX_ROUNDS):
            before = best
            for side in sides:
                start = extremes if factors is _COARSE else best
                best = _best_of(error, best, start, factors, side)
            if best is before:
                break
    return best.lo.item(), best.hi.item()


class _Range(NamedTuple):
    """A range and the error it makes, each float64 (1,)."""

    lo: Tensor
    hi: Tensor
    error: Tensor


def _best_of(error: "_ErrorOfGrid", best: _Range, start: _Range, factors: Tensor, side: tuple[bool, bool]) -> _Range:
    """The best of `best` and of `start` with one or both ends multiplied by each factor; the other end is `best`'s."""
    lo = start.lo * factors if side[0] else best.lo.expand(len(factors))
    hi = start.hi * factors if side[1] else best.hi.expand(len(factors))
    errors = error(lo, hi)
    at = int(errors.argmin())
    if errors[at] < best.error:
        return _Range(lo[at : at + 1], hi[at : at + 1], errors[at : at + 1])
    return best


class _ErrorOfGrid:
    """Mean squared quantization error of the numbers seen, for many ranges at once.

    The numbers nearest one level are neighbours in the sorted histogram, so with running sums of count, count * v and
    count * v^2 a level q contributes `S2 - 2 q S1 + q^2 S0` over its stretch: 2^bits look-ups a range, not one a bin.
    """

    def __init__(self, observer: RangeObserver, bits: int) -> None:
        values, counts = (t.cpu() for t in observer.values_and_counts())
        self._bits = bits
        self._values = values
        moments = torch.stack([counts, counts * values, counts * values**2])
        self._sums = torch.cat([torch.zeros(3, 1, dtype=torch.float64), moments.cumsum(1)], dim=1)

    def __call__(self, lo: Tensor, hi: Tensor) -> Tensor:
        """Error (A,) float64 of the ranges `lo` (A,), `hi` (A,)."""
        scale, zero_point = affine_scale_zero_point(lo, hi, self._bits)
        levels = torch.arange(unsigned_bounds(self._bits)[1] + 1) - zero_point[:, None]
        edges = (levels[:, :-1] + 0.5) * scale[:, None].double()
        inner = torch.searchsorted(self._values, edges)
        first, last = torch.zeros(len(lo), 1, dtype=torch.int64), torch.full((len(lo), 1), len(self._values))
        ends = torch.cat([first, inner, last], dim=1)
        count, first_moment, second_moment = self._sums[:, ends].diff(dim=-1)
        q = levels * scale[:, None].double()
        total: Tensor = (second_moment - 2 * q * first_moment + q**2 * count).sum(1)
        return total / self._sums[0, -1]
