"""Settings read, print, compare and complain as their docstring says."""

import dataclasses
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qcal.functional.affine import Symmetry
from qcal.quantization.setting import (
    ActivationRange,
    ActivationSymmetry,
    Granularity,
    Override,
    Rounding,
    Setting,
    WeightRange,
)

WIDTHS = st.one_of(st.none(), st.integers(2, 8))
PATTERNS = st.text("abcLw0123456789_.*?", min_size=1, max_size=12)
OVERRIDES = st.builds(Override, PATTERNS, WIDTHS, st.one_of(st.just("keep"), WIDTHS))
PERCENTILES = st.one_of(st.just(99.99), st.floats(50, 100, exclude_min=True))
FIELDS = st.fixed_dictionaries(
    {"weight_bits": WIDTHS, "activation_bits": WIDTHS},
    optional={
        "activation_range": st.sampled_from(get_args(ActivationRange)),
        "activation_symmetry": st.sampled_from(get_args(ActivationSymmetry)),
        "weight_range": st.sampled_from(get_args(WeightRange)),
        "weight_symmetry": st.sampled_from(get_args(Symmetry)),
        "weight_granularity": st.sampled_from(get_args(Granularity)),
        "equalization": st.booleans(),
        "rounding": st.sampled_from(get_args(Rounding)),
        "bias_correction": st.booleans(),
        "quantize_output": st.booleans(),
        "keep_float": st.lists(PATTERNS, max_size=3).map(tuple),
        "overrides": st.lists(OVERRIDES, max_size=2).map(tuple),
        "activation_percentile": PERCENTILES,
        "weight_percentile": PERCENTILES,
    },
)


@given(FIELDS)
def test_the_short_form_reads_back_as_the_same_setting(fields: dict[str, Any]) -> None:  # Any: as many types as fields
    try:
        setting = Setting(**fields)
    except ValueError:
        assume(False)
    read = Setting.parse(str(setting))
    assert read == setting
    assert hash(read) == hash(setting)


@given(
    st.sampled_from(["w4a8-mse-full", "w4a8-pct99.5-pt-cle-ada-bc-out", "w8afp-wpct-full", "w4a8-ema-sym", "w4a8-kl"])
)
def test_capitals_are_allowed_outside_names(text: str) -> None:
    assert Setting.parse(text.upper()) == Setting.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w4a8", Setting(4, 8)),
        ("w8afp", Setting(8, None)),
        ("wfpa2", Setting(None, 2)),
        ("wfpafp", Setting(None, None)),
        ("float", Setting(None, None)),
        (" W7A6 ", Setting(7, 6)),
        ("w4a8-mse-full-out", Setting(4, 8, "mse", weight_symmetry="full", quantize_output=True)),
        ("w4a8-out-full-mse", Setting(4, 8, "mse", weight_symmetry="full", quantize_output=True)),
        ("w4afp-full", Setting(4, None, weight_symmetry="full")),
        ("wfpa8-out", Setting(None, 8, quantize_output=True)),
        ("w4a8-mse-pt", Setting(4, 8, "mse", weight_granularity="per_tensor")),
        ("w4a8-ema-sym", Setting(4, 8, "moving_average", "symmetric")),
        ("w4a8-kl-wmse", Setting(4, 8, "entropy", weight_range="mse")),
        ("w4a8-pct99.9-wpct", Setting(4, 8, "percentile", weight_range="percentile", activation_percentile=99.9)),
        ("w4a8-cle-ada-bc", Setting(4, 8, equalization=True, rounding="adaround", bias_correction=True)),
        ("wfpa8-cle", Setting(None, 8, equalization=True)),
        ("w4a8-keep=first_last", Setting(4, 8, keep_float=("first_last",))),
        ("w4a8-keep=conv1+Layer3.*", Setting(4, 8, keep_float=("conv1", "Layer3.*"))),
        ("w4a8-fc:w8-layer1.*:wfpa4", Setting(4, 8, overrides=(Override("fc", 8), Override("layer1.*", None, 4)))),
        ("wfpafp-conv1:w4", Setting(None, None, overrides=(Override("conv1", 4),))),
    ],
)
def test_short_forms_mean_what_they_say(text: str, expected: Setting) -> None:
    assert Setting.parse(text) == expected


