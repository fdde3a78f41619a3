import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from qcal.functional.migration import class_migration, confidence_migration


def test_confidences_are_counted_by_both_bins() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.rand(2000, generator=generator), torch.rand(2000, generator=generator)
    swapped = torch.rand(2000, generator=generator) < 0.3
    table = confidence_migration(before, after, swapped, num_bins=5)
    expected, _, _ = np.histogram2d(before.numpy(), after.numpy(), bins=[np.linspace(0, 1, 6)] * 2)
    moved, _, _ = np.histogram2d(before[swapped].numpy(), after[swapped].numpy(), bins=[np.linspace(0, 1, 6)] * 2)
    assert np.array_equal(np.array(table.count), expected)
    assert np.array_equal(np.array(table.swapped), moved)
    assert table.same_bin == np.trace(expected) / 2000
    assert table.mean_change == pytest.approx((after.double() - before.double()).mean().item())
    assert table.mean_absolute_change == pytest.approx((after.double() - before.double()).abs().mean().item())


def test_a_confidence_on_an_edge_is_in_the_bin_below() -> None:
    table = confidence_migration(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 0.5]), torch.zeros(2).bool(), num_bins=2)
    assert table.count == ((1, 0), (1, 0))


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=80))
def test_class_flows_are_the_off_diagonal_of_the_confusion_matrix(rows: list[tuple[int, int, int]]) -> None:
    before, after, target = (torch.tensor(column) for column in zip(*rows, strict=True))
    moves = class_migration(before, after, target, num_classes=5, num_flows=25)
    table = confusion_matrix(before, after, labels=range(5))
    off = table - np.diag(np.diag(table))
    assert moves.predicted == tuple(table.sum(axis=1))
    assert moves.left == tuple(off.sum(axis=1))
    assert moves.arrived == tuple(off.sum(axis=0))
    assert {(flow.source, flow.destination): flow.count for flow in moves.largest_flows} == {
        (i, j): n for (i, j), n in np.ndenumerate(off) if n
    }
    counts = [flow.count for flow in moves.largest_flows]
    assert counts == sorted(counts, reverse=True)
    assert moves.main_destination == tuple(int(row.argmax()) if row.any() else None for row in off)
    assert sum(flow.harmful for flow in moves.largest_flows) == int(((before == target) & (after != target)).sum())
    assert sum(flow.beneficial for flow in moves.largest_flows) == int(((before != target) & (after == target)).sum())


def test_classes_never_predicted_have_no_share_and_few_flows_are_kept() -> None:
    before, after = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 1, 2, 2])
    moves = class_migration(before, after, before, num_classes=4, num_flows=1)
    assert moves.left_share == (1.0, 1.0, None, None)
    assert moves.left_low[2] is None
    assert [(flow.source, flow.destination, flow.count) for flow in moves.largest_flows] == [(0, 1, 2)]
    assert moves.main_destination == (1, 2, None, None)


def test_bad_input_is_refused() -> None:
    flags = torch.zeros(1).bool()
    with pytest.raises(ValueError, match=r"`quant_confidence` must have shape .* or values outside or NaN"):
        confidence_migration(torch.tensor([0.5]), torch.tensor([math.nan]), flags)
    with pytest.raises(ValueError, match="Both confidences and `swapped` must have one shape"):
        confidence_migration(torch.tensor([0.5]), torch.tensor([0.5, 0.5]), flags)
    with pytest.raises(ValueError, match=r"`quant_prediction` must lie in \[0, 1\], got values in \[0, 2\]"):
        class_migration(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([0, 1]), num_classes=2)
    with pytest.raises(ValueError, match="one-dimensional and of one length > 0, got"):
        class_migration(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0).long(), num_classes=2)
