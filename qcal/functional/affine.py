"""Affine quantization: the one home of the formula that maps real numbers to a few integers and back.

    x_q = clamp(round(x / scale) + zero_point, quant_min, quant_max)
    x'  = (x_q - zero_point) * scale

`round` goes half to even. `x / scale` is taken as `x * (1 / scale)`, reciprocal and product each rounded to the dtype
of `x`: torch's own kernels do that too, and the results are theirs bit for bit, ties included. Whether a value is a tie
is for that product to say. Unless `scale` is a power of two, one within a rounding error of half-way may fall to either
side: in float32 1.65 / 0.3 is 5.4999995, but the product is 5.5, which goes to 6.

Activations are unsigned and affine, weights signed and symmetric (`zero_point` 0). The symmetric convention for `b`
bits is a choice, because peers differ:

- `restricted`: quant_min, quant_max = -(2^(b-1) - 1), 2^(b-1) - 1 and scale = max|w| / (2^(b-1) - 1). The largest
  weight is a level; -2^(b-1) is unused.
- `full`: quant_min, quant_max = -2^(b-1), 2^(b-1) - 1 and scale = max|w| / ((2^b - 1) / 2). Every level is used, but
  the largest positive weight saturates half a step below itself (torch's observers; Xia et al. 2021).
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Symmetry = Literal["restricted", "full"]


# The smallest normal float32: its reciprocal is finite, so no range is so narrow that `x / scale` becomes inf * 0.
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    quant_min: int,
    quant_max: int,
    *,
    channel_axis: int | None = None,
) -> Tensor:
    """Integers `clamp(round(x / scale) + zero_point, quant_min, quant_max)`.

    Args:
        x: Real values, any shape, any floating dtype.
        scale: Width of one step, positive; a number, or with `channel_axis` a tensor (C,).
        zero_point: The integer that stands for 0; a number, or with `channel_axis` a tensor (C,).
        quant_min: Lowest integer of the type.
        quant_max: Highest integer of the type.
        channel_axis: The axis of `x` that `scale` and `zero_point` run along; None (default): one scale for all.

    Returns:
        int32, the shape of `x`, in [quant_min, quant_max]. NaN has no integer: refuse it before.

    Example:
        >>> quantize(torch.tensor([-0.3, 0.0, 0.25, 0.75, 9.0]), scale=0.5, zero_point=1, quant_min=0, quant_max=7)
        tensor([0, 1, 1, 3, 7], dtype=torch.int32)
    """
    steps = x.mul(_reciprocal(_along(scale, x, channel_axis))).round_()
    return steps.add_(_along(zero_point, x, channel_axis)).clamp_(quant_min, quant_max).to(torch.int32)


def dequantize(
    x_q: Tensor, scale: Tensor | float, zero_point: Tensor | int, *, channel_axis: int | None = None
) -> Tensor:
    """Real values `(x_q - zero_point) * scale` that the integers stand for.

    Args:
        x_q: Integers, any shape.
        scale: Width of one step; a number, or with `channel_axis` a tensor (C,).
        zero_point: The integer that stands for 0; a number, or with `channel_axis` a tensor (C,).
        channel_axis: The axis of `x_q` that `scale` and `zero_point` run along; None (default): one scale for all.

    Returns:
        float32, the shape of `x_q`.

    Example:
        >>> dequantize(torch.tensor([0, 1, 7]), scale=0.5, zero_point=1)
        tensor([-0.5000,  0.0000,  3.0000])
    """
    steps = x_q - _along(zero_point, x_q, channel_axis)
    return steps.to(torch.float32).mul_(_along(scale, x_q, channel_axis))


def fake_quantize(
    x: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | int,
    quant_min: int,
    quant_max: int,
    *,
    channel_axis: int | None = None,
    inplace: bool = False,
) -> Tensor:
    """The real values that survive a trip through the integers: `dequantize(quantize(x))`, without making the integers.

        x' = clamp(round(x / scale), quant_min - zero_point, quant_max - zero_point) * scale

    The zero point has moved into the bounds, so four plain element-wise kernels do it. On a CPU they take a quarter of
    the time of `torch.fake_quantize_per_tensor_affine`, which builds a mask for the backward pass even where there is
    none, and give the same bits.

    Args:
        x: Real values, any shape. float32 or float64; half types are rounded in their own precision.
        scale: Width of one step, positive; a number, or with `channel_axis` a tensor (C,).
        zero_point: The integer that stands for 0; a number, or with `channel_axis` a tensor (C,).
        quant_min: Lowest integer of the type.
        quant_max: Highest integer of the type.
        channel_axis: The axis of `x` that `scale` and `zero_point` run along; None (default): one scale for all.
        inplace: Write the result into `x`. False (default) leaves `x` alone.

    Returns:
        The shape and dtype of `x`. NaN stays NaN.

    Example:
        >>> fake_quantize(torch.tensor([-0.3, 0.0, 0.3, 9.0]), scale=0.5, zero_point=1, quant_min=0, quant_max=7)
        tensor([-0.5000,  0.0000,  0.5000,  3.0000])
    """
    step, offset = _along(scale, x, channel_axis), _along(zero_point, x, channel_axis)
    steps = x.mul_(_reciprocal(step)) if inplace else x.mul(_reciprocal(step))
    return _clamp_(steps.round_(), quant_min - offset, quant_max - offset).mul_(step)


def unsigned_bounds(bits: int) -> tuple[int, int]:
    """Lowest and highest unsigned integer of `bits` bits: `0, 2^bits - 1`.

    Raises:
        ValueError: `bits` is not an integer in [2, 8].

    Example:
        >>> unsigned_bounds(4)
        (0, 15)
    """
    _check_bits(bits)
    return 0, 2**bits - 1


def signed_bounds(bits: int, symmetry: Symmetry = "restricted") -> tuple[int, int]:
    """Lowest and highest signed integer of `bits` bits under a symmetric convention (see the head of this file).

    Raises:
        ValueError: `bits` is not an integer in [2, 8], or `symmetry` is neither "restricted" nor "full".

    Example:
        >>> signed_bounds(4), signed_bounds(4, "full")
        ((-7, 7), (-8, 7))
    """
    _check_bits(bits)
    _check_symmetry(symmetry)
    largest: int = 2 ** (bits - 1) - 1
    return (-largest - 1, largest) if symmetry == "full" else (-largest, largest)


def affine_scale_zero_point(minimum: Tensor | float, maximum: Tensor | float, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the unsigned affine grid that covers `[minimum, maximum]` and 0.

    With `lo = min(minimum, 0)` and `hi = max(maximum, 0)`:

        scale = (hi - lo) / (2^bits - 1)        zero_point = round(-lo / scale)

    Because the zero point is rounded, 0 is exactly a level (padding and ReLU cost nothing), and the two ends of the
    range move by at most half a step.

    Args:
        minimum: Lowest value to cover, a number or a tensor of any shape.
        maximum: Highest value to cover, same shape.
        bits: Width of the integers, 2 to 8.

    Returns:
        `scale` float32, positive, and `zero_point` int32 in [0, 2^bits - 1], both in the shape of the range. A range
        without width (all values zero) gets scale 1 and zero point 0.

    Raises:
        ValueError: a bound is NaN or infinite, a minimum exceeds its maximum, or `bits` is not an integer in [2, 8].

    Example:
        >>> affine_scale_zero_point(-1.0, 2.0, bits=2)
        (tensor(1.), tensor(1, dtype=torch.int32))
    """
    _, quant_max = unsigned_bounds(bits)
    lo, hi = _as_float64(minimum, "minimum"), _as_float64(maximum, "maximum")
    if bool((lo > hi).any()):
        raise ValueError(f"`minimum` must not exceed `maximum`, got {minimum} and {maximum}. Were the two swapped?")
    lo, hi = lo.clamp(max=0.0), hi.clamp(min=0.0)
    scale = _usable_scale((hi - lo) / quant_max)
    zero_point = torch.round(-lo / scale.double()).clamp(0, quant_max).to(torch.int32)
    return scale, zero_point


