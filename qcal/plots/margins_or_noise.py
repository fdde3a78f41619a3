"""Margins or noise: the difference in swap rate between two runs, and the part that each of the two owes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from qcal.plots.setting_axis import check_rows, name_settings
from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, MUTED, dress, percent_axis, setting_colour

Estimates = Sequence[tuple[float, float, float]]
"""A value with the lower and the upper end of its interval, for each setting."""

_BAR = 0.26
# By hatch, as the colour is the setting's: solid is the whole.
_PARTS = {"difference": "", "owed to margins": "////", "owed to noise": "...."}
_NARROWEST, _PER_SETTING, _HEIGHT = 4.4, 1.0, 3.3


def margins_or_noise_panel(
    settings: Sequence[str], difference: Estimates, margins: Estimates, noise: Estimates, *, ax: Axes, runs: str = ""
) -> Axes:
    """Draw, per setting, the difference in swap rate of two runs, and its parts owed to margins and to noise.

    Bars above 0 make the second run swap more. Error bars are 95 % bootstrap intervals.

    Args:
        settings: S names.
        difference: S estimates `(value, low, high)` in [-1, 1].
        margins: S estimates of the part owed to margins.
        noise: S estimates of the part owed to noise.
        ax: Where to draw.
        runs: Which run is compared with which, for the title, such as `focal less cross-entropy`.

    Returns:
        `ax`, with three bars a setting.

    Raises:
        ValueError: The lengths differ, there is no setting, or a value is not finite.

    Example:
        >>> ax = margins_or_noise_panel(
        ...     ["w4a8"], [(0.1, 0.0, 0.2)], [(0.3, 0.2, 0.4)], [(-0.2, -0.3, -0.1)], ax=Figure().add_subplot()
        ... )
        >>> [float(bar.get_height()) for bar in ax.patches]
        [0.1, 0.3, -0.2]
    """
    rows = dict(zip(_PARTS, (difference, margins, noise), strict=True))
    for name, estimates in rows.items():
        for part, place in (("value", 0), ("low", 1), ("high", 2)):
            check_rows(settings, **{f"{name} ({part})": [estimate[place] for estimate in estimates]})
    title = f"Margins or noise: {runs}" if runs else "Margins or noise"
    dress(ax, title=title, subtitle=" ", ylabel="difference in swap rate")
    middle, colours = np.arange(len(settings)), [setting_colour(setting) for setting in settings]
    for offset, (name, hatch) in zip((-_BAR, 0.0, _BAR), _PARTS.items(), strict=True):
        value, low, high = np.array(rows[name]).T
        faces = colours if not hatch else [(colour, 0.35) for colour in colours]
        ax.bar(middle + offset, value, _BAR, color=faces, edgecolor=INK, linewidth=LINE_WIDTH, hatch=hatch)
        # Rounding may put an end on the wrong side of the value, which errorbar refuses.
        reach = np.clip(np.stack([value - low, high - value]), 0, None)
        ax.errorbar(middle + offset, value, yerr=reach, fmt="none", ecolor=INK, elinewidth=LINE_WIDTH, capsize=2)
    ax.axhline(0, color=INK, linewidth=LINE_WIDTH)
    ax.margins(y=0.1)
    percent_axis(ax)
    handles = [
        Patch(facecolor=(MUTED, 0.35 if hatch else 1), edgecolor=INK, hatch=hatch, label=name)
        for name, hatch in _PARTS.items()
    ]
    ax.legend(
        handles=handles,
        fontsize=FONT_SIZE,
        ncols=3,
        frameon=False,
        borderpad=0,
        borderaxespad=0.3,
        columnspacing=1.2,
        handlelength=1.5,
        loc="lower left",
        bbox_to_anchor=(0, 1),
    )
    return name_settings(ax, settings)


def margins_or_noise_figure(
    settings: Sequence[str], difference: Estimates, margins: Estimates, noise: Estimates, *, runs: str = ""
) -> Figure:
    """Draw the parts of all settings as a figure of its own; see `margins_or_noise_panel`.

    Args:
        settings: S names.
        difference: S estimates `(value, low, high)`.
        margins: S estimates of the part owed to margins.
        noise: S estimates of the part owed to noise.
        runs: Which run is compared with which.

    Returns:
        A figure of its own, known to no pyplot.

    Raises:
        ValueError: The lengths differ, there is no setting, or a value is not finite.

    Example:
        >>> fig = margins_or_noise_figure(["w4a8"], [(0.1, 0, 0.2)], [(0.3, 0.2, 0.4)], [(-0.2, -0.3, -0.1)])
        >>> len(fig.axes)
        1
    """
    width = max(_NARROWEST, 0.8 + _PER_SETTING * len(settings))
    fig = Figure(figsize=(width, _HEIGHT), layout="constrained")
    margins_or_noise_panel(settings, difference, margins, noise, ax=fig.add_subplot(), runs=runs)
    return fig
