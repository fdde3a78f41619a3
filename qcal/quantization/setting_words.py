"""The short forms of settings: how `w4a8-mse-keep=first_last` is read, and printed."""

import dataclasses
import re
from typing import Any, Literal

from qcal.quantization.setting import ACTIVATION_PERCENTILE, WEIGHT_PERCENTILE, Override, Setting

_HEAD = re.compile(r"w(?P<weight>fp|\d+)a(?P<activation>fp|\d+)")
_OVERRIDE_BITS = re.compile(r"(w(?P<weight>fp|\d+))?(a(?P<activation>fp|\d+))?")
_PERCENTILE = re.compile(r"(?P<word>w?pct)(?P<value>\d+(\.\d+)?)")

# Word -> (field, the value it stands for), in the order in which they are printed.
_WORDS: dict[str, tuple[str, str | bool]] = {
    "ema": ("activation_range", "moving_average"),
    "pct": ("activation_range", "percentile"),
    "mse": ("activation_range", "mse"),
    "kl": ("activation_range", "entropy"),
    "sym": ("activation_symmetry", "symmetric"),
    "wpct": ("weight_range", "percentile"),
    "wmse": ("weight_range", "mse"),
    "full": ("weight_symmetry", "full"),
    "pt": ("weight_granularity", "per_tensor"),
    "cle": ("equalization", True),
    "ada": ("rounding", "adaround"),
    "bc": ("bias_correction", True),
    "out": ("quantize_output", True),
}
# Word that may carry a number -> (field of the number, its default).
_NUMBERS: dict[str, tuple[str, float]] = {
    "pct": ("activation_percentile", ACTIVATION_PERCENTILE),
    "wpct": ("weight_percentile", WEIGHT_PERCENTILE),
}


def read_setting(text: str | Setting) -> Setting:
    """The setting a short form names; see `Setting.parse`."""
    if isinstance(text, Setting):
        return text
    if not isinstance(text, str):
        raise TypeError(f"A setting must be a string such as 'w4a8' or a Setting, got {type(text).__name__}.")
    head, *words = text.strip().split("-")
    head = head.lower()
    bits = _HEAD.fullmatch("wfpafp" if head == "float" else head)
    if bits is None:
        raise ValueError(
            f"A setting starts with w<bits>a<bits>, bits from 2 to 8 or fp (float), got {text!r}. "
            "Write it as 'w4a8' or 'w8afp-full'."
        )
    try:
        return Setting(_read_bits(bits["weight"]), _read_bits(bits["activation"]), **_read_words(words))
    except ValueError as error:
        raise ValueError(f"{error} In the setting {text!r}.") from None


def print_setting(setting: Setting) -> str:
    """The short form of a setting; see `Setting`."""
    parts = [f"w{_print_bits(setting.weight_bits)}a{_print_bits(setting.activation_bits)}"]
    for word, (field, value) in _WORDS.items():
        if getattr(setting, field) == value:
            parts.append(word + _print_number(word, setting))
    if setting.keep_float:
        parts.append("keep=" + "+".join(setting.keep_float))
    return "-".join([*parts, *map(str, setting.overrides)])


def _read_words(words: list[str]) -> dict[str, Any]:  # Any: each field has its own type
    fields: dict[str, Any] = {}  # as above
    for word in words:
        for field, value in _read_word(word):
            if field in fields and field != "overrides":
                raise ValueError(f"`{field}` must be given once, got {word!r} again.")
            fields[field] = (*fields.get(field, ()), value) if field == "overrides" else value
    return fields


def _read_word(word: str) -> list[tuple[str, Any]]:  # Any: as above
    if word.lower().startswith("keep="):
        return [("keep_float", tuple(word[len("keep=") :].split("+")))]
    if ":" in word:
        return [("overrides", _read_override(word))]
    plain, number = word.lower(), None
    with_number = _PERCENTILE.fullmatch(plain)
    if with_number is not None:
        plain, number = with_number["word"], float(with_number["value"])
    if plain not in _WORDS:
        raise ValueError(
            f"{word!r} is not a word of a setting; those are {', '.join(_WORDS)}, keep=<layers> and <layers>:w<bits>."
        )
    fields: list[tuple[str, Any]] = [_WORDS[plain]]  # as above
    return fields if number is None else [*fields, (_NUMBERS[plain][0], number)]


def _read_override(word: str) -> Override:
    pattern, _, form = word.rpartition(":")
    bits = _OVERRIDE_BITS.fullmatch(form.lower())
    if bits is None or not form:
        raise ValueError(
            f"{word!r} must end in the bits of these layers. Write it as '{pattern}:w8' or '{pattern}:a8'."
        )
    weight, activation = (_read_override_bits(bits[kind]) for kind in ("weight", "activation"))
    return Override(pattern, weight, activation)


def _read_override_bits(text: str | None) -> int | Literal["keep"] | None:
    return "keep" if text is None else _read_bits(text)


def _read_bits(text: str) -> int | None:
    return None if text == "fp" else int(text)


def _print_bits(bits: int | None) -> str:
    return "fp" if bits is None else str(bits)


def _print_number(word: str, setting: Setting) -> str:
    if word not in _NUMBERS:
        return ""
    field, default = _NUMBERS[word]
    value = getattr(setting, field)
    # repr of a float reads back as the same float.
    return "" if value == default else repr(float(value)).removesuffix(".0")


_FIELDS_IN_WORDS = {field for field, _ in _WORDS.values()} | {field for field, _ in _NUMBERS.values()}
assert _FIELDS_IN_WORDS | {"weight_bits", "activation_bits", "keep_float", "overrides"} == {
    field.name for field in dataclasses.fields(Setting)
}, "a field of Setting has no word"
