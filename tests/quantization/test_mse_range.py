"""The range of least error against an exhaustive search, torch's histogram observer and the closed forms there are."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.quantization.mse_range import ErrorOfGrid, mse_range
from qcal.quantization.quantizer import Grid
from qcal.quantization.range_search import Levels, range_of
from qcal.quantization.ranges import activation_grid, minmax_range
from qcal.quantization.specs import ActivationSpec
from tests.quantization.distributions import distributions, mse, seen


def _mse_grid(x: Tensor, bits: int, symmetric: bool = False) -> Grid:
    return activation_grid(seen(x), ActivationSpec(bits, "mse", "symmetric" if symmetric else "affine"))


def _exhaustive(x: Tensor, bits: int) -> float:
    """The least error over 32 x 32 ranges, each tried on the numbers themselves."""
    factors = (2.0 ** (-torch.arange(32) / 5)).tolist()
    lows = {min(x.min().item(), 0.0) * factor for factor in factors}
    highs = {max(x.max().item(), 0.0) * factor for factor in factors}
    return min(mse(x, Grid.over(lo, hi, bits)) for lo in lows for hi in highs if hi > lo)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", distributions())
def test_the_range_is_as_good_as_an_exhaustive_search(name: str, bits: int) -> None:
    x = distributions()[name][::4]
    assert mse(x, _mse_grid(x, bits)) <= 1.02 * _exhaustive(x, bits)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", ["normal", "silu", "heavy tails", "two clusters"])
def test_the_signed_range_is_as_good_as_an_exhaustive_search(name: str, bits: int) -> None:
    x = distributions()[name]
    largest = x.abs().max().item()
    exhaustive = min(mse(x, Grid.symmetric(largest * 2.0 ** (-k / 50), bits)) for k in range(500))
    assert mse(x, _mse_grid(x, bits, symmetric=True)) <= 1.02 * exhaustive


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", distributions())
def test_the_error_is_never_larger_than_at_the_extremes_and_pays_at_few_bits(name: str, bits: int) -> None:
    x = distributions()[name]
    at_extremes, least = mse(x, Grid.over(*minmax_range(seen(x)), bits)), mse(x, _mse_grid(x, bits))
    assert least <= 1.001 * at_extremes
    if bits == 2 and name in ("normal", "relu", "log-normal"):
        assert least < 0.6 * at_extremes


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30),
    st.lists(st.integers(1, 1000), min_size=30, max_size=30),
    st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_more_bits_never_increase_the_error(values: list[float], repeats: list[int], symmetric: bool) -> None:
    x = torch.tensor(values).repeat_interleave(torch.tensor(repeats[: len(values)]))
    errors = [mse(x, _mse_grid(x, bits, symmetric)) for bits in range(2, 9)]
    # The search sees the histogram, which knows a number to a bin: that is all the error may grow by.
    bin_width = seen(x).width
    for fewer, more in pairwise(errors):
        assert more**0.5 <= fewer**0.5 + 2 * bin_width + 1e-6 * x.abs().max().item()


@given(st.lists(st.integers(-16, 16), min_size=1, max_size=8), st.booleans())
@settings(deadline=None, max_examples=25)
def test_more_bits_never_increase_the_error_of_the_histogram(values: list[int], signed: bool) -> None:
    # A few integers: many of their grids fit exactly, and a search could miss such a one at more bits.
    x = torch.tensor(values, dtype=torch.float32).repeat_interleave(1 + torch.arange(len(values)) ** 3)
    observer = seen(x.abs() if signed else x)
    errors = []
    for bits in range(2, 9):
        error = ErrorOfGrid(observer, Levels(bits, signed))
        errors.append(range_of(error, *mse_range(observer, bits, signed=signed)).cost.item())
    for fewer, more in pairwise(errors):
        assert more <= fewer + 1e-12 * 16**2  # float64 rounding of the sums


def test_a_grid_that_fits_at_few_bits_is_still_found_at_more() -> None:
    # Four equidistant numbers: exact at 2 bits; at 3 bits only with a range beyond the extremes.
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    for bits in range(2, 9):
        assert mse(x, _mse_grid(x, bits)) < 1e-7


def test_the_search_counts_the_levels_of_the_setting() -> None:
    x = distributions()["relu"]
    ends = [mse_range(seen(x), bits)[1] for bits in (2, 4, 6, 8)]
    assert ends == sorted(ends)
    assert ends[0] < 0.6 * ends[-1]


def test_a_uniform_distribution_at_two_bits_has_its_closed_form() -> None:
    # Levels 0, s, 2s, 3s; values above 3s are clipped over 1 - 3s, the rest is off by s/2 at most: s = 2 / 7.
    _, hi = mse_range(seen(torch.linspace(0, 1, 100_001)), bits=2)
    assert hi == pytest.approx(6 / 7, rel=0.01)


@pytest.mark.parametrize("bits", [2, 5])
def test_the_cost_is_the_error_of_the_numbers_to_a_bin(bits: int) -> None:
    x = distributions()["silu"]
    error = ErrorOfGrid(seen(x), Levels(bits))
    for lo, hi in ((-0.2, 5.0), (-0.27, 3.0), (0.0, 0.5)):
        assert range_of(error, lo, hi).cost.item() == pytest.approx(mse(x, Grid.over(lo, hi, bits)), rel=0.01)


@pytest.mark.parametrize("name", ["normal", "relu", "silu", "log-normal"])
def test_at_eight_bits_the_error_is_at_most_that_of_torchs_histogram_observer(name: str) -> None:
    from torch.ao.quantization.observer import HistogramObserver

    x = distributions()[name]
    observer = HistogramObserver(dtype=torch.quint8, quant_min=0, quant_max=255)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    theirs = Grid(scale.item(), int(zero_point), 0, 255)
    assert mse(x, _mse_grid(x, 8)) <= 1.01 * mse(x, theirs)
