"""Grids of every method: closed forms, torch's observers, and what holds for all of them."""

import math
from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.quantization.observers import RangeObserver
from qcal.quantization.quantizer import Grid
from qcal.quantization.ranges import activation_grid, minmax_range, moving_average_range, percentile_range
from qcal.quantization.setting import ActivationRange, ActivationSymmetry
from qcal.quantization.specs import ActivationSpec
from tests.quantization.distributions import distributions, mse, quantized, seen

METHODS: tuple[ActivationRange, ...] = get_args(ActivationRange)
SYMMETRIES: tuple[ActivationSymmetry, ...] = get_args(ActivationSymmetry)


def test_the_extremes_are_exact_and_hold_zero() -> None:
    assert minmax_range(seen(torch.tensor([0.3, 1.7]))) == (0.0, torch.tensor(1.7).item())
    assert minmax_range(seen(torch.tensor([-4.0, -1.0]))) == (-4.0, 0.0)


@pytest.mark.parametrize("name", distributions())
def test_minmax_grids_are_those_of_torchs_observer(name: str) -> None:
    from torch.ao.quantization.observer import MinMaxObserver

    x = distributions()[name]
    observer = MinMaxObserver(dtype=torch.quint8, quant_min=0, quant_max=255)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    assert activation_grid(seen(x), ActivationSpec(8)) == Grid(scale.item(), int(zero_point), 0, 255)


def test_signed_symmetric_minmax_grids_are_those_of_torchs_observer() -> None:
    from torch.ao.quantization.observer import MinMaxObserver

    x = distributions()["normal"]
    observer = MinMaxObserver(torch.qint8, torch.per_tensor_symmetric, quant_min=-127, quant_max=127)
    observer(x)
    scale, _ = observer.calculate_qparams()
    assert activation_grid(seen(x), ActivationSpec(8, symmetry="symmetric")) == Grid(scale.item(), 0, -127, 127)


@pytest.mark.parametrize("symmetric", [False, True])
def test_moving_average_grids_are_those_of_torchs_observer(symmetric: bool) -> None:
    from torch.ao.quantization.observer import MovingAverageMinMaxObserver

    batches = torch.split(distributions()["heavy tails"] + 1, 300)
    observer = (
        MovingAverageMinMaxObserver(
            dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-127, quant_max=127
        )
        if symmetric
        else MovingAverageMinMaxObserver(dtype=torch.quint8, quant_min=0, quant_max=255)
    )
    for batch in batches:
        observer(batch)
    scale, zero_point = observer.calculate_qparams()
    spec = ActivationSpec(8, "moving_average", "symmetric" if symmetric else "affine")
    grid = activation_grid(seen(*batches), spec)
    assert grid.scale == pytest.approx(scale.item(), rel=1e-6)  # theirs averages in float32
    assert grid.zero_point == int(zero_point)


def test_the_moving_average_holds_zero() -> None:
    assert moving_average_range(seen(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))) == (0.0, 2.02)
    assert moving_average_range(seen(torch.tensor([-2.0, -1.0]))) == (-2.0, 0.0)


@pytest.mark.parametrize("percentile", [60, 90, 99.9, 99.99])
@pytest.mark.parametrize("name", ["normal", "relu", "log-normal", "heavy tails", "uniform", "negative"])
def test_percentiles_are_quantiles_to_a_bin(name: str, percentile: float) -> None:
    x = distributions()[name]
    observer = seen(x)
    lo, hi = percentile_range(observer, percentile)
    assert 0 <= hi - max(_quantile(x, percentile), 0.0) <= observer.width  # on the outer side
    assert 0 <= min(-_quantile(-x, percentile), 0.0) - lo <= observer.width


def _quantile(x: Tensor, percentile: float) -> float:
    """The least number that `percentile` % of the numbers do not exceed; the rank is exact, which numpy's is not."""
    return x.sort().values[math.ceil(Fraction(str(percentile)) / 100 * len(x)) - 1].double().item()


@pytest.mark.parametrize("name", distributions())
def test_percentile_100_is_minmax(name: str) -> None:
    observer = seen(distributions()[name])
    assert percentile_range(observer, 100) == minmax_range(observer)


def test_a_percentile_clips_at_most_its_share_on_each_side() -> None:
    x = torch.cat([torch.tensor([-50.0] * 10 + [100.0] * 10), torch.linspace(-1, 2, 9_980)])
    lo, hi = percentile_range(seen(x), 99.9)  # ten of ten thousand may be clipped
    assert (lo, hi) == pytest.approx((-1, 2), abs=0.02)
    lo, hi = percentile_range(seen(x), 99.91)
    assert (lo, hi) == (-50.0, 100.0)


