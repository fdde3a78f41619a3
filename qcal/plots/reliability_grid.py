"""Reliability diagrams of several networks before and after a repair: a row a repair, a column a network."""

import math
from collections.abc import Mapping
from dataclasses import replace

from matplotlib.figure import Figure

from qcal.functional.calibration import ReliabilityBins

# The pair of axes, its places and its legend are those of one row.
from qcal.plots.reliability import (
    _BETWEEN_COLUMNS,
    _BETWEEN_PARTS,
    _BOTTOM,
    _HISTOGRAM,
    _LEFT,
    _LEGEND_ENTRY,
    _LEGEND_LINE,
    _RIGHT,
    _SQUARE,
    _TOP,
    _axes_at,
    _draw_pair,
    _legend_handles,
    _share,
)
from qcal.plots.style import FONT_SIZE, INK, TITLE_SIZE

_ROW_NAME = 0.35  # inches at the left


def reliability_grid_figure(rows: Mapping[str, Mapping[str, ReliabilityBins]]) -> Figure:
    """Draw diagrams and histograms of float and settings side by side, one row for each state of their probabilities.

    All have the same limits, and all histograms one scale. ECE and overconfidence under each title are those of the
    bins drawn.

    Args:
        rows: Name of a row, such as `as quantized` or `refitted temperature`, to label (`float` or a setting) to bins.
            Every row has the same labels.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: There is nothing to draw, rows have different labels, or there is no prediction in some bins.

    Example:
        >>> import torch
        >>> from qcal.functional.calibration import reliability_bins
        >>> bins = reliability_bins(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))
        >>> columns = {"float": bins, "w4a8": bins}
        >>> len(reliability_grid_figure({"as quantized": columns, "refitted temperature": columns}).axes)
        8
    """
    labels = _shared_labels(rows)
    bins = {name: {label: _on_cpu(row[label], label) for label in labels} for name, row in rows.items()}
    max_share = max(float(_share(part).max()) for row in bins.values() for part in row.values())
    left = _ROW_NAME + _LEFT
    width = left + len(labels) * _SQUARE + (len(labels) - 1) * _BETWEEN_COLUMNS + _RIGHT
    handles = _legend_handles(lines=True)
    legend_columns = min(len(handles), max(1, int(width / _LEGEND_ENTRY)))
    foot = _LEGEND_LINE * math.ceil(len(handles) / legend_columns) + 0.1
    row_height = _TOP + _SQUARE + _BETWEEN_PARTS + _HISTOGRAM + _BOTTOM
    fig = Figure(figsize=(width, len(rows) * row_height + foot))
    for index, (name, row) in enumerate(bins.items()):
        bottom = foot + (len(rows) - 1 - index) * row_height + _BOTTOM
        for column, (label, part) in enumerate(row.items()):
            place = left + column * (_SQUARE + _BETWEEN_COLUMNS)
            below = _axes_at(fig, place, bottom, _HISTOGRAM)
            above = _axes_at(fig, place, bottom + _HISTOGRAM + _BETWEEN_PARTS, _SQUARE)
            _draw_pair(part, label, above, below, max_share, first=column == 0)
        middle = (bottom + _HISTOGRAM + _BETWEEN_PARTS + _SQUARE / 2) / fig.get_figheight()
        fig.text(
            _ROW_NAME / 2 / width, middle, name, rotation=90, ha="center", va="center", fontsize=TITLE_SIZE, color=INK
        )
    fig.legend(
        handles=handles, fontsize=FONT_SIZE, ncols=legend_columns, frameon=False, loc="lower center", borderpad=0.2
    )
    return fig


def _shared_labels(rows: Mapping[str, Mapping[str, ReliabilityBins]]) -> list[str]:
    names = [list(row) for row in rows.values()]
    if not names or not names[0] or any(sorted(name) != sorted(names[0]) for name in names):
        raise ValueError(
            f"`rows` must hold at least one row, and all the same labels, got {names}. Pass "
            "{'as quantized': {'float': bins, 'w4a8': bins}, 'refitted temperature': {'float': bins, 'w4a8': bins}}."
        )
    return names[0]


def _on_cpu(bins: ReliabilityBins, label: str) -> ReliabilityBins:
    if not bool(bins.count.any()):
        raise ValueError(
            f"A reliability diagram needs at least one prediction, got none for {label!r}. Leave out what was not "
            "measured."
        )
    return replace(bins, **{name: value.cpu() for name, value in vars(bins).items()})
