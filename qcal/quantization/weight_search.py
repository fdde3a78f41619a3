"""The scale at which rounding a row of weights makes the least squared error.

Short rows are solved exactly. A scale s gives each weight w a level q(w / s), and while no weight changes its level the
error is a parabola in s:

    sum (w - s q)^2 = sum w^2 - 2 s A + s^2 B,    A = sum w q,    B = sum q^2,    least at s = A / B: sum w^2 - A^2 / B

Weights change levels where |w| / s is an integer and a half, so the sorted list of all `|w| / (k + 1/2)` meets every
assignment of levels there is, running sums give A and B of each, and the largest A^2 / B wins. As the levels of fewer
bits are among those of more, more bits never make a larger error.

For long rows that list would not fit memory. There the error changes smoothly with the scale, and scales are tried from
coarse to fine, as for activations (see `qcal.quantization.ranges`).
"""

import torch
from torch import Tensor

from qcal.functional.affine import Symmetry, fake_quantize, signed_bounds

# Rows with at most this many changes of level (weights times levels) are solved exactly: 2,048 weights at 4 bits, 128
# at 8. Beyond, sorting takes seconds a layer, and trying scales makes little more error: at most 0.1 % more at 6 bits
# and fewer, and 10 % at 8, where the error is least (tested).
MAX_CHANGES = 1 << 14
# Changes of level that are sorted at once: 8 MiB in float64, a few times over.
_CHANGES_AT_ONCE = 1 << 20
# Factors on the scale: down to 2^-8 in steps of 8 %, then around the best one, a step to either side; then again.
_COARSE = (2.0 ** (-torch.arange(65) / 8)).tolist()
_FINE = tuple((2.0 ** (torch.linspace(-1, 1, 17) * step)).tolist() for step in (1 / 8, 1 / 64))


def least_error_scale(rows: Tensor, minmax: Tensor, bits: int, symmetry: Symmetry = "restricted") -> Tensor:
    """The scale of each row of weights with the least squared error at the levels of a grid.

    Args:
        rows: Weights (R, n), finite.
        minmax: Scale (R,) at which nothing is clipped: what the result is never worse than.
        bits: Width of the integers, 2 to 8.
        symmetry: The symmetric convention of the levels.

    Returns:
        float32 (R,), positive. `minmax` where no other scale is better, so where all weights are zero.

    Example:
        >>> least_error_scale(torch.tensor([[1.0, 0.6, -0.6, 0.6]]), torch.tensor([1.0]), bits=2)
        tensor([0.7000])
    """
    quant_min, quant_max = signed_bounds(bits, symmetry)
    # In units of the largest weight, so that the squares of huge and of tiny ones are numbers too.
    unit = rows.abs().amax(1).double()
    unit = torch.where(unit > 0, unit, torch.ones_like(unit))
    if rows.shape[1] * -quant_min <= MAX_CHANGES:
        at_once = max(1, _CHANGES_AT_ONCE // (rows.shape[1] * -quant_min))
        scaled = torch.split(rows.double() / unit[:, None], at_once)
        found = torch.cat([_exact(part, quant_min, quant_max) for part in scaled]) * unit
    else:
        found = _coarse_to_fine(rows, minmax, quant_min, quant_max)
    found = found.float().clamp(min=torch.finfo(torch.float32).tiny)
    # Not better than `minmax` are also scales that float32 rounds to worse ones, and NaN from one that it cannot hold.
    better = squared_error(rows, found, quant_min, quant_max) < squared_error(rows, minmax, quant_min, quant_max)
    return torch.where(better, found, minmax)


def squared_error(rows: Tensor, scale: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Squared error (R,) float64, in units of the largest weight of each row, of rounding at a scale (R,)."""
    unit = rows.abs().amax(1, keepdim=True).double().clamp(min=torch.finfo(torch.float64).tiny)
    rounded = fake_quantize(rows, scale, 0, quant_min, quant_max, channel_axis=0)
    return ((rounded.double() - rows.double()) / unit).square().sum(1)


def _exact(rows: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """The best scale (R,) of all there are; 0 for rows of zeros. See the head of this file."""
    sizes = rows.abs()
    levels = torch.arange(-quant_min, dtype=rows.dtype, device=rows.device)
    changes = sizes[:, :, None] / (levels + 0.5)
    # With full symmetry there is one level more below zero than above.
    changes[:, :, quant_max:] *= (rows < 0)[:, :, None]
    order = changes.flatten(1).argsort(dim=1, descending=True, stable=True)
    happens = changes.flatten(1).gather(1, order) > 0
    by_change = happens * sizes.gather(1, order // len(levels))
    a = by_change.cumsum(1)
    b = (happens * (2 * levels + 1)[order % len(levels)]).cumsum(1)
    best = (a.square() / b.clamp(min=1)).argmax(1, keepdim=True)
    return (a.gather(1, best) / b.gather(1, best).clamp(min=1)).squeeze(1)


def _coarse_to_fine(rows: Tensor, minmax: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """The best scale (R,) of a series of ever finer ones, the first of which is `minmax`."""
    best = minmax
    least = squared_error(rows, best, quant_min, quant_max)
    for factors in (_COARSE, *_FINE):
        start = best
        for factor in factors:
            scale = (start * factor).clamp(min=torch.finfo(torch.float32).tiny)
            error = squared_error(rows, scale, quant_min, quant_max)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
    return best.double()
