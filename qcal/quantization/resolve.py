"""A setting on a network: what its bits, patterns and presets mean for each layer and each stored tensor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from qcal.quantization.placement import Layer, Placement, StoredTensor
from qcal.quantization.setting import PRESETS, Override, Setting
from qcal.quantization.specs import ActivationSpec, WeightSpec


@dataclass(frozen=True)
class Specs:
    """A setting resolved on a network.

    Attributes:
        weights: One entry a layer, in the order of the placement; None where the weights stay in float.
        activations: One entry a quantizer, likewise.
    """

    weights: tuple[WeightSpec | None, ...]
    activations: tuple[ActivationSpec | None, ...]


def resolve(setting: Setting, placement: Placement) -> Specs:
    """Decide for every layer and quantizer of a network what a setting does to it.

    Raises:
        ValueError: a pattern of `keep_float` or `overrides` matches no layer and no stored tensor of the network.
    """
    layers = [layer.name for layer in placement.layers]
    tensors = [quantizer.name for quantizer in placement.quantizers]
    _check_matches([*setting.keep_float, *(override.pattern for override in setting.overrides)], [*layers, *tensors])
    kept = _kept_layers(setting.keep_float, placement.layers)
    return Specs(
        weights=tuple(None if name in kept else _weight_spec(setting, name) for name in layers),
        activations=tuple(
            None if _is_off(tensor, setting, kept) else _activation_spec(setting, tensor.quantizer.name)
            for tensor in placement.stored
        ),
    )


def _weight_spec(setting: Setting, layer: str) -> WeightSpec | None:
    bits = setting.weight_bits
    for override in _matching(setting.overrides, layer):
        bits = bits if override.weight_bits == "keep" else override.weight_bits
    if bits is None:
        return None
    return WeightSpec(
        bits, setting.weight_range, setting.weight_symmetry, setting.weight_granularity, setting.weight_percentile
    )


def _activation_spec(setting: Setting, tensor: str) -> ActivationSpec | None:
    bits = setting.activation_bits
    for override in _matching(setting.overrides, tensor):
        bits = bits if override.activation_bits == "keep" else override.activation_bits
    if bits is None:
        return None
    return ActivationSpec(bits, setting.activation_range, setting.activation_symmetry, setting.activation_percentile)


def _is_off(tensor: StoredTensor, setting: Setting, kept: set[str]) -> bool:
    """Whether a stored tensor stays in float whatever the bits.

    A backend stores a tensor as integers for those that read it as integers: where only layers in float read it, it
    is stored in float. Which layer made it does not matter.
    """
    if tensor.quantizer.is_output and not setting.quantize_output:
        return True
    name = tensor.quantizer.name
    if tensor.producer is None and any(fnmatchcase(name, pattern) for pattern in setting.keep_float):
        return True
    return bool(tensor.readers) and not tensor.read_elsewhere and kept.issuperset(tensor.readers)


def _kept_layers(keep_float: Iterable[str], layers: Sequence[Layer]) -> set[str]:
    kept: set[str] = set()
    for pattern in keep_float:
        if pattern in PRESETS:
            ends = {"first": [0], "last": [-1], "first_last": [0, -1]}[pattern]
            kept |= {layers[end].name for end in ends}
        else:
            kept |= {layer.name for layer in layers if fnmatchcase(layer.name, pattern)}
    return kept


def _matching(overrides: Iterable[Override], name: str) -> list[Override]:
    return [override for override in overrides if fnmatchcase(name, override.pattern)]


def _check_matches(patterns: Iterable[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if pattern not in PRESETS and not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"Every pattern of a setting must match a layer or stored tensor of the network, got {pattern!r}. "
                f"There are: {', '.join(dict.fromkeys(names))}."
            )
