from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from PIL import Image

from qcal.plots import save_figure


def picture() -> Figure:
    fig = Figure(figsize=(2, 1))
    fig.add_subplot().bar([0, 1], [1, 2], hatch="//", label="bars")
    fig.legend()
    return fig


def test_png_and_svg_are_written_into_a_new_folder(tmp_path: Path) -> None:
    paths = save_figure(picture(), tmp_path / "a" / "b", "swaps")
    assert paths == [tmp_path / "a" / "b" / "swaps.png", tmp_path / "a" / "b" / "swaps.svg"]
    assert sorted(paths[0].parent.iterdir()) == paths  # and no temporary file
    with Image.open(paths[0]) as image:
        assert image.size == (300, 150)  # 2 x 1 inch at 150 dots per inch
    assert "<svg" in paths[1].read_text()


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_figure(picture(), tmp_path / folder, "swaps") for folder in "ab")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<dc:date>" not in first[1].read_bytes()
    assert matplotlib.__version__.encode() not in first[0].read_bytes()


def test_matplotlibs_settings_are_as_before(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_figure(picture(), tmp_path, "swaps")
    assert dict(matplotlib.rcParams) == before


def test_a_failure_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png, svg = save_figure(picture(), tmp_path, "swaps")
    before = png.read_bytes()

    def half(self: Figure, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(Figure, "savefig", half)
    with pytest.raises(RuntimeError, match="disk full"):
        save_figure(picture(), tmp_path, "swaps")
    assert png.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [png, svg]


@pytest.mark.parametrize("name", ["", "a/b", "../swaps", "."])
def test_a_name_that_is_a_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`name` must be a file name without ending, got .* Put the folder into"):
        save_figure(picture(), tmp_path, name)
