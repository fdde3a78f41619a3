"""Observers of a pass that several processes shared out, and the one observer that would have seen all of it.

Extremes and histograms merge exactly in any order (see `observers`). The running averages do not: each step of theirs
starts from the one before. So an observer of a part also keeps the extremes of every batch it saw, with the batch's
position in the whole pass, and the averages are taken again over all of them in that order. That is three numbers a
batch and quantizer: a few kilobytes for the thousand images of a range estimation.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter

import torch

from qcal.quantization.observers import RangeObserver


class PartObserver(RangeObserver):
    """A `RangeObserver` that remembers which batch brought which extremes, so that parts can be joined.

    What it saves (`state_dict`) is what a `RangeObserver` does: the memory of batches serves one joining.

    Attributes:
        position: Of the batch that is taken in next, among those of all parts.
        extremes: `(position, minimum, maximum)` of each call of `update` that brought numbers.

    Example:
        >>> part = PartObserver()
        >>> part.position = 3
        >>> part.update(torch.tensor([-1.0, 2.0]))
        >>> part.extremes
        [(3, -1.0, 2.0)]
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__(device)
        self.position = 0
        self.extremes: list[tuple[int, float, float]] = []

    def to(self, device: torch.device | str) -> "PartObserver":
        """The same statistics on another device."""
        moved = PartObserver(device)
        moved.merge(self)
        moved.position, moved.extremes = self.position, list(self.extremes)
        return moved

    @classmethod
    def joined(cls, parts: Sequence["PartObserver"], device: torch.device | str = "cpu") -> RangeObserver:
        """The observer of all batches in the order of their positions, bit for bit; see `join_parts`."""
        whole = RangeObserver(device)
        for part in parts:
            whole.merge(part)
        whole.num_batches = 0  # the first step of the averages is taken anew
        for _, minimum, maximum in sorted(chain.from_iterable(p.extremes for p in parts), key=itemgetter(0)):
            whole._average(minimum, maximum)
        return whole

    def _average(self, minimum: float, maximum: float) -> None:
        super()._average(minimum, maximum)
        self.extremes.append((self.position, minimum, maximum))


def go_to(position: int, observers: Mapping[str, RangeObserver]) -> None:
    """Say which batch comes next to those observers that remember it."""
    for observer in observers.values():
        if isinstance(observer, PartObserver):
            observer.position = position


def join_parts(
    parts: Iterable[Mapping[str, RangeObserver]], device: torch.device | str = "cpu"
) -> dict[str, RangeObserver]:
    """What one pass over all the batches would have seen at each quantizer.

    Args:
        parts: The statistics of each process after `Plan.observe` with `only`; in any order, with no batch in two.
        device: Where the result is to be.

    Returns:
        Observers by the names of the quantizers; each equals that of the whole pass bit for bit.

    Raises:
        ValueError: Statistics of other quantizers, or that are not of a part.

    Example:
        >>> parts = [PartObserver(), PartObserver()]
        >>> parts[0].position, parts[1].position = 1, 0
        >>> parts[0].update(torch.tensor([3.0]))
        >>> parts[1].update(torch.tensor([1.0]))
        >>> joined = join_parts([{"relu": part} for part in parts])["relu"]
        >>> joined.maximum, joined.moving_maximum  # 1.0 + 0.01 * (3.0 - 1.0)
        (3.0, 1.02)
    """
    several = [_checked(part) for part in parts]
    names = {frozenset(part) for part in several}
    if len(names) > 1:
        raise ValueError(
            "`parts` must be of the same quantizers, got other names: "
            f"{', '.join(sorted(frozenset.union(*names) - frozenset.intersection(*names)))}. Take them from plans of "
            "the same network that were observed alike."
        )
    return {name: PartObserver.joined([part[name] for part in several], device) for name in next(iter(several), {})}


def _checked(part: Mapping[str, RangeObserver]) -> dict[str, PartObserver]:
    kept = {name: observer for name, observer in part.items() if isinstance(observer, PartObserver)}
    if len(kept) < len(part):
        raise ValueError(
            "`parts` must remember the order of their batches, got a RangeObserver, whose running averages cannot be "
            "joined exactly. Observe each part with `plan.observe(..., only=...)`, or use `RangeObserver.merge`."
        )
    return kept