def test_the_zeros_of_a_relu_count_as_numbers() -> None:
    x = torch.cat([torch.zeros(900), torch.linspace(0.01, 1, 100)])
    assert percentile_range(seen(x), 95)[1] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("symmetry", SYMMETRIES)
def test_a_percentile_of_nearly_all_zeros_falls_back_on_the_extremes(symmetry: ActivationSymmetry) -> None:
    x = torch.cat([torch.zeros(100_000), torch.tensor([-1.0, 3.0])])
    grid = activation_grid(seen(x), ActivationSpec(8, "percentile", symmetry))
    assert mse(x, grid) < 1e-7


def test_a_symmetric_percentile_is_that_of_the_absolute_values() -> None:
    x = distributions()["two clusters"]
    grid = activation_grid(seen(x), ActivationSpec(8, "percentile", "symmetric", percentile=90))
    assert grid.scale * 127 == pytest.approx(_quantile(x.abs(), 90), abs=2 * seen(x).width)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 8])
def test_a_symmetric_grid_is_signed_only_where_something_was_negative(method: ActivationRange, bits: int) -> None:
    spec = ActivationSpec(bits, method, "symmetric")
    signed = activation_grid(seen(distributions()["normal"]), spec)
    assert (signed.zero_point, signed.quant_min, signed.quant_max) == (0, 1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    unsigned = activation_grid(seen(distributions()["relu"]), spec)
    assert (unsigned.zero_point, unsigned.quant_min, unsigned.quant_max) == (0, 0, 2**bits - 1)
    assert unsigned == activation_grid(seen(distributions()["relu"]), ActivationSpec(bits, method))


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("size", [0.0, 2.5, -2.5, 1e-30, -1e-30, 1e30, -1e30])
def test_constant_tensors_quantize_without_error(
    size: float, bits: int, method: ActivationRange, symmetry: ActivationSymmetry
) -> None:
    x = torch.full((50,), size)
    grid = activation_grid(seen(x), ActivationSpec(bits, method, symmetry))
    # The searches know a number to a bin, which is up to 1 / 4096 of it.
    torch.testing.assert_close(
        quantized(x, grid), x, rtol=1e-6 if method in ("minmax", "moving_average") else 3e-4, atol=0
    )


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("method", METHODS)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50),
    st.sampled_from([1e-30, 1.0, 1e30]),
    st.integers(2, 8),
)
@settings(deadline=None, max_examples=15)
def test_what_holds_for_every_grid(
    method: ActivationRange, symmetry: ActivationSymmetry, numbers: list[float], size: float, bits: int
) -> None:
    x = torch.tensor(numbers).mul(size).sort().values
    grid = activation_grid(seen(x), ActivationSpec(bits, method, symmetry))
    result = quantized(x, grid)
    assert torch.isfinite(result).all()
    assert quantized(torch.zeros(1), grid).item() == 0.0
    assert torch.equal(quantized(result, grid), result)
    assert (result.diff() >= 0).all()
    lowest, highest = ((q - grid.zero_point) * grid.scale for q in (grid.quant_min, grid.quant_max))
    inside = (x >= lowest) & (x <= highest)
    assert ((result - x).abs()[inside] <= grid.scale * (0.5 + 1e-4)).all()


@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [-60, 3, 60])
def test_the_grid_scales_with_the_numbers(method: ActivationRange, symmetry: ActivationSymmetry, power: int) -> None:
    # By a power of two all arithmetic is the same, so the grid must be.
    x, spec = distributions()["silu"], ActivationSpec(4, method, symmetry)
    grid, scaled = activation_grid(seen(x), spec), activation_grid(seen(x * 2.0**power), spec)
    assert scaled == Grid(grid.scale * 2.0**power, grid.zero_point, grid.quant_min, grid.quant_max)


@pytest.mark.parametrize("method", METHODS)
def test_merged_observers_give_the_grid_of_one(method: ActivationRange) -> None:
    first, second = distributions()["silu"], distributions()["heavy tails"]
    merged = seen(first)
    merged.merge(seen(second))
    if method == "moving_average":  # of one batch each: their mean
        expected = tuple((a + b) / 2 for a, b in zip(_extremes(first), _extremes(second), strict=True))
        assert moving_average_range(merged) == pytest.approx(expected)
    else:
        spec = ActivationSpec(4, method)
        assert activation_grid(merged, spec) == activation_grid(seen(first, second), spec)


def _extremes(x: Tensor) -> tuple[float, float]:
    return x.min().item(), x.max().item()


def test_a_tensor_never_seen_has_no_grid() -> None:
    with pytest.raises(ValueError, match="A range needs at least one number seen, got none"):
        activation_grid(RangeObserver(), ActivationSpec(8))
