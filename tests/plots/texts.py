"""What the tests of several pictures ask about the text in them."""

from itertools import combinations
from unittest.mock import patch

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def drawn_texts(fig: Figure) -> list[tuple[str, float, Bbox]]:
    """Every text that is really drawn (ticks beyond an axis are not): words, size in points, place in pixels."""
    drawn = []
    draw = Text.draw

    def record(text: Text, renderer: RendererBase) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), float(text.get_fontsize()), text.get_window_extent(renderer)))
        draw(text, renderer)

    with patch.object(Text, "draw", record):
        fig.draw_without_rendering()
    return drawn


def smallest(fig: Figure) -> float:
    """The smallest font size, in points."""
    return min(size for _, size, _ in drawn_texts(fig))


def cut_off(fig: Figure) -> list[str]:
    """Texts that reach over the edge of the picture."""
    whole = fig.bbox.padded(0.5)  # half a pixel of rounding
    texts = [(text, box.corners()) for text, _, box in drawn_texts(fig)]
    return [text for text, corners in texts if not all(whole.contains(*corner) for corner in corners)]


def overlapping(fig: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that share a place."""
    shrunk = [(text, box.padded(-1)) for text, _, box in drawn_texts(fig)]  # boxes include a little air
    return [(one, other) for (one, a), (other, b) in combinations(shrunk, 2) if Bbox.intersection(a, b) is not None]
