import ast
from itertools import pairwise, product
from pathlib import Path

import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import qcal.plots
from qcal.plots.style import FONT_SIZE, dress, minus, percent, percent_axis, setting_colour

BITS = [*map(str, range(2, 9)), "fp"]


def luminance(colour: str) -> float:
    red, green, blue = to_rgb(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_no_picture_imports_pyplot() -> None:
    for file in Path(qcal.plots.__path__[0]).glob("*.py"):
        nodes = [
            node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert nodes, file
        assert "pyplot" not in " ".join(map(ast.unparse, nodes)), file


def test_every_setting_of_the_grid_has_its_own_colour() -> None:
    colours = {setting_colour(f"w{weight}a{activation}") for weight, activation in product(BITS, BITS)}
    assert len(colours) == len(BITS) ** 2


def test_fewer_bits_are_lighter_and_float_is_darkest_in_grey() -> None:
    greys = [luminance(setting_colour(s)) for s in ("float", "w8a8", "w7a7", "w6a6", "w5a5", "w4a4", "w3a3", "w2a2")]
    assert greys == sorted(greys)
    assert min(later - earlier for earlier, later in pairwise(greys)) > 0.03
    assert greys[-1] < 0.85  # still to be seen on white


def test_words_of_a_setting_do_not_change_its_colour() -> None:
    assert setting_colour("w4a8-mse-full-out") == setting_colour("w4a8")


def test_other_names_get_a_neutral_colour() -> None:
    assert setting_colour("my own") == setting_colour("another")
    assert setting_colour("my own") != setting_colour("float")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0"), (0.00083, "0.08"), (0.0413, "4.1"), (0.3055, "31"), (1, "100"), (-0.0413, "\N{MINUS SIGN}4.1")],
)
def test_percent_has_the_decimals_its_size_needs(share: float, text: str) -> None:
    assert percent(share) == text


def test_minus_is_the_sign_and_not_a_hyphen() -> None:
    assert minus("-0.5") == "\N{MINUS SIGN}0.5"


def test_percent_axis_reads_fractions_in_percent() -> None:
    ax = Figure().add_subplot()
    percent_axis(ax)
    ax.set_ylim(0, 0.04)
    ax.set_yticks([0, 0.005, 0.03])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0 %", "0.5 %", "3 %"]


def test_dressed_axes_use_no_text_smaller_than_allowed() -> None:
    ax = dress(Figure().add_subplot(), title="title", subtitle="subtitle", xlabel="x", ylabel="y")
    labels = [ax.xaxis.label, ax.yaxis.label, *ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
    assert min(float(label.get_fontsize()) for label in labels) >= FONT_SIZE >= 8
    assert ax.get_title(loc="left") == "title"
    assert [text.get_text() for text in ax.texts] == ["subtitle"]
