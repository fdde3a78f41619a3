"""Search for the range of an activation's grid that makes a cost least, be it an error or a divergence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qcal.functional.affine import affine_scale_zero_point, signed_bounds, symmetric_scale, unsigned_bounds
from qcal.quantization.observers import RangeObserver

# Cost float64 (A,) of the ranges `lo` (A,), `hi` (A,), both float64.
Cost = Callable[[Tensor, Tensor], Tensor]

# Shrink factors tried first: from 1 to 2^-10 in steps of 8 %. Ranges are judged by ratio, and with 2 bits and a heavy
# tail the best one can be hundreds of times narrower than the extremes.
COARSE = 2.0 ** (-torch.arange(81, dtype=torch.float64) / 8)
# Then around the best so far: one coarse step to either side, and once more, eight times finer.
FINE = tuple(2.0 ** (torch.linspace(-1, 1, 17, dtype=torch.float64) * step) for step in (1 / 8, 1 / 64))
_MAX_ROUNDS = 4


@dataclass(frozen=True)
class Levels:
    """What a range becomes: the levels that a cost is computed from.

    Args:
        bits: Width of the integers, 2 to 8.
        signed: Whether the grid is signed and symmetric. Its positive half, 0 to 2^(bits-1) - 1, then quantizes the
            absolute values, so ranges are `(0, hi)` and costs are taken over those. False (default): 0 to 2^bits - 1,
            affine.
    """

    bits: int
    signed: bool = False

    @property
    def quant_max(self) -> int:
        """The highest integer; the lowest is 0."""
        return signed_bounds(self.bits)[1] if self.signed else unsigned_bounds(self.bits)[1]

    def over(self, lo: Tensor, hi: Tensor) -> tuple[Tensor, Tensor]:
        """The levels of the ranges `lo` (A,), `hi` (A,).

        Returns:
            `integers` float64 (A, quant_max + 1), ascending: levels in units of the step, 0 at the zero point; and
            `scale` float64 (A, 1), the step, rounded to float32 as the grid's will be.
        """
        if self.signed:
            scale, zero_point = symmetric_scale(hi, self.bits), torch.zeros(len(hi), dtype=torch.int32)
        else:
            scale, zero_point = affine_scale_zero_point(lo, hi, self.bits)
        return torch.arange(self.quant_max + 1, dtype=torch.float64) - zero_point[:, None], scale[:, None].double()


class Range(NamedTuple):
    """A range and its cost, each float64 (1,)."""

    lo: Tensor
    hi: Tensor
    cost: Tensor

    @property
    def ends(self) -> tuple[float, float]:
        """The range as two numbers."""
        return self.lo.item(), self.hi.item()


def extremes_of(observer: RangeObserver) -> tuple[float, float]:
    """The extremes seen, widened to hold 0: the range of method "minmax", and where searches start."""
    return min(observer.minimum, 0.0), max(observer.maximum, 0.0)


def range_of(cost: Cost, lo: float, hi: float) -> Range:
    """A range with its cost."""
    ends = torch.tensor([lo], dtype=torch.float64), torch.tensor([hi], dtype=torch.float64)
    return Range(*ends, cost(*ends))


def search(cost: Cost, best: Range, grids: Sequence[Tensor]) -> Range:
    """Scale both ends of a range, then each in turn, by every factor of a grid, until nothing gets better.

    Args:
        cost: What to make least.
        best: Where to start; the result is never worse.
        grids: Factors, one grid after the other; those of a grid apply to the range that was best before it.
    """
    for factors in grids:
        start, sides = best, _sides(best)
        for _ in range(_MAX_ROUNDS if len(sides) > 1 else 1):
            before = best
            for side in sides:
                best = _best_of(cost, best, start, factors, side)
            if best is before:
                break
    return best


def _sides(start: Range) -> list[tuple[bool, bool]]:
    """Which of the two ends to move: an end at 0 stays there."""
    if start.lo == 0 or start.hi == 0:
        return [(True, True)]
    return [(True, True), (False, True), (True, False)]


def _best_of(cost: Cost, best: Range, start: Range, factors: Tensor, side: tuple[bool, bool]) -> Range:
    """The best of `best` and of `start` with one or both ends multiplied by each factor; the other end is `best`'s."""
    lo = start.lo * factors if side[0] else best.lo.expand(len(factors))
    hi = start.hi * factors if side[1] else best.hi.expand(len(factors))
    costs = cost(lo, hi)
    at = int(costs.argmin())
    if costs[at] < best.cost:
        return Range(lo[at : at + 1], hi[at : at + 1], costs[at : at + 1])
    return best
