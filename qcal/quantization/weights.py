"""Quantized weights: signed, symmetric, one scale for each output channel or one for the whole tensor.

What the grid covers is a choice (`WeightSpec.range`):

- "minmax": the largest absolute value, so nothing is clipped (with symmetry "restricted");
- "percentile": a quantile of the absolute values; a few large weights are clipped, all others get finer steps;
- "mse": the scale at which rounding makes the least squared error; see `qcal.quantization.weight_search`.
"""

import math

import torch
from torch import Tensor

from qcal.functional.affine import fake_quantize, signed_bounds, symmetric_scale
from qcal.quantization.specs import WeightSpec
from qcal.quantization.weight_search import least_error_scale


def quantize_weight(weight: Tensor, spec: WeightSpec, *, channel_axis: int = 0, scale: Tensor | None = None) -> Tensor:
    """The weight as a layer with integer weights would see it: rounded to the levels of its grid.

    Args:
        weight: float32, any shape, finite.
        spec: How to quantize it.
        channel_axis: Axis of the output channels: 0 (default), or 1 for transposed convolutions.
        scale: `weight_scale` of the same arguments, where it is known already; computed when not given.

    Returns:
        The shape, dtype and memory layout of `weight`; all-zero channels stay zero.

    Raises:
        ValueError: as `weight_scale`.

    Example:
        >>> quantize_weight(torch.tensor([[0.9, -1.0], [0.2, 0.07]]), WeightSpec(bits=2))
        tensor([[ 1.0000, -1.0000],
                [ 0.2000,  0.0000]])
    """
    if scale is None:
        scale = weight_scale(weight, spec, channel_axis=channel_axis)
    axis = channel_axis if spec.granularity == "per_channel" else None
    return fake_quantize(weight, scale, 0, *signed_bounds(spec.bits, spec.symmetry), channel_axis=axis)


def weight_scale(weight: Tensor, spec: WeightSpec, *, channel_axis: int = 0) -> Tensor:
    """The width of one step of the grid that `spec` gives these weights.

    With symmetry "full" and range "minmax" it is that of torch's `PerChannelMinMaxObserver` and `MinMaxObserver`
    (qint8, symmetric) bit for bit, except that theirs is never below 1.2e-7 and ours is 1 where all weights are zero.

    Args:
        weight: float32, any shape, finite.
        spec: How to quantize it.
        channel_axis: As in `quantize_weight`.

    Returns:
        float32, positive: (C,) per channel, () per tensor. Where all weights are zero: 1. Where so many are that their
        percentile is zero, the largest one is covered instead: a grid of zeros would lose the others altogether.

    Raises:
        ValueError: NaN or infinity among the weights.

    Example:
        >>> weight = torch.tensor([[0.9, -1.4], [0.2, 0.07]])
        >>> weight_scale(weight, WeightSpec(4)), weight_scale(weight, WeightSpec(4, granularity="per_tensor"))
        (tensor([0.2000, 0.0286]), tensor(0.2000))
    """
    if not bool(torch.isfinite(weight).all()):
        raise ValueError(
            "Weights must be finite to be quantized, got NaN or infinity. Was the network trained to the end?"
        )
    rows = _rows(weight, spec, channel_axis)
    scale = symmetric_scale(_covered(rows, spec), spec.bits, spec.symmetry)
    if spec.range == "mse":
        scale = least_error_scale(rows, scale, spec.bits, spec.symmetry)
    return scale if spec.granularity == "per_channel" else scale.squeeze(0)


def _rows(weight: Tensor, spec: WeightSpec, channel_axis: int) -> Tensor:
    """The weights (R, n) with a row for each scale; their order within a row is free."""
    if spec.granularity == "per_tensor":
        return weight.reshape(1, -1)
    return weight.movedim(channel_axis, 0).flatten(1)


def _covered(rows: Tensor, spec: WeightSpec) -> Tensor:
    """The absolute value (R,) up to which the grid of each row reaches."""
    largest = rows.abs().amax(1)
    if spec.range != "percentile":
        return largest
    quantile = _quantile(rows.abs(), spec.percentile / 100)
    return torch.where(quantile > 0, quantile, largest)


def _quantile(rows: Tensor, fraction: float) -> Tensor:
    """What `torch.quantile(rows, fraction, dim=1)` computes, for rows of any length: torch's stops at 16 million."""
    position = fraction * (rows.shape[1] - 1)
    below = math.floor(position)
    lower = rows.kthvalue(below + 1, dim=1).values
    upper = rows.kthvalue(min(below + 2, rows.shape[1]), dim=1).values
    return lower.lerp(upper, position - below)
