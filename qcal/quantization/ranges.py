"""Range estimation: from what an observer saw to an activation's grid.

A symmetric grid over numbers of both signs is the mirror image of its positive half. So each method has one form, a
range `(lo, hi)` around 0, and for such a grid it is asked about the absolute values, whose range is `(0, hi)`.
"""

import math

import torch
from torch import Tensor

from qcal.quantization.entropy_range import entropy_range
from qcal.quantization.mse_range import mse_range
from qcal.quantization.observers import BINS, RangeObserver
from qcal.quantization.quantizer import Grid
from qcal.quantization.range_search import extremes_of
from qcal.quantization.specs import ActivationSpec


def activation_grid(observer: RangeObserver, spec: ActivationSpec) -> Grid:
    """The grid of a stored tensor.

    Args:
        observer: What was seen of it.
        spec: The range method, the bits, and the symmetry. "affine": unsigned with a zero point. "symmetric": zero
            point 0; unsigned, 0 to 2^bits - 1, if nothing negative was seen, else -(2^(bits-1) - 1) to 2^(bits-1) - 1.

    Raises:
        ValueError: nothing was seen.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.tensor([-1.0, 0.5, 2.0]))
        >>> activation_grid(observer, ActivationSpec(bits=2))
        Grid(scale=1.0, zero_point=1, quant_min=0, quant_max=3)
        >>> activation_grid(observer, ActivationSpec(bits=2, symmetry="symmetric"))
        Grid(scale=2.0, zero_point=0, quant_min=-1, quant_max=1)
    """
    if observer.minimum > observer.maximum:
        raise ValueError("A range needs at least one number seen, got none. Call `update` with what passes there.")
    if spec.symmetry == "symmetric" and observer.minimum < 0:
        _, largest = _range(observer.magnitudes(), spec, signed=True)
        return Grid.symmetric(largest, spec.bits)
    return Grid.over(*_range(observer, spec, signed=False), spec.bits)


def minmax_range(observer: RangeObserver) -> tuple[float, float]:
    """The extremes seen, widened to hold 0.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.tensor([0.5, 2.0]))
        >>> minmax_range(observer)
        (0.0, 2.0)
    """
    return extremes_of(observer)


def moving_average_range(observer: RangeObserver) -> tuple[float, float]:
    """The running averages of the extremes of each batch, widened to hold 0.

    The one method whose result depends on the order and the size of the batches; see `qcal.quantization.observers`.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.tensor([0.5, 2.0]))
        >>> observer.update(torch.tensor([0.5, 3.0]))
        >>> moving_average_range(observer)
        (0.0, 2.01)
    """
    return min(observer.moving_minimum, 0.0), max(observer.moving_maximum, 0.0)


def percentile_range(observer: RangeObserver, percentile: float) -> tuple[float, float]:
    """The quantiles of all numbers seen, each side by itself, widened to hold 0.

    `hi` is the least number that at least `percentile` % of the numbers do not exceed, `lo` the greatest that at least
    as many do not fall below: at most `100 - percentile` % are clipped on each side. The zeros of a ReLU are numbers
    as any other. Both ends are exact to a bin of the histogram, on the outer side and never beyond the extremes, so
    percentile 100 is min-max. Where so few numbers differ from 0 that both quantiles are 0, the range is that of the
    extremes, for a grid needs a width.

    For a symmetric grid of numbers of both signs it is the quantile of the absolute values (as for weights).

    Args:
        observer: What was seen; at least one number.
        percentile: In (50, 100].

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.cat([torch.linspace(0, 1, 1000), torch.tensor([10.0])]))
        >>> tuple(round(end, 2) for end in percentile_range(observer, 99.0))
        (0.0, 0.99)
    """
    counts, (lowest, highest) = observer.counts.cpu(), extremes_of(observer)
    first = -1 - _quantile_bin(counts.flip(0), percentile)
    last = _quantile_bin(counts, percentile)
    lo = max(min(first * observer.width, 0.0), lowest)
    hi = min(max((last + 1) * observer.width, 0.0), highest) if last != 0 else 0.0  # that bin stands for 0
    return (lo, hi) if lo < hi else (lowest, highest)


def _quantile_bin(counts: Tensor, percentile: float) -> int:
    """The bin in which the running sum of counts reaches `percentile` %."""
    rank = math.ceil(int(counts.sum()) * percentile / 100)
    return int(torch.searchsorted(counts.cumsum(0), rank)) - BINS


def _range(observer: RangeObserver, spec: ActivationSpec, *, signed: bool) -> tuple[float, float]:
    if spec.range == "minmax":
        return minmax_range(observer)
    if spec.range == "moving_average":
        return moving_average_range(observer)
    if spec.range == "percentile":
        return percentile_range(observer, spec.percentile)
    if spec.range == "mse":
        return mse_range(observer, spec.bits, signed=signed)
    return entropy_range(observer, spec.bits, signed=signed)
