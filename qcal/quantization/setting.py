"""One point of the quantization grid, with a short name to type and to read: `w4a8`, `w8afp`, `w4a8-mse-pt`."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from qcal.functional.affine import Symmetry

ActivationRange = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]
ActivationSymmetry = Literal["affine", "symmetric"]
WeightRange = Literal["minmax", "percentile", "mse"]
Granularity = Literal["per_channel", "per_tensor"]
Rounding = Literal["nearest", "adaround"]

# What the short form, and a list in YAML, can hold without quotes.
_PATTERN = re.compile(r"[\w./*?]+")

# Names of layers that `keep_float` takes beside patterns.
PRESETS = ("first", "last", "first_last")

# Activations are many: one in ten thousand is an outlier. The weights of one channel are few: one in a hundred.
ACTIVATION_PERCENTILE = 99.99
WEIGHT_PERCENTILE = 99.0


@dataclass(frozen=True)
class Override:
    """Other bits for some layers.

    Args:
        pattern: Which layers, by name: `*` stands for any characters, `?` for one (as in `fnmatch`).
        bits: What to change: `weight_bits`, `activation_bits` (of the tensor that the layer stores) or both; None as a
            value means float.

    Raises:
        ValueError: an empty pattern, one that the short form could not write, no bits, or bits out of range.

    Example:
        >>> str(Override("layer1.*", weight_bits=8))
        'layer1.*:w8'
    """

    pattern: str
    weight_bits: int | Literal["keep"] | None = "keep"
    activation_bits: int | Literal["keep"] | None = "keep"

    def __post_init__(self) -> None:
        _check_pattern("pattern", self.pattern)
        if self.weight_bits == self.activation_bits == "keep":
            raise ValueError(f"An override must change bits, got none for {self.pattern!r}. Write '{self.pattern}:w8'.")
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) != "keep":
                check_bits(name, getattr(self, name))

    def __str__(self) -> str:
        weight, activation = (
            "" if bits == "keep" else f"{letter}{'fp' if bits is None else bits}"
            for letter, bits in (("w", self.weight_bits), ("a", self.activation_bits))
        )
        return f"{self.pattern}:{weight}{activation}"


@dataclass(frozen=True)
class Setting:
    """How weights and activations are quantized: everything that tells one row of the results from another.

    Its short form is `w<bits>a<bits>`, `fp` standing for float, then those of these words that differ from the default,
    in this order, each after a hyphen:

    | word | field |
    |---|---|
    | `ema`, `pct`, `mse`, `kl` | `activation_range` "moving_average", "percentile", "mse", "entropy" |
    | `sym` | `activation_symmetry="symmetric"` |
    | `wpct`, `wmse` | `weight_range` "percentile", "mse" |
    | `full` | `weight_symmetry="full"` |
    | `pt` | `weight_granularity="per_tensor"` |
    | `cle` | `equalization=True` |
    | `ada` | `rounding="adaround"` |
    | `bc` | `bias_correction=True` |
    | `out` | `quantize_output=True` |
    | `keep=first_last`, `keep=conv1+layer3.*` | `keep_float` |
    | `layer1.*:w8a8`, `fc:w8` | `overrides`, later ones win |

    `pct` and `wpct` may name their percentile: `pct99.9`. A hyphen in the name of a layer is written `?`.

    Args:
        weight_bits: Width of the weights, 2 to 8; None keeps them in float.
        activation_bits: Width of the activations, 2 to 8; None keeps them in float.
        activation_range: Where the ends of an activation's grid lie; see `qcal.quantization.ranges`. "minmax"
            (default): at the extremes seen. "moving_average": at the running averages of the extremes of each batch.
            "percentile": at the quantiles of `activation_percentile`. "mse": where the mean squared quantization error
            is least at this width. "entropy": where the Kullback-Leibler divergence is least.
        activation_symmetry: "affine" (default): a zero point where the range wants it. "symmetric": zero point 0;
            unsigned where nothing negative was seen, else signed.
        weight_range: What the grid of a channel (or tensor) of weights covers: "minmax" (default), the largest absolute
            value; "percentile", the quantile of `weight_percentile` of the absolute values; "mse", the least error.
        weight_symmetry: The symmetric convention, see `qcal.functional.affine`. "restricted" (default) or "full" (the
            paper's, and that of torch's observers).
        weight_granularity: One scale for each output channel (default), or one for the whole tensor.
        equalization: Whether neighbouring layers are first scaled so that their channels use their ranges alike
            (Nagel et al. 2019).
        rounding: "nearest" (default), or "adaround": up or down as is best for the layer's output (Nagel et al. 2020).
        bias_correction: Whether each layer's bias makes up for the mean error its rounded weights cause (Nagel et al.
            2019, empirical form).
        quantize_output: Whether the logits themselves are quantized. False (default), as most backends return float.
        keep_float: Layers whose weights stay in float, as names, patterns (`*`, `?`) or the presets "first", "last" and
            "first_last". A tensor that only such layers read is not quantized either. A pattern may also name a stored
            tensor that no layer makes, such as "input" or "layer1.0.add".
        overrides: Other bits for some layers; of several that match the last one counts.
        activation_percentile: In (50, 100], for "percentile".
        weight_percentile: In (50, 100], for "percentile".

    Raises:
        ValueError: a field is out of its range, or has no effect because what it changes is in float.

    Example:
        >>> Setting.parse("w4a8-mse-out") == Setting(4, 8, activation_range="mse", quantize_output=True)
        True
        >>> str(Setting(4, None, weight_symmetry="full", keep_float=("first_last",)))
        'w4afp-full-keep=first_last'
    """

    weight_bits: int | None
    activation_bits: int | None
    activation_range: ActivationRange = "minmax"
    activation_symmetry: ActivationSymmetry = "affine"
    weight_range: WeightRange = "minmax"
    weight_symmetry: Symmetry = "restricted"
    weight_granularity: Granularity = "per_channel"
    equalization: bool = False
    rounding: Rounding = "nearest"
    bias_correction: bool = False
    quantize_output: bool = False
    keep_float: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    activation_percentile: float = ACTIVATION_PERCENTILE
    weight_percentile: float = WEIGHT_PERCENTILE

    def __post_init__(self) -> None:
        check_bits("weight_bits", self.weight_bits)
        check_bits("activation_bits", self.activation_bits)
        _check_choice("activation_range", self.activation_range, get_args(ActivationRange))
        _check_choice("activation_symmetry", self.activation_symmetry, get_args(ActivationSymmetry))
        _check_choice("weight_range", self.weight_range, get_args(WeightRange))
        _check_choice("weight_symmetry", self.weight_symmetry, get_args(Symmetry))
        _check_choice("weight_granularity", self.weight_granularity, get_args(Granularity))
        _check_choice("rounding", self.rounding, get_args(Rounding))
        for flag in ("equalization", "bias_correction", "quantize_output"):
            _check_choice(flag, getattr(self, flag), (False, True))
        _check_percentile("activation_percentile", self.activation_percentile)
        _check_percentile("weight_percentile", self.weight_percentile)
        _check_names(self.keep_float, self.overrides)
        self._check_effects()

    def _check_effects(self) -> None:
        # Two settings that measure the same thing under two names would be two rows of one table.
        for field, (owner, default) in _EFFECTS.items():
            if getattr(self, field) == default:
                continue
            if not self._quantizes(owner):
                raise ValueError(
                    f"`{field}` {getattr(self, field)!r} has no effect when `{owner}` is None (float). "
                    f"Leave it out, or give `{owner}`."
                )
        if self.is_float and (self.equalization or self.keep_float):
            raise ValueError(
                "`equalization` and `keep_float` have no effect when nothing is quantized. Leave them out, or give "
                "`weight_bits` or `activation_bits`."
            )
        for kind in ("activation", "weight"):
            percentile, default = f"{kind}_percentile", _EFFECTS[f"{kind}_percentile"][1]
            if getattr(self, percentile) != default and getattr(self, f"{kind}_range") != "percentile":
                raise ValueError(
                    f"`{percentile}` has no effect unless `{kind}_range` is 'percentile', got "
                    f"{getattr(self, f'{kind}_range')!r}. Leave it out."
                )

    def _quantizes(self, bits: str) -> bool:
        """Whether anything has other than float `weight_bits` or `activation_bits`."""
        return getattr(self, bits) is not None or any(
            getattr(override, bits) not in (None, "keep") for override in self.overrides
        )

    @classmethod
    def parse(cls, text: "str | Setting") -> "Setting":
        """The setting that a short form names; a `Setting` is returned as it is.

        Args:
            text: `w<2..8|fp>a<2..8|fp>`, then words after hyphens in any order; capitals are allowed (names of layers
                are taken as they are written). "float" is `wfpafp`.

        Raises:
            ValueError: the text is not of this form, or the setting it names is not allowed; the message quotes it.
            TypeError: `text` is neither a string nor a `Setting`.

        Example:
            >>> Setting.parse("W4A8-full-mse") == Setting(4, 8, "mse", weight_symmetry="full")
            True
        """
        from qcal.quantization.setting_words import read_setting  # reads and prints settings, so it imports this module

        return read_setting(text)

    def __str__(self) -> str:
        """The short form; `Setting.parse(str(setting)) == setting`."""
        from qcal.quantization.setting_words import print_setting  # as above

        return print_setting(self)

    @property
    def is_float(self) -> bool:
        """Whether nothing at all is quantized."""
        return not self._quantizes("weight_bits") and not self.quantizes_activations

    @property
    def quantizes_activations(self) -> bool:
        """Whether any activation is quantized, so that ranges must have been observed."""
        return self._quantizes("activation_bits")

    @property
    def has_weight_method(self) -> bool:
        """Whether weights are made by more than rounding to nearest."""
        return self.equalization or self.rounding != "nearest" or self.bias_correction

    @property
    def needs_images(self) -> bool:
        """Whether its ranges or weights are made from images, so that some must have been observed."""
        return self.quantizes_activations or self.rounding == "adaround" or self.bias_correction

    @property
    def needs_equalized_ranges(self) -> bool:
        """Whether ranges of the equalized network must have been observed."""
        return self.equalization and self.quantizes_activations


# Field -> (the bits without which it has no effect, its default).
_EFFECTS: dict[str, tuple[str, str | bool | float]] = {
    "activation_range": ("activation_bits", "minmax"),
    "activation_symmetry": ("activation_bits", "affine"),
    "activation_percentile": ("activation_bits", ACTIVATION_PERCENTILE),
    "quantize_output": ("activation_bits", False),
    "weight_range": ("weight_bits", "minmax"),
    "weight_symmetry": ("weight_bits", "restricted"),
    "weight_granularity": ("weight_bits", "per_channel"),
    "weight_percentile": ("weight_bits", WEIGHT_PERCENTILE),
    "rounding": ("weight_bits", "nearest"),
    "bias_correction": ("weight_bits", False),
}


def check_bits(name: str, bits: object) -> None:
    """Raise ValueError unless `bits` is an integer in [2, 8] or None."""
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8):
        raise ValueError(f"`{name}` must be an integer in [2, 8] or None (float), got {bits!r}.")


def _check_choice(name: str, value: str | bool, choices: tuple[str | bool, ...]) -> None:
    if (type(value), value) not in [(type(choice), choice) for choice in choices]:  # type: 1 is not True
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def _check_percentile(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 50 < value <= 100:
        raise ValueError(f"`{name}` must be a number in (50, 100], got {value!r}.")


def _check_names(keep_float: tuple[str, ...], overrides: tuple[Override, ...]) -> None:
    if not isinstance(keep_float, tuple) or not isinstance(overrides, tuple):
        raise ValueError(
            f"`keep_float` and `overrides` must be tuples, got {keep_float!r} and {overrides!r}. "
            "Write ('first_last',) for one name."
        )
    for pattern in keep_float:
        _check_pattern("keep_float", pattern)
    for override in overrides:
        if not isinstance(override, Override):
            raise ValueError(f"`overrides` must hold Override objects, got {override!r}. Use Override('fc', 8).")


def _check_pattern(name: str, pattern: str) -> None:
    if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
        raise ValueError(
            f"`{name}` must hold names or patterns of layers, of letters, digits, `_`, `.`, `/`, `*` and `?`, got "
            f"{pattern!r}. Write `?` for any other character of a name."
        )
