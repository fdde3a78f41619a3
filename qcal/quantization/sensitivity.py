"""Which layers break a network: each layer's weights and each stored tensor quantized alone, and its effect."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from qcal.quantization.engines import Simulator
from qcal.quantization.resolve import Specs, resolve
from qcal.quantization.setting import Setting


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one thing alone did to the logits of a network.

    Attributes:
        name: The layer, or the stored tensor.
        part: Whether its "weights" or its "activations" were quantized.
        bits: At how many bits.
        sqnr_db: Signal to noise of the logits, `10 log10(sum z^2 / sum e^2)` for float logits z and their change e, in
            decibels; inf when nothing changed. Logits are centred in each row first, as softmax sees no common offset.
        swap_rate: Share of predictions that changed, in [0, 1].
    """

    name: str
    part: Literal["weights", "activations"]
    bits: int
    sqnr_db: float
    swap_rate: float


def measure_sensitivity(simulator: Simulator, setting: Setting, batches: Sequence[Tensor]) -> tuple[Sensitivity, ...]:
    """Quantize one thing at a time as a setting says, everything else in float.

    One pass over the images for each layer and each stored tensor that the setting quantizes, and one in float. Weights
    are rounded to nearest: rounding that looks at images, and bias correction, speak of all layers at once.

    Args:
        simulator: The network; its activation ranges observed if the setting quantizes activations.
        setting: Bits, ranges, granularity, `keep_float` and overrides count; weight methods do not.
        batches: Images (N, ...) as the network reads them.

    Returns:
        The most harmful first: lowest `sqnr_db`, then highest `swap_rate`, then the order of the network.

    Raises:
        ValueError: the setting quantizes nothing, or names weight methods.
    """
    if setting.rounding != "nearest" or setting.bias_correction:
        raise ValueError(
            f"`setting` must round to nearest without bias correction, got `{setting}`. Those methods work on all "
            "layers together; leave out `ada` and `bc`."
        )
    specs = resolve(setting, simulator.placement)
    alone = _one_at_a_time(simulator, specs)
    if not alone:
        raise ValueError(f"`setting` must quantize something, got `{setting}`. Choose for example 'w4a4'.")
    nothing = _only(specs)
    reference = _logits(simulator, nothing, batches)
    rows = [(*_compare(reference, _logits(simulator, one, batches)), label) for label, one in alone]
    rows.sort(key=lambda row: (row[0], -row[1]))  # stable: ties stay in the order of the network
    return tuple(Sensitivity(*label, sqnr_db, swap_rate) for sqnr_db, swap_rate, label in rows)


def describe_sensitivity(rows: Sequence[Sensitivity]) -> str:
    """The ranking as a table for people.

    Example:
        >>> print(describe_sensitivity([Sensitivity("conv1", "weights", 4, 12.34, 0.05)]))
        name   quantized  bits  SQNR dB  swapped %
        conv1  weights    4        12.3       5.00
    """
    width = max([len("name"), *(len(row.name) for row in rows)])
    lines = [f"{'name':<{width}}  quantized    bits  SQNR dB  swapped %"]
    lines += [
        f"{row.name:<{width}}  {row.part:<11}  {row.bits:<4}  {row.sqnr_db:7.1f}  {100 * row.swap_rate:9.2f}"
        for row in rows
    ]
    return "\n".join(lines)


_Label = tuple[str, Literal["weights", "activations"], int]


def _one_at_a_time(simulator: Simulator, specs: Specs) -> list[tuple[_Label, Specs]]:
    alone: list[tuple[_Label, Specs]] = []
    for index, (layer, weight) in enumerate(zip(simulator.placement.layers, specs.weights, strict=True)):
        if weight is not None:
            alone.append(((layer.name, "weights", weight.bits), _only(specs, weight=index)))
    for index, (quantizer, spec) in enumerate(zip(simulator.placement.quantizers, specs.activations, strict=True)):
        if spec is not None:
            alone.append(((quantizer.name, "activations", spec.bits), _only(specs, activation=index)))
    return alone


def _only(specs: Specs, *, weight: int | None = None, activation: int | None = None) -> Specs:
    return replace(
        specs,
        weights=tuple(spec if index == weight else None for index, spec in enumerate(specs.weights)),
        activations=tuple(spec if index == activation else None for index, spec in enumerate(specs.activations)),
    )


def _logits(simulator: Simulator, specs: Specs, batches: Sequence[Tensor]) -> Tensor:
    with simulator.applied(specs) as logits:
        return torch.cat([logits(x).cpu() for x in batches])


def _compare(reference: Tensor, logits: Tensor) -> tuple[float, float]:
    """SQNR in dB and swap rate."""
    swap_rate = (reference.argmax(1) != logits.argmax(1)).double().mean().item()
    signal, noise = (x.double() - x.double().mean(1, keepdim=True) for x in (reference, logits - reference))
    ratio = signal.square().sum() / noise.square().sum()
    return float(10 * torch.log10(ratio)), swap_rate
