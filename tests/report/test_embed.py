import base64
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from qcal.plots import save_figure
from qcal.report.embed import add_titles, inline_png, inline_svg


@pytest.fixture
def svg(tmp_path: Path) -> str:
    fig = Figure(figsize=(2, 1))
    (point,) = fig.add_subplot().plot(1, 2, "o")
    point.set_gid("point-0-1")
    _, path = save_figure(fig, tmp_path, "one")
    return path.read_text()


def test_a_title_stands_in_its_group_and_its_text_is_escaped(svg: str) -> None:
    titled = add_titles(svg, {"point-0-1": "a < b & c"})
    assert '<g id="point-0-1"><title>a &lt; b &amp; c</title>' in titled
    with pytest.raises(ValueError, match=r"got 'point-9'. Set the artist's `gid`."):
        add_titles(svg, {"point-9": "nobody"})


def test_every_identifier_and_every_use_of_one_has_the_prefix(svg: str) -> None:
    inline = inline_svg(svg, prefix="p1", label='dilemma "A"', runs={"point-0-1": 'run "x"'})
    identifiers = set(re.findall(r'\bid="([^"]*)"', inline))
    uses = set(re.findall(r'xlink:href="#([^"]*)"', inline)) | set(re.findall(r"url\(#([^)]*)\)", inline))
    assert identifiers - {"p1"} == {each for each in identifiers if each.startswith("p1-")}
    assert uses
    assert uses <= identifiers
    assert inline.startswith('<svg id="p1" class="picture" role="img" aria-label="dilemma &quot;A&quot;"')
    assert 'class="run" data-run="run &quot;x&quot;"' in inline
    assert "<?xml" not in inline
    assert "<metadata" not in inline


def test_its_style_is_of_no_other_element_of_the_page(svg: str) -> None:
    assert '<style type="text/css">*{' in svg
    inline = inline_svg(svg, prefix="p1", label="A")
    assert re.findall(r"<style[^>]*>(.*?)\{", inline) == ["#p1 *"]


def test_it_is_as_wide_as_it_was_drawn_at_most(svg: str) -> None:
    head = inline_svg(svg, prefix="p1", label="A").split(">")[0]
    assert 'style="max-width:144pt"' in head
    assert 'viewBox="0 0 144 72"' in head
    assert ' width="' not in head


def test_a_png_is_held_in_the_page(tmp_path: Path) -> None:
    png, _ = save_figure(Figure(figsize=(1, 1)), tmp_path, "one")
    element = inline_png(png, label="A & B", width=72)
    assert 'alt="A &amp; B"' in element
    data = re.search(r"base64,([^\"]*)\"", element)
    assert data is not None
    assert base64.b64decode(data[1]) == png.read_bytes()