def symmetric_scale(max_abs: Tensor | float, bits: int, symmetry: Symmetry = "restricted") -> Tensor:
    """Scale of the signed symmetric grid (zero point 0) for values up to `max_abs` in absolute value.

        restricted: scale = max_abs / (2^(bits-1) - 1)        full: scale = max_abs / ((2^bits - 1) / 2)

    Args:
        max_abs: Largest absolute value, not negative; a number or a tensor of any shape (one entry a channel).
        bits: Width of the integers, 2 to 8.
        symmetry: The convention; see the head of this file. "restricted" (default) loses nothing at the largest weight.

    Returns:
        float32, positive, the shape of `max_abs`. All-zero channels get scale 1.

    Raises:
        ValueError: `max_abs` is negative, NaN or infinite, `bits` is not an integer in [2, 8], or `symmetry` is not
            one of the conventions.

    Example:
        >>> symmetric_scale(torch.tensor([7.0, 0.0]), bits=4), symmetric_scale(7.5, bits=4, symmetry="full")
        (tensor([1., 1.]), tensor(1.))
    """
    quant_min, quant_max = signed_bounds(bits, symmetry)
    largest = _as_float64(max_abs, "max_abs")
    if bool((largest < 0).any()):
        raise ValueError(f"`max_abs` must not be negative, got {max_abs}. Pass the largest absolute value.")
    return _usable_scale(largest / ((quant_max - quant_min) / 2))


def _usable_scale(scale: Tensor) -> Tensor:
    """Float32 scales that can be divided by: 1 where the range has no width, never below the smallest normal number."""
    return torch.where(scale > 0, scale.clamp(min=_SMALLEST_SCALE), torch.ones_like(scale)).to(torch.float32)


def _reciprocal(scale: Tensor | float) -> Tensor | float:
    return scale.reciprocal() if isinstance(scale, Tensor) else 1.0 / scale


def _clamp_(x: Tensor, lowest: Tensor | float, highest: Tensor | float) -> Tensor:
    if isinstance(lowest, Tensor) and isinstance(highest, Tensor):
        return x.clamp_(lowest, highest)
    return x.clamp_(float(lowest), float(highest))


def _along(value: Tensor | float, x: Tensor, channel_axis: int | None) -> Tensor | float:
    """`value` in a shape that broadcasts over `x` along `channel_axis`."""
    if channel_axis is None or not isinstance(value, Tensor):
        return value
    shape = [1] * x.dim()
    shape[channel_axis] = -1
    return value.reshape(shape)


def _as_float64(bound: Tensor | float, name: str) -> Tensor:
    """A bound in float64, where `hi - lo` of two float32 numbers cannot overflow."""
    value = torch.as_tensor(bound, dtype=torch.float64)
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"`{name}` must be finite, got {bound}. Look for NaN and infinity where it was taken from.")
    return value


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"`bits` must be an integer in [2, 8], got {bits!r}.")


def _check_symmetry(symmetry: str) -> None:
    if symmetry not in get_args(Symmetry):
        raise ValueError(f'`symmetry` must be "restricted" or "full", got {symmetry!r}.')
