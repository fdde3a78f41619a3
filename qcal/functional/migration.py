"""Migration: where confidence and predictions went when the network was quantized.

Two tables: float confidence against quantized confidence, in equal-width bins `(lo, hi]`, and float class against
quantized class, of which the rows' sums and the largest flows are kept (a thousand classes would make a million cells).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.intervals import wilson_interval

__all__ = ["ClassFlow", "ClassMigration", "ConfidenceMigration", "class_migration", "confidence_migration"]


@dataclass(frozen=True)
class ConfidenceMigration:
    """Float confidence against quantized confidence; see `confidence_migration`. B bins of equal width over [0, 1].

    Attributes:
        edges: B + 1 numbers from 0 to 1.
        count: B rows (float) of B columns (quantized), images.
        swapped: The same of the images whose prediction changed.
        mean_change: Mean of quantized minus float confidence, in [-1, 1].
        mean_absolute_change: Mean of its absolute value, in [0, 1].
        same_bin: Share of images on the diagonal, in [0, 1].
    """

    edges: tuple[float, ...]
    count: tuple[tuple[int, ...], ...]
    swapped: tuple[tuple[int, ...], ...]
    mean_change: float
    mean_absolute_change: float
    same_bin: float


@dataclass(frozen=True)
class ClassFlow:
    """Swaps from one class to another.

    Attributes:
        source: Class the float network predicted.
        destination: Class the quantized network predicts.
        count: Images.
        harmful: Of these, how many were right.
        beneficial: Of these, how many are right now.
    """

    source: int
    destination: int
    count: int
    harmful: int
    beneficial: int


@dataclass(frozen=True)
class ClassMigration:
    """Swaps by class; see `class_migration`. Tuples have one entry a class, except `largest_flows`.

    Attributes:
        predicted: Images the float network gave this class.
        left: Of these, how many the quantized network gives another.
        arrived: Images the quantized network gives this class and the float network did not.
        left_share: `left / predicted`; None where nothing was predicted.
        left_low: Lower end of its 95 % Wilson interval.
        left_high: Upper end.
        main_destination: The class most of those that left went to (of equals, the lowest); None when none left.
        largest_flows: The pairs of classes with most swaps, most first.
    """

    predicted: tuple[int, ...]
    left: tuple[int, ...]
    arrived: tuple[int, ...]
    left_share: tuple[float | None, ...]
    left_low: tuple[float | None, ...]
    left_high: tuple[float | None, ...]
    main_destination: tuple[int | None, ...]
    largest_flows: tuple[ClassFlow, ...]


def confidence_migration(
    float_confidence: Tensor, quant_confidence: Tensor, swapped: Tensor, *, num_bins: int = 10
) -> ConfidenceMigration:
    """Count images by the bin of their float confidence and the bin of their quantized confidence.

    Args:
        float_confidence: `(N,)` floating in [0, 1], N >= 1.
        quant_confidence: `(N,)` floating in [0, 1], of the same images.
        swapped: `(N,)` bool, whether the prediction changed.
        num_bins: B >= 1, for both.

    Returns:
        The two tables and the change of confidence.

    Raises:
        ValueError: Shapes do not fit, or confidences outside [0, 1] or NaN.

    Example:
        >>> before, after = torch.tensor([0.9, 0.6]), torch.tensor([0.8, 0.4])
        >>> confidence_migration(before, after, torch.tensor([False, True]), num_bins=2).count
        ((0, 0), (1, 1))
    """
    for name, values in {"float_confidence": float_confidence, "quant_confidence": quant_confidence}.items():
        if values.ndim != 1 or len(values) == 0 or not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(
                f"`{name}` must have shape (N,) with N >= 1 and values in [0, 1], got {tuple(values.shape)} or values "
                "outside or NaN. Pass top-class probabilities."
            )
    if not float_confidence.shape == quant_confidence.shape == swapped.shape or num_bins < 1:
        raise ValueError(
            "Both confidences and `swapped` must have one shape and `num_bins` be at least 1, got "
            f"{tuple(float_confidence.shape)}, {tuple(quant_confidence.shape)}, {tuple(swapped.shape)} and {num_bins}. "
            "Pass all of the same images."
        )
    before, after = float_confidence.double(), quant_confidence.double()
    edges = torch.arange(num_bins + 1, dtype=torch.float64, device=before.device) / num_bins
    cell = torch.bucketize(before, edges[1:-1]) * num_bins + torch.bucketize(after, edges[1:-1])
    count, moved = (
        torch.bincount(cells, minlength=num_bins**2).view(num_bins, num_bins) for cells in (cell, cell[swapped])
    )
    change = after - before
    return ConfidenceMigration(
        edges=tuple(edges.tolist()),
        count=_rows(count),
        swapped=_rows(moved),
        mean_change=change.mean().item(),
        mean_absolute_change=change.abs().mean().item(),
        same_bin=int(count.diagonal().sum()) / len(before),
    )


def class_migration(
    float_prediction: Tensor,
    quant_prediction: Tensor,
    target: Tensor,
    *,
    num_classes: int,
    num_flows: int = 20,
) -> ClassMigration:
    """Count swaps by the class they left, the class they went to, and the pairs of both.

    Args:
        float_prediction: `(N,)` int64 in [0, C), N >= 1.
        quant_prediction: `(N,)` int64 in [0, C).
        target: `(N,)` int64, which decides what was harmful.
        num_classes: C.
        num_flows: How many pairs of classes to list, at most. Of pairs with equal counts the lower classes come first.

    Returns:
        The counts.

    Raises:
        ValueError: Shapes do not fit, or classes out of range.

    Example:
        >>> before, after = torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1])
        >>> moves = class_migration(before, after, before, num_classes=2)
        >>> moves.left, moves.arrived, moves.left_share, moves.largest_flows[0].harmful
        ((1, 0), (0, 1), (0.5, 0.0), 1)
    """
    _check_classes(float_prediction, quant_prediction, target, num_classes)
    swapped = float_prediction != quant_prediction
    source, destination = float_prediction[swapped], quant_prediction[swapped]
    predicted, left, arrived = (
        torch.bincount(classes, minlength=num_classes) for classes in (float_prediction, source, destination)
    )
    low, high = wilson_interval(left, predicted)
    pair, place = torch.unique(source * num_classes + destination, return_inverse=True)
    label = target[swapped]
    count, harmful, beneficial = (
        torch.bincount(places, minlength=len(pair))
        for places in (place, place[source == label], place[destination == label])
    )
    order = count.sort(descending=True, stable=True).indices  # pairs are sorted by class already
    columns = (pair // num_classes, pair % num_classes, count, harmful, beneficial)
    largest = zip(*(column[order[:num_flows]].tolist() for column in columns), strict=True)
    return ClassMigration(
        predicted=tuple(predicted.tolist()),
        left=tuple(left.tolist()),
        arrived=tuple(arrived.tolist()),
        left_share=_or_none(left.double() / predicted),
        left_low=_or_none(low),
        left_high=_or_none(high),
        main_destination=_main_destinations(pair[order], num_classes),
        largest_flows=tuple(ClassFlow(*flow) for flow in largest),
    )


def _main_destinations(pairs_by_count: Tensor, num_classes: int) -> tuple[int | None, ...]:
    found: list[int | None] = [None] * num_classes
    for pair in reversed(pairs_by_count.tolist()):  # the last to be written is the largest
        found[pair // num_classes] = pair % num_classes
    return tuple(found)


def _check_classes(before: Tensor, after: Tensor, target: Tensor, num_classes: int) -> None:
    if not before.shape == after.shape == target.shape or before.ndim != 1 or len(before) == 0:
        raise ValueError(
            "Predictions and target must be one-dimensional and of one length > 0, got "
            f"{tuple(before.shape)}, {tuple(after.shape)} and {tuple(target.shape)}. Pass all of the same images."
        )
    for name, classes in {"float_prediction": before, "quant_prediction": after, "target": target}.items():
        if int(classes.min()) < 0 or int(classes.max()) >= num_classes:
            raise ValueError(
                f"`{name}` must lie in [0, {num_classes - 1}], got values in [{int(classes.min())}, "
                f"{int(classes.max())}]. Pass `num_classes=` the number of columns of the logits."
            )


def _rows(table: Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


def _or_none(numbers: Tensor) -> tuple[float | None, ...]:
    return tuple(None if number != number else number for number in numbers.tolist())
