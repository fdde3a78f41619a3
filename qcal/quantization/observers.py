"""What one pass over the images keeps of a tensor: its extremes, their running averages and a histogram.

That is all any range method needs, in memory that does not grow with the number of images.

Bins are `[k * width, (k + 1) * width)` for integers k, and the width is a power of two. So when a larger value arrives
the width doubles and neighbouring bins are added up exactly, nothing is interpolated, and the result depends neither on
the order of the images nor on how they were batched. Two observers of different images (processes of a distributed
run) merge into the one that would have seen all of them. (The one exception: a number so small beside the largest that
dividing it by the width underflows counts as 0.)

The running averages are the exception by their nature: `average += 0.01 * (extreme of this batch - average)`, starting
from the first batch, as in torch's MovingAverageMinMaxObserver. They depend on the order and the size of the batches.
Observers that saw different images merge to the average of their averages, weighted by the number of batches; those of
parts of one pass are joined into its exact averages by `observers_in_parts`.

`torch.ao`'s HistogramObserver spreads counts over new bins by interpolation instead, and costs three times as much.
"""

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

# Bins on each side of zero. The width is the smallest that holds the largest value seen, so that value lies in the
# upper half: 4096 bins or more between zero and it, 16 a step at 8 bits.
BINS = 8192
_LOG2_BINS = 13
# Narrower bins than this would need a factor `1 / width` that float32 does not have.
_SMALLEST_EXPONENT = -126

# So many numbers at a time (2 MiB) stay in the caches of a CPU between the steps, which halves the time of the first.
_PORTION = 1 << 19
# Tables to count into where there are many numbers; below, adding the tables up costs more than they save.
_LANES = 4
_MANY = 1 << 17

# Weight of a new batch in the running averages of the extremes: the default of torch's observer.
AVERAGING = 0.01


