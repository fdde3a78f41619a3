"""What the patterns and presets of a setting mean on a network."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qcal.quantization import Setting, prepare
from qcal.quantization.placement import Placement
from qcal.quantization.resolve import resolve
from qcal.quantization.specs import ActivationSpec, WeightSpec
from tests.quantization.networks import Forward, tiny_images, tiny_resnet


@functools.cache
def _resnet() -> Placement:
    return prepare(tiny_resnet(), tiny_images())._variants.plain.placement


def _weights(text: str, placement: Placement | None = None) -> dict[str, WeightSpec | None]:
    placement = placement or _resnet()
    specs = resolve(Setting.parse(text), placement).weights
    return {layer.name: spec for layer, spec in zip(placement.layers, specs, strict=True)}


def _activations(text: str, placement: Placement | None = None) -> dict[str, ActivationSpec | None]:
    placement = placement or _resnet()
    specs = resolve(Setting.parse(text), placement).activations
    return {quantizer.name: spec for quantizer, spec in zip(placement.quantizers, specs, strict=True)}


def _off(text: str) -> set[str]:
    return {name for name, spec in _activations(text).items() if spec is None}


def test_every_layer_and_tensor_gets_what_the_setting_says() -> None:
    text = "w4a8-pct99.9-sym-wmse-full-pt"
    weight = WeightSpec(4, "mse", "full", "per_tensor")
    activation = ActivationSpec(8, "percentile", "symmetric", 99.9)
    assert set(_weights(text).values()) == {weight}
    assert set(_activations(text + "-out").values()) == {activation}


def test_only_the_logits_are_left_in_float_unless_asked_for() -> None:
    assert _off("w4a8") == {"fc"}
    assert _off("w4a8-out") == set()


def test_float_bits_leave_everything_in_float() -> None:
    assert set(_weights("wfpa8").values()) == {None}
    assert set(_activations("w8afp").values()) == {None}


def test_a_kept_layer_keeps_its_weights_and_what_it_alone_reads() -> None:
    assert [name for name, spec in _weights("w4a8-keep=first").items() if spec is None] == ["conv1"]
    assert _off("w4a8-keep=first") == {"input", "fc"}
    # What conv1 stores is read by two quantized layers, so it is stored as integers.
    assert _activations("w4a8-keep=conv1")["conv1"] == ActivationSpec(8)


def test_a_tensor_that_something_else_reads_too_is_quantized() -> None:
    reader = "layer1.conv2"
    assert [name for name, spec in _weights(f"w4a8-keep={reader}").items() if spec is None] == [reader]
    assert _off(f"w4a8-keep={reader}") == {"layer1.conv1", "fc"}
    # What a block stores is read by the next one, too.
    assert "layer1.add" not in _off("w4a8-keep=layer2.conv1")


def test_an_average_on_the_way_to_a_layer_does_not_count_as_a_reader() -> None:
    assert _off("w4a8-keep=last") == {"layer2.add", "fc"}


def test_presets_name_the_ends_and_patterns_any_layers() -> None:
    kept = {name for name, spec in _weights("w4a8-keep=first_last").items() if spec is None}
    assert kept == {"conv1", "fc"}
    kept = {name for name, spec in _weights("w4a8-keep=layer?.conv*+fc").items() if spec is None}
    assert kept == {"layer1.conv1", "layer1.conv2", "layer2.conv1", "layer2.conv2", "fc"}


def test_a_merge_can_be_kept_by_its_name() -> None:
    assert _off("w4a8-keep=layer1.add") == {"layer1.add", "fc"}


def test_of_several_overrides_the_last_one_counts_and_keeping_beats_them() -> None:
    weights = _weights("w4a8-layer1.*:w6-layer1.conv2:w8")
    assert (weights["layer1.conv1"], weights["layer1.conv2"], weights["fc"]) == (
        WeightSpec(6),
        WeightSpec(8),
        WeightSpec(4),
    )
    assert _weights("w4a8-keep=fc-fc:w8")["fc"] is None


def test_an_override_changes_one_kind_of_bits_only() -> None:
    text = "w4a8-layer1.conv1:a4-fc:wfp"
    assert _activations(text)["layer1.conv1"] == ActivationSpec(4)
    assert _weights(text)["layer1.conv1"] == WeightSpec(4)
    assert _weights(text)["fc"] is None
    assert _weights("wfpafp-fc:w4") == {name: WeightSpec(4) if name == "fc" else None for name in _weights("w4a8")}


def test_a_pattern_without_a_match_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"must match a layer or stored tensor.*got 'layer9\.\*'\. There are: conv1, "):
        _weights("w4a8-keep=layer9.*")
    with pytest.raises(ValueError, match="got 'head'"):
        _weights("w4a8-head:w8")


def test_a_layer_called_twice_is_two_layers_by_name() -> None:
    network = Forward(lambda m, x: m.fc(F.relu(m.fc(x))), fc=nn.Linear(4, 4))
    placement = prepare(network, torch.randn(2, 4))._variants.plain.placement
    assert [name for name, spec in _weights("w4a8-keep=fc_1", placement).items() if spec is None] == ["fc_1"]
