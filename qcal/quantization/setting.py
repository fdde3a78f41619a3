"""One point of the quantization grid, with a short name to type and to read: `w4a8`, `w8afp`, `w4a8-mse-full-out`."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

from qcal.functional.affine import Symmetry

ActivationRange = Literal["minmax", "mse"]


@dataclass(frozen=True)
class Setting:
    """How weights and activations are quantized: everything that tells one row of the results from another.

    Its short form is `w<bits>a<bits>`, `fp` standing for float, then those of these words that differ from the default,
    in this order, each after a hyphen:

    | word | field |
    |---|---|
    | `mse` | `activation_range="mse"` |
    | `full` | `weight_symmetry="full"` |
    | `out` | `quantize_output=True` |

    Args:
        weight_bits: Width of the weights, 2 to 8; None keeps them in float.
        activation_bits: Width of the activations, 2 to 8; None keeps them in float.
        activation_range: Where the ends of an activation's grid lie. "minmax" (default): at the lowest and highest
            value seen. "mse": where the mean squared quantization error of the values seen is least, at this width.
        weight_symmetry: The symmetric convention, see `qcal.functional.affine`. "restricted" (default) or "full" (the
            paper's, and that of torch's observers).
        quantize_output: Whether the logits themselves are quantized. False (default), as most backends return float.

    Raises:
        ValueError: a field is out of its range, or has no effect because what it changes is in float.

    Example:
        >>> Setting.parse("w4a8-out")
        Setting(weight_bits=4, activation_bits=8, activation_range='minmax', weight_symmetry='restricted',
            quantize_output=True)
        >>> str(Setting(4, None, weight_symmetry="full"))
        'w4afp-full'
    """

    weight_bits: int | None
    activation_bits: int | None
    activation_range: ActivationRange = "minmax"
    weight_symmetry: Symmetry = "restricted"
    quantize_output: bool = False

    def __post_init__(self) -> None:
        _check_bits("weight_bits", self.weight_bits)
        _check_bits("activation_bits", self.activation_bits)
        _check_choice("activation_range", self.activation_range, get_args(ActivationRange))
        _check_choice("weight_symmetry", self.weight_symmetry, get_args(Symmetry))
        _check_choice("quantize_output", self.quantize_output, (False, True))
        # Two settings that measure the same thing under two names would be two rows of one table.
        for word, (field, value) in _WORDS.items():
            bits_field = "weight_bits" if field == "weight_symmetry" else "activation_bits"
            if getattr(self, field) == value and getattr(self, bits_field) is None:
                raise ValueError(
                    f"`{field}` {value!r} (`{word}`) has no effect when `{bits_field}` is None (float). "
                    f"Leave it out, or give `{bits_field}`."
                )

    @classmethod
    def parse(cls, text: "str | Setting") -> "Setting":
        """The setting that a short form names; a `Setting` is returned as it is.

        Args:
            text: `w<2..8|fp>a<2..8|fp>`, then words after hyphens in any order; capitals are allowed. "float" is
                `wfpafp`.

        Raises:
            ValueError: the text is not of this form, or the setting it names is not allowed; the message quotes it.
            TypeError: `text` is neither a string nor a `Setting`.

        Example:
            >>> Setting.parse("W4A8-full-mse") == Setting(4, 8, "mse", "full")
            True
        """
        if isinstance(text, Setting):
            return text
        if not isinstance(text, str):
            raise TypeError(f"A setting must be a string such as 'w4a8' or a Setting, got {type(text).__name__}.")
        form = text.strip().lower()
        head, *words = ("wfpafp" if form == "float" else form).split("-")
        bits = _HEAD.fullmatch(head)
        if bits is None:
            raise ValueError(
                f"A setting starts with w<bits>a<bits>, bits from 2 to 8 or fp (float), got {text!r}. "
                "Write it as 'w4a8' or 'w8afp-full'."
            )
        try:
            return cls(_read_bits(bits["weight"]), _read_bits(bits["activation"]), **_read_words(words))
        except ValueError as error:
            raise ValueError(f"{error} In the setting {text!r}.") from None

    def __str__(self) -> str:
        """The short form; `Setting.parse(str(setting)) == setting`."""
        weight, activation = ("fp" if b is None else str(b) for b in (self.weight_bits, self.activation_bits))
        words = [word for word, (field, value) in _WORDS.items() if getattr(self, field) == value]
        return "-".join([f"w{weight}a{activation}", *words])

    @property
    def is_float(self) -> bool:
        """Whether nothing at all is quantized."""
        return self.weight_bits is None and self.activation_bits is None


_HEAD = re.compile(r"w(?P<weight>fp|\d+)a(?P<activation>fp|\d+)")

# Word -> (field, the value it stands for), in the order in which they are printed.
_WORDS: dict[str, tuple[str, str | bool]] = {
    "mse": ("activation_range", "mse"),
    "full": ("weight_symmetry", "full"),
    "out": ("quantize_output", True),
}


def _read_bits(text: str) -> int | None:
    return None if text == "fp" else int(text)


def _read_words(words: list[str]) -> dict[str, Any]:  # Any: each field has its own type
    fields: dict[str, Any] = {}  # as above
    for word in words:
        if word not in _WORDS:
            raise ValueError(f"{word!r} is not a word of a setting; those are {', '.join(_WORDS)}.")
        field, value = _WORDS[word]
        if field in fields:
            raise ValueError(f"`{field}` must be given once, got {word!r} again.")
        fields[field] = value
    return fields


def _check_bits(name: str, bits: int | None) -> None:
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8):
        raise ValueError(f"`{name}` must be an integer in [2, 8] or None (float), got {bits!r}.")


def _check_choice(name: str, value: str | bool, choices: tuple[str | bool, ...]) -> None:
    if (type(value), value) not in [(type(choice), choice) for choice in choices]:  # type: 1 is not True
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")