class RangeObserver:
    """Extremes, running averages of the extremes, and histogram of all the numbers seen.

    Attributes:
        minimum: Lowest number seen; inf before the first.
        maximum: Highest number seen; -inf before the first.
        moving_minimum: Running average of the lowest number of each batch; inf before the first.
        moving_maximum: Running average of the highest number of each batch; -inf before the first.
        num_batches: How many calls of `update` brought numbers.
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
        self.moving_minimum = math.inf
        self.moving_maximum = -math.inf
        self.num_batches = 0
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
        self._average(minimum, maximum)
        self._widen(_exponent_for(max(-minimum, maximum)))
        for portion in torch.split(numbers, _PORTION):
            self._count(portion, signed=minimum < 0)

    def merge(self, other: "RangeObserver") -> None:
        """Take in all that another observer saw; exact, and the same in either order.

        Only the running averages cannot be those of one observer that saw everything: they become the average of both,
        weighted by the number of batches.
        """
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        if self.num_batches == 0:
            self.moving_minimum, self.moving_maximum = other.moving_minimum, other.moving_maximum
        elif other.num_batches > 0:
            ours, theirs = self.num_batches, other.num_batches
            self.moving_minimum = (ours * self.moving_minimum + theirs * other.moving_minimum) / (ours + theirs)
            self.moving_maximum = (ours * self.moving_maximum + theirs * other.moving_maximum) / (ours + theirs)
        self.num_batches += other.num_batches
        self._widen(other.exponent)
        self.counts += _halved(other.counts, self.exponent - other.exponent).to(self.counts.device)

    def to(self, device: torch.device | str) -> "RangeObserver":
        """The same statistics on another device."""
        moved = RangeObserver(device)
        moved.merge(self)
        return moved

    def magnitudes(self) -> "RangeObserver":
        """What an observer of the absolute values would have seen, to a bin; the running average is of the larger end.

        Only the edges differ: the bin of -1 reaches up from it, that of its absolute value reaches down from 1.
        """
        folded = RangeObserver(self.counts.device)
        folded.minimum = max(self.minimum, -self.maximum, 0.0)
        folded.maximum = max(-self.minimum, self.maximum)
        folded.moving_minimum = max(self.moving_minimum, -self.moving_maximum, 0.0)
        folded.moving_maximum = max(-self.moving_minimum, self.moving_maximum)
        folded.num_batches, folded.exponent = self.num_batches, self.exponent
        folded.counts[BINS:] = self.counts[BINS:] + self.counts[:BINS].flip(0)
        return folded

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

    def state_dict(self) -> dict[str, Tensor]:
        """All of it as tensors on the CPU, to be saved.

        Returns:
            `extremes` float64 (2,), `moving_extremes` float64 (2,), each minimum then maximum; `num_batches` and
            `exponent` int64 (); `counts` int64 (2 * BINS,).
        """
        return {
            "extremes": torch.tensor([self.minimum, self.maximum], dtype=torch.float64),
            "moving_extremes": torch.tensor([self.moving_minimum, self.moving_maximum], dtype=torch.float64),
            "num_batches": torch.tensor(self.num_batches),
            "exponent": torch.tensor(self.exponent),
            "counts": self.counts.cpu().clone(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> "RangeObserver":
        """The observer whose `state_dict` this is.

        Raises:
            ValueError: `state` lacks an entry, has another, or one of another dtype or shape.

        Example:
            >>> observer = RangeObserver()
            >>> observer.update(torch.tensor([-1.0, 3.0]))
            >>> RangeObserver.from_state_dict(observer.state_dict()).maximum
            3.0
        """
        observer = cls(device)
        _check_state(state, observer.state_dict())
        observer.minimum, observer.maximum = state["extremes"].tolist()
        observer.moving_minimum, observer.moving_maximum = state["moving_extremes"].tolist()
        observer.num_batches, observer.exponent = int(state["num_batches"]), int(state["exponent"])
        observer.counts += state["counts"].to(device)
        return observer

    def _average(self, minimum: float, maximum: float) -> None:
        self.num_batches += 1
        if self.num_batches == 1:
            self.moving_minimum, self.moving_maximum = minimum, maximum
        else:
            self.moving_minimum += AVERAGING * (minimum - self.moving_minimum)
            self.moving_maximum += AVERAGING * (maximum - self.moving_maximum)

    def _count(self, numbers: Tensor, *, signed: bool) -> None:
        """Add numbers to the histogram. `signed` is whether any is negative: without, half the bins will do."""
        scaled = numbers.mul(2.0**-self.exponent)
        if signed:
            bins = scaled.floor_().to(torch.int16).add_(BINS)  # int16 halves the traffic
            self.counts += torch.bincount(bins, minlength=2 * BINS)
            return
        bins = scaled.to(torch.int16)
        num_tables = _LANES if len(numbers) >= _MANY else 1
        if num_tables > 1:
            bins += _lanes(numbers.device)[: len(numbers)]
        self.counts[BINS:] += torch.bincount(bins, minlength=num_tables * BINS).view(num_tables, BINS).sum(0)

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts = _halved(self.counts, exponent - self.exponent)
            self.exponent = exponent


@cache
def _lanes(device: torch.device) -> Tensor:
    """What to add to the bins of neighbouring numbers, int16 (_PORTION,), so that they are counted in different tables.

    There is room for four tables of `BINS` in the non-negative int16. A processor that counts into one where every
    second number is zero (ReLU) stalls on its own writes: this takes two thirds of the time.
    """
    return (torch.arange(_PORTION, device=device) % _LANES * BINS).to(torch.int16)


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


def _check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    if state.keys() != expected.keys():
        raise ValueError(
            f"The state of an observer must hold {', '.join(expected)}; got {', '.join(state)}. "
            "Pass what `RangeObserver.state_dict` returned."
        )
    for name, tensor in expected.items():
        given = state[name]
        if (given.dtype, given.shape) != (tensor.dtype, tensor.shape):
            raise ValueError(
                f"`{name}` of an observer's state must be {tensor.dtype} of shape {tuple(tensor.shape)}, got "
                f"{given.dtype} of shape {tuple(given.shape)}. Pass what `RangeObserver.state_dict` returned."
            )


def _flat(x: Tensor) -> Tensor:
    """All elements in the order of memory, which needs no copy for any dense layout (channels_last).

    Reductions over a flat tensor are also much faster: ten times, for the extremes of a channels_last one.
    """
    return x.permute(sorted(range(x.dim()), key=x.stride, reverse=True)).reshape(-1)
