"""Quantized weights: signed, symmetric, one scale for each output channel, range from the largest weight."""

from torch import Tensor

from qcal.functional.affine import Symmetry, fake_quantize, signed_bounds, symmetric_scale


def quantize_weight(weight: Tensor, bits: int, symmetry: Symmetry, *, channel_axis: int = 0) -> Tensor:
    """The weight as a layer with integer weights would see it: rounded to `bits` bits, each output channel on its own.

    Args:
        weight: float32, any shape.
        bits: Width of the integers, 2 to 8.
        symmetry: "restricted" or "full"; see `qcal.functional.affine`.
        channel_axis: Axis of the output channels: 0 (default), or 1 for transposed convolutions.

    Returns:
        The shape, dtype and memory layout of `weight`; all-zero channels stay zero.

    Example:
        >>> import torch
        >>> quantize_weight(torch.tensor([[0.9, -1.0], [0.2, 0.07]]), bits=2, symmetry="restricted")
        tensor([[ 1.0000, -1.0000],
                [ 0.2000,  0.0000]])
    """
    others = [axis for axis in range(weight.dim()) if axis != channel_axis]
    scale = symmetric_scale(weight.abs().amax(others), bits, symmetry)
    quant_min, quant_max = signed_bounds(bits, symmetry)
    return fake_quantize(weight, scale, 0, quant_min, quant_max, channel_axis=channel_axis)