def test_words_print_in_one_order_and_defaults_never() -> None:
    assert str(Setting.parse("w4a8-out-full-mse")) == "w4a8-mse-full-out"
    assert str(Setting(8, 8)) == "w8a8"
    assert str(Setting.parse("float")) == "wfpafp"
    assert str(Setting.parse("w4a8-fc:w8-bc-keep=conv1-pct99.9-pt")) == "w4a8-pct99.9-pt-bc-keep=conv1-fc:w8"
    assert str(Setting.parse("w4a8-pct99.99")) == "w4a8-pct"


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
    assert not Setting.parse("wfpafp-fc:w4").is_float
    assert Setting.parse("wfpafp-fc:wfp").is_float


def test_a_setting_quantizes_activations_if_any_layer_does() -> None:
    assert Setting.parse("w4a8").quantizes_activations
    assert Setting.parse("w4afp-fc:a8").quantizes_activations
    assert not Setting.parse("w4afp-fc:w8").quantizes_activations


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
    with pytest.raises(
        ValueError, match=r"'entropy' is not a word .* ema, pct, mse, .*keep=<layers>.*In the setting 'w4a8-entropy'"
    ):
        Setting.parse("w4a8-entropy")


def test_a_word_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="`activation_range` must be given once, got 'mse' again"):
        Setting.parse("w4a8-mse-mse")


@pytest.mark.parametrize(
    "text", ["w8afp-mse", "w8afp-out", "wfpa8-full", "wfpa8-pt", "wfpa8-ada", "wfpa8-bc", "wfpa8-wmse", "w8afp-sym"]
)
def test_a_word_without_effect_is_refused_so_that_no_two_names_measure_the_same(text: str) -> None:
    with pytest.raises(ValueError, match=rf"has no effect when .* is None \(float\).* In the setting '{text}'"):
        Setting.parse(text)


def test_choices_are_listed_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"`activation_range` must be one of 'minmax', .*'entropy'; got 'kl'"):
        Setting(8, 8, "kl")  # type: ignore[arg-type]  # a wrong value is the point
    with pytest.raises(ValueError, match="`quantize_output` must be one of False, True; got 1"):
        Setting(8, 8, quantize_output=1)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize("value", [None, 48, ["w4a8"]])
def test_something_that_is_no_text_is_refused_by_its_type(value: str) -> None:
    with pytest.raises(TypeError, match=r"must be a string such as 'w4a8' or a Setting, got (NoneType|int|list)"):
        Setting.parse(value)


@pytest.mark.parametrize("text", ["wfpafp-cle", "float-keep=first"])
def test_what_changes_nothing_in_a_float_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no effect when nothing is quantized"):
        Setting.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("w4a8-pct40", r"`activation_percentile` must be a number in \(50, 100\], got 40"),
        ("w4a8-mse99", "'mse99' is not a word of a setting"),
        ("w4a8-keep=", "`keep_float` must hold names or patterns .* got ''"),
        ("w4a8-keep=a,b", "`keep_float` must hold names or patterns .* got 'a,b'"),
        ("w4a8-fc:", "'fc:' must end in the bits of these layers. Write it as 'fc:w8'"),
        ("w4a8-fc:x", "'fc:x' must end in the bits"),
        ("w4a8-fc:w9", r"`weight_bits` must be an integer in \[2, 8\]"),
        ("w4a8-:w8", "`pattern` must hold names or patterns"),
    ],
)
def test_a_bad_word_says_what_is_wrong_and_quotes_the_setting(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*In the setting '{text}'"):
        Setting.parse(text)


def test_a_percentile_without_percentile_ranges_is_refused() -> None:
    with pytest.raises(ValueError, match="`weight_percentile` has no effect unless `weight_range` is 'percentile'"):
        Setting(4, 8, weight_percentile=98.0)


def test_an_override_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="An override must change bits, got none for 'fc'"):
        Override("fc")


@pytest.mark.parametrize("value", [["first"], "first"])
def test_names_must_be_tuples_so_that_settings_hash(value: object) -> None:
    with pytest.raises(ValueError, match="`keep_float` and `overrides` must be tuples"):
        Setting(4, 8, keep_float=value)  # type: ignore[arg-type]  # a wrong value is the point
