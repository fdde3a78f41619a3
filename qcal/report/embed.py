"""Pictures inside a page: SVGs that share one document and have titles to hover over, and PNGs."""

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["add_titles", "inline_png", "inline_svg"]

_PROLOGUE = re.compile(r"^.*?(?=<svg)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL)
_ID = re.compile(r'(\bid="|xlink:href="#|url\(#)')
_SIZE = re.compile(
    r'(<svg\b[^>]*?) width="([\d.]+)pt" height="[\d.]+pt"|(<svg\b[^>]*?) height="[\d.]+pt" width="([\d.]+)pt"'
)


def add_titles(svg: str, titles: Mapping[str, str]) -> str:
    """Give groups of an SVG a title, which viewers show where the pointer is and screen readers read.

    Args:
        svg: As matplotlib writes it.
        titles: Text by the identifier of the group.

    Returns:
        The SVG with a `<title>` in each of these groups.

    Raises:
        ValueError: An identifier is not in the SVG.

    Example:
        >>> add_titles('<svg><g id="point-1"><path/></g></svg>', {"point-1": "focal, seed 1"})
        '<svg><g id="point-1"><title>focal, seed 1</title><path/></g></svg>'
    """
    for identifier, text in titles.items():
        opening = f'<g id="{identifier}">'
        if opening not in svg:
            raise ValueError(f"`titles` must be of groups in the SVG, got {identifier!r}. Set the artist's `gid`.")
        svg = svg.replace(opening, f"{opening}<title>{html.escape(text)}</title>", 1)
    return svg


def inline_svg(svg: str, *, prefix: str, label: str, runs: Mapping[str, str] | None = None) -> str:
    """Make an SVG fit to stand in a page beside others: no prologue, identifiers of its own, a style of its own.

    Args:
        svg: As matplotlib writes it.
        prefix: Put before every identifier; letters, digits and hyphens.
        label: What the picture is, for screen readers.
        runs: By identifier of a group, the name of the run, to find the run's other points by.

    Returns:
        The element.

    Example:
        >>> print(inline_svg('<svg width="9pt" height="9pt"><g id="a"/></svg>', prefix="p1", label="A"))
        <svg id="p1" class="picture" role="img" aria-label="A" style="max-width:9pt"><g id="p1-a"/></svg>
    """
    body = _METADATA.sub("", _PROLOGUE.sub("", svg, count=1))
    for identifier, run in (runs or {}).items():
        body = body.replace(
            f'<g id="{identifier}">', f'<g id="{identifier}" class="run" data-run="{html.escape(run)}">', 1
        )
    body = _ID.sub(lambda match: f"{match[1]}{prefix}-", body)
    # Matplotlib's style is of every element of the document; here it is of this picture.
    body = body.replace('<style type="text/css">*{', f'<style type="text/css">#{prefix} *{{')
    attributes = f'id="{prefix}" class="picture" role="img" aria-label="{html.escape(label)}"'
    width = _SIZE.search(body)
    points = (width[2] or width[4]) if width else None
    body = _SIZE.sub(lambda match: match[1] or match[3], body, count=1)
    size = f' style="max-width:{points}pt"' if points else ""
    return body.replace("<svg", f"<svg {attributes}{size}", 1).strip()


def inline_png(path: Path, *, label: str, width: float) -> str:
    """A PNG as an element that holds its bytes.

    Args:
        path: The file.
        label: What the picture is, for screen readers.
        width: Its natural width in points.

    Returns:
        The element.
    """
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<img class="picture" alt="{html.escape(label)}" style="max-width:{width:g}pt" '
        f'src="data:image/png;base64,{data}">'
    )
