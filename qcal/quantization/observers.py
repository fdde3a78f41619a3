"""What one pass over the images keeps of a tensor: its extremes and a histogram, in memory that does not grow.

Bins are `[k * width, (k + 1) * width)` for integers k, and the width is a power of two. So when a larger value arrives
the width doubles and neighbouring bins are added up exactly, nothing is interpolated, and the result depends neither on
the order of the images nor on how they were batched. Two observers of different images (processes of a distributed
run) merge into the one that would have seen all of them. (The one exception: a number so small beside the largest that
dividing it by the width underflows counts as 0.)

`torch.ao`'s HistogramObserver spreads counts over new bins by interpolation instead, and costs three times as much.
"""

import math

import torch
from torch import Tensor

# Bins on each side of zero. The width is the smallest that holds the largest value seen, so that value lies in the
# upper half: 4096 bins or more between zero and it, 16 a step at 8 bits.
BINS = 8192
_LOG2_BINS = 13
# Narrower bins than this would need a factor `1 / width` that float32 does not have.
_SMALLEST_EXPONENT = -126

# So many numbers at a time stay in the caches of a CPU between the steps, which saves a third of the time.
_PORTION = 1 << 20


class RangeObserver:
    """Extremes and histogram of all the numbers seen.

    Attributes:
        minimum: Lowest number seen; inf before the first.
        maximum: Highest number seen; -inf before the first.
        exponent: The bin width is `2 ** exponent`.
        counts: int64 (2 * BINS,): how many numbers fell into each bin; bin k is entry `k + BINS`.

    Example:
        >>> observer = RangeObserver()
        >>> observer.update(torch.tensor([-1.0, 0.25, 3.0]))
        >>> observer.minimum, observer.maximum, observer.width, observer.num_seen
        (-1.0, 3.0, 0.00048828125, 3)
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.minimum = math.inf
        self.maximum = -math.inf
        self.exponent = _SMALLEST_EXPONENT
        self.counts = torch.zeros(2 * BINS, dtype=torch.int64, device=device)

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0**self.exponent

    @property
    def num_seen(self) -> int:
        """How many numbers were seen."""
        return int(self.counts.sum())

    def update(self, x: Tensor) -> None:
        """Take in every element of a float32 tensor of any shape.

        Raises:
            ValueError: `x` holds NaN or infinity.
        """
        if x.numel() == 0:
            return
        numbers = _flat(x)
        minimum, maximum = (float(v) for v in torch.aminmax(numbers))
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            raise ValueError("`x` must be finite, got NaN or infinity.")
        self.minimum, self.maximum = min(self.minimum, minimum), max(self.maximum, maximum)
        self._widen(_exponent_for(max(-minimum, maximum)))
        for portion in torch.split(numbers, _PORTION):
            # int16 holds [-BINS, 2 * BINS) and halves the traffic. The shift comes after rounding down: added to the
            # float it would round -1e-9 up to bin 0.
            bins = portion.mul(2.0**-self.exponent).floor_().to(torch.int16).add_(BINS)
            self.counts += torch.bincount(bins, minlength=2 * BINS)

    def merge(self, other: "RangeObserver") -> None:
        """Take in all that another observer saw; exact, and the same in either order."""
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._widen(other.exponent)
        self.counts += _halved(other.counts, self.exponent - other.exponent).to(self.counts.device)

    def to(self, device: torch.device | str) -> "RangeObserver":
        """The same statistics on another device."""
        moved = RangeObserver(device)
        moved.merge(self)
        return moved

    def values_and_counts(self) -> tuple[Tensor, Tensor]:
        """The histogram as weighted values, empty bins left out.

        Returns:
            `values` float64 (V,), ascending, and `counts` float64 (V,). A bin stands for its centre, within the
            extremes seen; the bin that starts at 0 stands for 0: ReLU puts most of its numbers exactly there.
        """
        (bins,) = torch.nonzero(self.counts, as_tuple=True)
        k = bins.to(torch.float64) - BINS
        centres = torch.where(k == 0, 0.0, k + 0.5) * self.width
        return centres.clamp(self.minimum, self.maximum), self.counts[bins].to(torch.float64)

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _halved(self.counts, exponent - self.exponent)
            self.exponent = exponent


def _exponent_for(magnitude: float) -> int:
    """The smallest exponent at which `magnitude < BINS * 2 ** exponent`."""
    if magnitude == 0:
        return _SMALLEST_EXPONENT
    return max(math.frexp(magnitude)[1] - _LOG2_BINS, _SMALLEST_EXPONENT)


def _halved(counts: Tensor, times: int) -> Tensor:
    """Counts over bins `2 ** times` as wide: bin k goes into bin `floor(k / 2 ** times)`."""
    k = torch.arange(-BINS, BINS, device=counts.device)
    wide = torch.bitwise_right_shift(k, min(times, 62)) + BINS
    return torch.zeros_like(counts).index_add_(0, wide, counts)


def _flat(x: Tensor) -> Tensor:
    """All elements in the order of memory, which needs no copy for any dense layout (channels_last).

    Reductions over a flat tensor are also much faster: ten times, for the extremes of a channels_last one.
    """
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)
