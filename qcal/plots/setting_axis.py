"""A horizontal axis with one place for each quantization setting: names, heights, and marks where there is nothing."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from qcal.plots.style import FONT_SIZE, INK, LINE_WIDTH, MUTED

MOST_UPRIGHT = 9  # settings; more, and their names are turned
_LINE_CHARACTERS = 10  # below the bit-widths; longer words are broken
_HEADROOM = 0.12  # of the height, for the figures beyond the bars


def check_rows(settings: Sequence[str], **values: Sequence[float]) -> None:
    """Raise unless each of `values` has one finite number for each of at least one setting."""
    for name, numbers in values.items():
        if not settings or len(numbers) != len(settings):
            raise ValueError(
                f"`{name}` must have one entry for each of at least one setting, "
                f"got {len(numbers)} for {len(settings)} settings. Pass the same rows of the record to both."
            )
        if not np.isfinite(np.asarray(numbers, dtype=float)).all():
            raise ValueError(
                f"`{name}` must be finite, got {list(numbers)}. Leave out settings that were not measured."
            )


def tick_labels(settings: Sequence[str]) -> tuple[list[str], str]:
    r"""Short labels for an axis of settings, and what they all have in common.

    Args:
        settings: Short forms, such as `w4a8-mse-full`.

    Returns:
        One label a setting, the words below the bit-widths; words that all share are in the second value instead.

    Example:
        >>> tick_labels(["w8a8-full", "w4a8-full"])
        (['w8a8', 'w4a8'], 'full')
        >>> tick_labels(["w8a8", "w8a8-mse"])
        (['w8a8', 'w8a8\nmse'], '')
    """
    parts = [setting.partition("-") for setting in settings]
    endings = {ending for _, _, ending in parts}
    if len(endings) == 1:
        return [head for head, _, _ in parts], endings.pop()
    return ["\n".join([head, *_lines(ending)]) for head, _, ending in parts], ""


def _lines(ending: str) -> list[str]:
    """The words of an ending, as many to a line as fit; a word too long for a line is broken, best at punctuation."""
    lines: list[str] = []
    for word in ending.split("-") if ending else ():
        joined = f"{lines[-1]}-{word}" if lines else word
        if len(joined) <= _LINE_CHARACTERS:
            lines[-1:] = [joined]
            continue
        lines.append("")
        for piece in re.findall(rf"[^=+:.]{{1,{_LINE_CHARACTERS - 1}}}[=+:.]?|[=+:.]", word):
            if lines[-1] and len(lines[-1]) + len(piece) > _LINE_CHARACTERS:
                lines.append("")
            lines[-1] += piece
    return lines


def name_settings(ax: Axes, settings: Sequence[str], counts: Sequence[int] | None = None) -> Axes:
    """Name the horizontal axis and its ticks, with the number of swaps of each setting if given; returns `ax`."""
    labels, shared = tick_labels(settings)
    upright = len(settings) <= MOST_UPRIGHT
    if not upright:
        labels = [setting.removesuffix(f"-{shared}") if shared else setting for setting in settings]
    if counts is not None:
        form = "{}\n{:,}" if upright else "{} ({:,})"
        labels = [form.format(label, count) for label, count in zip(labels, counts, strict=True)]
    ax.set_xticks(np.arange(len(settings)), labels, rotation=0 if upright else 90)
    ax.set_xlim(-0.6, len(settings) - 0.4)
    ax.tick_params(axis="x", length=0)
    name = "setting" if counts is None else "setting, number of swaps"
    ax.set_xlabel(f"{name} (all {shared})" if shared else name, fontsize=FONT_SIZE)
    return ax


def fit_height(ax: Axes, ends: Sequence[float], *, least: float) -> None:
    """Let the vertical axis hold 0, the ends of all bars and the figures beyond them.

    Args:
        ax: Axes with bars.
        ends: Where the bars (or their intervals) end; none at all is allowed.
        least: Height to show when every bar is 0.
    """
    low, high = min([0, *ends]), max([0, *ends])
    high = least if low == high else high
    room = _HEADROOM * (high - low)
    ax.set_ylim(low - room if low < 0 else 0, high + room)
    ax.axhline(0, color=INK, linewidth=LINE_WIDTH)


def write_beyond(ax: Axes, x: float, y: float, text: str) -> None:
    """A figure just beyond the end of a bar, on the side the bar points to."""
    side, vertical = (1, "bottom") if y >= 0 else (-1, "top")
    ax.annotate(
        text, (x, y), (0, 2 * side), textcoords="offset points", ha="center", va=vertical, fontsize=FONT_SIZE, color=INK
    )


def mark_no_swaps(ax: Axes, place: int) -> None:
    """Say that there is nothing to draw, so that the gap is not read as 0."""
    transform = ax.get_xaxis_transform()
    ax.text(
        place,
        0.04,
        "no swaps",
        transform=transform,
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=FONT_SIZE,
        color=MUTED,
    )
