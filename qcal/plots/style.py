"""Colours, sizes and small habits that every picture shares; nothing here changes matplotlib's global state.

Colours are told apart with every common colour blindness and stay in order when printed in grey: the float network is
darkest, and the fewer bits a setting has, the lighter it is. A setting has the same colour in every picture.
"""

import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.ticker import FuncFormatter

FONT_SIZE = 8.0  # points, the smallest in any picture
TITLE_SIZE = 9.5
LINE_WIDTH = 0.8
_SUBTITLE_PAD = 19.0  # points between the axes and the title when a line stands between them

INK = "#222222"  # text, edges, lines
MUTED = "#6b6b6b"  # what is said beside: missing values, the diagonal
GRID = "#e3e3e3"
NEUTRAL = "#d0d0d0"  # bars that belong to no setting
OVERCONFIDENT = "#d55e00"  # Okabe and Ito's vermilion, with hatch `//`
UNDERCONFIDENT = "#0072b2"  # their blue, with hatch `\\`
OVERCONFIDENT_HATCH = "////"
UNDERCONFIDENT_HATCH = "\\\\\\\\"

FLOAT = "float"
_FLOAT_BITS = 9  # one above the widest integer, so that `afp` is darker than `a8`
_FEWEST_BITS = 2
_LIGHTEST = 0.9  # the yellow end of viridis is too pale on white
_DARKEST = 0.12
# Weights decide more, so that w4a8 and w8a4 differ; no two settings of the grid meet at these shares.
_WEIGHT_SHARE = 0.65
_BITS = re.compile(r"w(?P<weight>fp|\d)a(?P<activation>fp|\d)")


def setting_colour(setting: str) -> str:
    """The colour of a setting, from its bit-widths alone: `w4a8-mse` has that of `w4a8`.

    Args:
        setting: `float`, the short form of a setting, or any other name (which gets a neutral colour).

    Returns:
        A colour as `#rrggbb`.

    Example:
        >>> setting_colour("float"), setting_colour("w8a8"), setting_colour("w4a8-full")
        ('#222222', '#3d4d8a', '#1f958b')
    """
    if setting == FLOAT:
        return INK
    bits = _BITS.match(setting)
    if bits is None:
        return NEUTRAL
    weight, activation = (_FLOAT_BITS if text == "fp" else int(text) for text in bits.groups())
    mean = _WEIGHT_SHARE * weight + (1 - _WEIGHT_SHARE) * activation
    coarseness = (_FLOAT_BITS - mean) / (_FLOAT_BITS - _FEWEST_BITS)
    return to_hex(matplotlib.colormaps["viridis"](_DARKEST + (_LIGHTEST - _DARKEST) * coarseness))


def percent(share: float) -> str:
    """A share as a percentage for people, without the sign of percent; two decimals under 1, one under 10.

    Example:
        >>> percent(0.00083), percent(0.0413), percent(0.306), percent(0.0)
        ('0.08', '4.1', '31', '0')
    """
    value = 100 * share
    decimals = 0 if abs(value) >= 10 or value == 0 else 1 if abs(value) >= 1 else 2
    return minus(f"{value:.{decimals}f}")


def minus(number: str) -> str:
    """A number with the sign that axes use for negative ones, instead of a hyphen."""
    return number.replace("-", "\N{MINUS SIGN}")


def percent_axis(ax: Axes) -> None:
    """Let the vertical axis, in fractions, read in percent."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: minus(f"{100 * share:g} %")))


def dress(ax: Axes, *, title: str = "", subtitle: str = "", xlabel: str = "", ylabel: str = "") -> Axes:
    """Give an axes the common look: sizes, thin lines, a pale horizontal grid behind the data, no box.

    The title is at the left; with a subtitle, one line of the smallest size stands between it and the axes. A subtitle
    of one space keeps the line free.
    """
    ax.set_title(title, fontsize=TITLE_SIZE, color=INK, loc="left", pad=_SUBTITLE_PAD if subtitle else None)
    if subtitle.strip():
        ax.annotate(
            subtitle,
            (0, 1),
            (0, 5),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=FONT_SIZE,
            color=INK,
        )
    ax.set_xlabel(xlabel, fontsize=FONT_SIZE, color=INK)
    ax.set_ylabel(ylabel, fontsize=FONT_SIZE, color=INK)
    ax.tick_params(labelsize=FONT_SIZE, width=LINE_WIDTH, colors=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(LINE_WIDTH)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color=GRID, linewidth=LINE_WIDTH)
    return ax
