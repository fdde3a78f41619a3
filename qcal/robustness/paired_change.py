"""How much a score differs between two networks on the same images, with the interval that resampling them gives."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.bootstrap import percentile_interval, resampled_sums

__all__ = ["FEWEST_IMAGES", "RESAMPLES", "Change", "ResampledScore", "change_between", "resample_columns"]

FEWEST_IMAGES = 30
"""Resampling fewer images says too little of what other images would have given; intervals are then left out."""

RESAMPLES = 2_000
"""Fixes the ends of a 95 % interval to about 0.06 of the standard error."""

_LEVEL = 0.95
_STRETCH = 2  # of the resamples' mean excess; see `change_between`


@dataclass(frozen=True)
class Change:
    """A score before and after, on the same images, with a paired bootstrap interval.

    Attributes:
        before: The score of the first network.
        after: The score of the second.
        change: `after - before`.
        low: Lower end of the 95 % interval of the change; None where it is undefined.
        high: Upper end; None where it is undefined.
    """

    before: float
    after: float
    change: float
    low: float | None
    high: float | None

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval is known and does not hold 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def direction(self) -> str:
        """What can be said of the change: "rose", "fell" or "not distinguishable"."""
        if not self.is_distinguishable:
            return "not distinguishable"
        return "rose" if self.change > 0 else "fell"


@dataclass(frozen=True)
class ResampledScore:
    """A score, and what it was on resampled images.

    Attributes:
        value: On all images.
        samples: `(R,)` float64, on each resample; empty if there are none.
        is_error: Whether it is a calibration error: a sum of absolute values, which noise makes larger.
    """

    value: float
    samples: Tensor
    is_error: bool = False


def resample_columns(
    columns: Mapping[str, Tensor], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Tensor] | None:
    """Sums over resampled images of several tables at once: the same draw of images for all, so that they are paired.

    Args:
        columns: Name to `(N, K)` or `(N,)`, one row an image; K may differ.
        resamples: R >= 1, number of draws.
        seed: Of the generator that draws.

    Returns:
        Name to `(R, K)` or `(R,)` float64 sums; None for fewer than `FEWEST_IMAGES` images.

    Example:
        >>> sums = resample_columns({"ones": torch.ones(40), "pair": torch.zeros(40, 2)}, resamples=3)
        >>> sums["ones"].tolist(), sums["pair"].shape
        ([40.0, 40.0, 40.0], torch.Size([3, 2]))
    """
    tables = {name: table if table.ndim == 2 else table[:, None] for name, table in columns.items()}
    if len(next(iter(tables.values()))) < FEWEST_IMAGES:
        return None
    widths = [table.shape[1] for table in tables.values()]
    joined = resampled_sums(
        torch.cat([table.double() for table in tables.values()], dim=1), resamples=resamples, seed=seed
    )
    parts = dict(zip(tables, torch.split(joined, widths, dim=1), strict=True))
    return {name: part.squeeze(1) if columns[name].ndim == 1 else part for name, part in parts.items()}


def change_between(before: ResampledScore, after: ResampledScore) -> Change:
    """The change from one score to another, with its 95 % interval from paired resamples.

    It is the percentile interval of the resampled changes, except for calibration errors. Those are sums of absolute
    values, to which noise adds: the more, the better calibrated a network is. A resample lies above the score by its
    own noise, on average by an excess of e, and the score above the truth: by nothing where the truth is far from 0, by
    2.4 e (for Gaussian noise) where it is 0. So the resampled changes are moved until their mean is the change itself,
    and the interval is stretched to where they would be with 2 e taken off. It is cautious: too wide where the error is
    large. (The plain percentile interval goes the other way: it held the truth of a repair one time in four.)

    Args:
        before: A score whose `samples` may be empty, if there are none.
        after: Another, from the same draws.

    Example:
        >>> first = ResampledScore(0.5, torch.tensor([0.4, 0.5, 0.6]))
        >>> second = ResampledScore(0.7, torch.tensor([0.6, 0.7, 0.8]))
        >>> change = change_between(first, second)
        >>> round(change.change, 3), change.direction
        (0.2, 'rose')
    """
    change = after.value - before.value
    resampled = after.samples - before.samples
    if resampled.numel() == 0 or not bool(resampled.isfinite().all()) or not math.isfinite(change):
        return Change(before.value, after.value, change, None, None)
    if not (before.is_error or after.is_error):
        plain = percentile_interval(resampled, level=_LEVEL)
        return Change(before.value, after.value, change, plain.low, plain.high)
    excess = resampled.mean().item() - change
    around = percentile_interval(resampled - resampled.mean(), level=_LEVEL)
    low, high = change + around.low, change + around.high
    return Change(before.value, after.value, change, low - _STRETCH * max(excess, 0), high - _STRETCH * min(excess, 0))
