import pytest
from matplotlib.figure import Figure

from qcal.plots.setting_axis import fit_height, mark_no_swaps, name_settings, tick_labels


@pytest.mark.parametrize(
    ("settings", "labels", "shared"),
    [
        (["w8a8"], ["w8a8"], ""),
        (["w8a8-mse", "w4a8-mse"], ["w8a8", "w4a8"], "mse"),
        (["w8a8-mse", "w4a8"], ["w8a8\nmse", "w4a8"], ""),
        (["w8a8-mse-full", "w4a8-mse"], ["w8a8\nmse-full", "w4a8\nmse"], ""),
        (["w8a8-ema-wmse-full-out", "w4a8-mse"], ["w8a8\nema-wmse\nfull-out", "w4a8\nmse"], ""),
    ],
)
def test_words_that_all_settings_share_are_said_once(settings: list[str], labels: list[str], shared: str) -> None:
    assert tick_labels(settings) == (labels, shared)


def test_few_settings_are_named_upright_with_the_shared_words_on_the_axis() -> None:
    ax = name_settings(Figure().add_subplot(), ["w8a8-mse", "w4a8-mse"], counts=[0, 12345])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["w8a8\n0", "w4a8\n12,345"]
    assert ax.get_xlabel() == "setting, number of swaps (all mse)"
    assert ax.get_xticklabels()[0].get_rotation() == 0


def test_many_settings_are_named_turned_and_on_one_line() -> None:
    settings = [f"w{weight}a{activation}" for weight in (4, 8) for activation in range(3, 8)] + ["w2a2-mse"]
    ax = name_settings(Figure().add_subplot(), settings, counts=range(11))
    texts = [label.get_text() for label in ax.get_xticklabels()]
    assert texts[0] == "w4a3 (0)"
    assert texts[-1] == "w2a2-mse (10)"
    assert ax.get_xticklabels()[0].get_rotation() == 90


def test_a_long_word_is_broken_so_that_names_do_not_overlap() -> None:
    settings = [
        "w8a8-mse",
        "w4a8-pct99.9-keep=first_last",
        "w4a4-kl-backbone.stage1.*:w8a8",
        "w3a3-averyveryverylongname:w8",
    ]
    ax = name_settings(Figure().add_subplot(), settings)
    labels = [label.get_text().split("\n") for label in ax.get_xticklabels()]
    assert labels[1] == ["w4a8", "pct99.9", "keep=", "first_last"]
    for setting, lines in zip(settings, labels, strict=True):
        assert max(map(len, lines)) <= 10
        assert "".join(lines).replace("-", "") == setting.replace("-", "")


@pytest.mark.parametrize(
    ("ends", "low", "high"),
    [
        ([], 0, 0.112),
        ([0, 0], 0, 0.112),
        ([0.2, 0.5], 0, 0.56),
        ([-0.2, 0.3], -0.26, 0.36),
        ([-0.5], -0.56, 0.06),
    ],
)
def test_height_holds_zero_all_ends_and_some_room(ends: list[float], low: float, high: float) -> None:
    ax = Figure().add_subplot()
    fit_height(ax, ends, least=0.1)
    assert ax.get_ylim() == pytest.approx((low, high))


def test_a_missing_value_is_marked_in_words() -> None:
    ax = Figure().add_subplot()
    mark_no_swaps(ax, 3)
    assert [(text.get_text(), text.get_position()[0]) for text in ax.texts] == [("no swaps", 3)]
