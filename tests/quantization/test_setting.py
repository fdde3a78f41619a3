"""Settings read, print, compare and complain as their docstring says."""

import dataclasses
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcal.functional.affine import Symmetry
from qcal.quantization.setting import ActivationRange, Setting

WIDTHS = st.one_of(st.none(), st.integers(2, 8))


@given(WIDTHS, WIDTHS, st.sampled_from(get_args(ActivationRange)), st.sampled_from(get_args(Symmetry)), st.booleans())
def test_the_short_form_reads_back_as_the_same_setting(
    weight_bits: int | None,
    activation_bits: int | None,
    activation_range: ActivationRange,
    symmetry: Symmetry,
    output: bool,
) -> None:
    try:
        setting = Setting(weight_bits, activation_bits, activation_range, symmetry, output)
    except ValueError:
        assume(False)
    assert Setting.parse(str(setting)) == setting
    assert Setting.parse(str(setting).upper()) == setting
    assert hash(Setting.parse(str(setting))) == hash(setting)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w4a8", Setting(4, 8)),
        ("w8afp", Setting(8, None)),
        ("wfpa2", Setting(None, 2)),
        ("wfpafp", Setting(None, None)),
        ("float", Setting(None, None)),
        (" W7A6 ", Setting(7, 6)),
        ("w4a8-mse-full-out", Setting(4, 8, "mse", "full", True)),
        ("w4a8-out-full-mse", Setting(4, 8, "mse", "full", True)),
        ("w4afp-full", Setting(4, None, weight_symmetry="full")),
        ("wfpa8-out", Setting(None, 8, quantize_output=True)),
    ],
)
def test_short_forms_mean_what_they_say(text: str, expected: Setting) -> None:
    assert Setting.parse(text) == expected


def test_words_print_in_one_order_and_defaults_never() -> None:
    assert str(Setting.parse("w4a8-out-full-mse")) == "w4a8-mse-full-out"
    assert str(Setting(8, 8)) == "w8a8"
    assert str(Setting.parse("float")) == "wfpafp"


def test_a_setting_parses_to_itself() -> None:
    setting = Setting(4, 8)
    assert Setting.parse(setting) is setting


def test_a_setting_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Setting(4, 8).weight_bits = 5  # type: ignore[misc]  # the attempt is the point


def test_only_float_is_float() -> None:
    assert Setting(None, None).is_float
    assert not Setting(8, None).is_float
    assert not Setting(None, 8).is_float


@pytest.mark.parametrize("bits", [1, 9, 0, -8, True, 4.0, "4"])
def test_a_bit_width_out_of_range_names_the_field(bits: int) -> None:
    expected = rf"`weight_bits` must be an integer in \[2, 8\] or None \(float\), got {bits!r}\."
    with pytest.raises(ValueError, match=expected):
        Setting(bits, 8)
    with pytest.raises(ValueError, match=expected.replace("weight", "activation")):
        Setting(8, bits)


def test_a_bad_width_in_a_text_names_the_field_and_the_text() -> None:
    with pytest.raises(
        ValueError, match=r"`weight_bits` must be an integer in \[2, 8\].*, got 1\. In the setting 'w1a8'"
    ):
        Setting.parse("w1a8")
    with pytest.raises(ValueError, match=r"`activation_bits` must be .*, got 16\. In the setting 'w8a16'"):
        Setting.parse("w8a16")


@pytest.mark.parametrize("text", ["", "w4", "a8", "4/8", "w4-a8", "wxa8", "w4a8mse", "w-4a8", "w4.5a8"])
def test_a_text_of_another_form_is_quoted_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"starts with w<bits>a<bits>.*got '.*'\. Write it as 'w4a8'"):
        Setting.parse(text)


def test_an_unknown_word_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'entropy' is not a word .* mse, full, out\. In the setting 'w4a8-entropy'"):
        Setting.parse("w4a8-entropy")


def test_a_word_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="`activation_range` must be given once, got 'mse' again"):
        Setting.parse("w4a8-mse-mse")


@pytest.mark.parametrize("text", ["w8afp-mse", "w8afp-out", "wfpa8-full"])
def test_a_word_without_effect_is_refused_so_that_no_two_names_measure_the_same(text: str) -> None:
    with pytest.raises(ValueError, match=rf"`{text[-3:]}|full`\) has no effect when .* is None \(float\)"):
        Setting.parse(text)


def test_choices_are_listed_in_the_error() -> None:
    with pytest.raises(ValueError, match="`activation_range` must be one of 'minmax', 'mse'; got 'kl'"):
        Setting(8, 8, "kl")  # type: ignore[arg-type]  # a wrong value is the point
    with pytest.raises(ValueError, match="`quantize_output` must be one of False, True; got 1"):
        Setting(8, 8, quantize_output=1)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("value", [None, 48, ["w4a8"]])
def test_something_that_is_no_text_is_refused_by_its_type(value: str) -> None:
    with pytest.raises(TypeError, match=r"must be a string such as 'w4a8' or a Setting, got (NoneType|int|list)"):
        Setting.parse(value)
