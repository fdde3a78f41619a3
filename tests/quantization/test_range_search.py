"""The search finds the least cost of a landscape it can see, and never makes things worse."""

import pytest
import torch
from torch import Tensor

from qcal.functional.affine import affine_scale_zero_point, dequantize, symmetric_scale
from qcal.quantization.range_search import COARSE, FINE, Levels, extremes_of, range_of, search
from tests.quantization.distributions import seen


@pytest.mark.parametrize("best", [(-1.0, 1.0), (-0.6, 0.07), (-0.002, 0.9), (-0.3, 0.3)])
def test_the_lowest_point_of_a_bowl_is_found(best: tuple[float, float]) -> None:
    def cost(lo: Tensor, hi: Tensor) -> Tensor:
        return (lo / best[0]).log2().abs() + (hi / best[1]).log2().abs()

    lo, hi = search(cost, range_of(cost, -1.0, 1.0), (COARSE, *FINE)).ends
    # Steps of the last grid are 2^(1 / 512).
    assert (lo / best[0], hi / best[1]) == pytest.approx((1, 1), abs=0.002)


def test_an_end_at_zero_stays_there() -> None:
    def cost(lo: Tensor, hi: Tensor) -> Tensor:
        return (hi - 0.5).abs() + lo.abs()

    lo, hi = search(cost, range_of(cost, 0.0, 8.0), (COARSE, *FINE)).ends
    assert lo == 0
    assert hi == pytest.approx(0.5, rel=0.002)


def test_of_equally_good_ranges_the_first_is_kept() -> None:
    start = range_of(lambda lo, hi: torch.zeros(len(hi), dtype=torch.float64), -1.0, 2.0)
    assert search(lambda lo, hi: torch.zeros(len(hi), dtype=torch.float64), start, (COARSE,)) is start


def test_the_extremes_hold_zero() -> None:
    assert extremes_of(seen(torch.tensor([1.0, 2.0]))) == (0.0, 2.0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_are_those_of_the_formula(bits: int) -> None:
    lo, hi = torch.tensor([-0.3, 0.0, -5.0]), torch.tensor([1.7, 2.0, 0.0])
    integers, step = Levels(bits).over(lo, hi)
    scale, zero_point = affine_scale_zero_point(lo, hi, bits)
    assert Levels(bits).quant_max == 2**bits - 1
    for row in range(3):
        expected = dequantize(torch.arange(2**bits), scale[row], zero_point[row])
        torch.testing.assert_close((integers * step)[row].float(), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_of_a_signed_grid_are_its_positive_half(bits: int) -> None:
    integers, step = Levels(bits, signed=True).over(torch.zeros(1), torch.tensor([3.0]))
    expected = torch.arange(2 ** (bits - 1)) * symmetric_scale(3.0, bits)
    torch.testing.assert_close((integers * step)[0].float(), expected)
