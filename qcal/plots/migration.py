"""Where confidence went: float confidence against quantized confidence, as a table of counts."""

from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from qcal.functional.migration import ConfidenceMigration
from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, dress, percent, setting_colour

_COLOURS = "Blues"  # one hue, so that grey and colour blindness keep the order
_DARK = 0.6  # of the colour scale; beyond it figures are white
_SIZE = 4.4


def migration_panel(migration: ConfidenceMigration, *, ax: Axes, setting: str) -> Axes:
    """Draw how many images went from each bin of float confidence to each bin of quantized confidence.

    Shades are logarithmic; each cell bears its count. In the framed cells confidence stayed, below them it fell.

    Args:
        migration: From `qcal.functional.confidence_migration`, with at least one image.
        ax: Where to draw.
        setting: Name of the setting.

    Returns:
        `ax`, square, both axes 0 to 1.

    Raises:
        ValueError: There is no image.

    Example:
        >>> import torch
        >>> from qcal.functional import confidence_migration
        >>> table = confidence_migration(
        ...     torch.tensor([0.9, 0.6]), torch.tensor([0.8, 0.4]), torch.tensor([False, True]), num_bins=2
        ... )
        >>> ax = migration_panel(table, ax=Figure().add_subplot(), setting="w4a8")
        >>> [text.get_text() for text in ax.texts][1:]  # the first is the line under the title
        ['1', '1']
    """
    count = np.array(migration.count)
    if count.sum() == 0:
        raise ValueError("`migration` must hold at least one image, got none. Leave out what was not measured.")
    change = percent(migration.mean_change)
    subtitle = f"same bin {percent(migration.same_bin)} %, mean change {change} points"
    dress(ax, title=f"Confidence of {setting}", subtitle=subtitle, xlabel="float confidence")
    ax.set_ylabel("quantized confidence", fontsize=FONT_SIZE, color=setting_colour(setting))
    edges = np.array(migration.edges)
    shades = LogNorm(vmin=1, vmax=max(2, int(count.max())))
    shown = np.ma.masked_equal(count.T, 0)  # rows of a picture go upwards
    ax.pcolormesh(edges, edges, shown, cmap=_COLOURS, norm=shades, edgecolors="white", linewidth=0.5)
    for low, high in pairwise(edges):
        ax.add_patch(Rectangle((low, low), high - low, high - low, fill=False, edgecolor=INK, linewidth=LINE_WIDTH))
    middle = (edges[:-1] + edges[1:]) / 2
    for (row, column), images in np.ndenumerate(count):
        if images:
            ink = "white" if shades(images) > _DARK else INK
            place = (middle[row], middle[column])
            ax.text(*place, f"{images}", ha="center", va="center", fontsize=FONT_SIZE, color=ink)
    ax.grid(visible=False)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return ax


def migration_figure(migration: ConfidenceMigration, *, setting: str) -> Figure:
    """Draw one setting's migration of confidence as a figure of its own; see `migration_panel`.

    Args:
        migration: From `qcal.functional.confidence_migration`.
        setting: Name of the setting.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: There is no image.

    Example:
        >>> import torch
        >>> from qcal.functional import confidence_migration
        >>> table = confidence_migration(torch.tensor([0.9]), torch.tensor([0.8]), torch.tensor([False]))
        >>> len(migration_figure(table, setting="w4a8").axes)
        1
    """
    fig = Figure(figsize=(_SIZE, _SIZE + 0.2), layout="constrained")
    migration_panel(migration, ax=fig.add_subplot(), setting=setting)
    return fig
