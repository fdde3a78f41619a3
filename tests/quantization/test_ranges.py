"""Ranges against exhaustive search, torch's histogram observer and the closed forms there are."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.affine import affine_scale_zero_point, fake_quantize, unsigned_bounds
from qcal.quantization.observers import RangeObserver
from qcal.quantization.ranges import activation_range, minmax_range, mse_range


def _seen(x: Tensor) -> RangeObserver:
    observer = RangeObserver()
    observer.update(x)
    return observer


def _mse(x: Tensor, lo: float, hi: float, bits: int) -> float:
    scale, zero_point = affine_scale_zero_point(lo, hi, bits)
    error = fake_quantize(x, scale, zero_point, *unsigned_bounds(bits)) - x
    return error.double().square().mean().item()


def _distributions() -> dict[str, Tensor]:
    normal = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    other = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    return {
        "normal": normal,
        "relu": normal.relu(),
        "silu": F.silu(3 * normal),
        "log-normal": normal.exp(),
        "heavy tails": normal / other.abs().clamp(min=0.05),
        "two clusters": torch.cat([normal * 0.1 - 3, other * 0.2 + 8]),
        "uniform": torch.linspace(-1, 3, 4000),
        "negative": -normal.relu(),
        "one outlier": torch.cat([torch.linspace(0, 1, 4000), torch.tensor([20.0])]),
    }


def _exhaustive(x: Tensor, bits: int) -> float:
    """The least error over 32 x 32 ranges, each tried on the numbers themselves."""
    factors = (2.0 ** (-torch.arange(32) / 5)).tolist()
    lows = {min(x.min().item(), 0.0) * factor for factor in factors}
    highs = {max(x.max().item(), 0.0) * factor for factor in factors}
    return min(_mse(x, lo, hi, bits) for lo in lows for hi in highs if hi > lo)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", _distributions())
def test_the_mse_range_is_as_good_as_an_exhaustive_search(name: str, bits: int) -> None:
    x = _distributions()[name][::4]
    assert _mse(x, *mse_range(_seen(x), bits), bits) <= 1.02 * _exhaustive(x, bits)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", _distributions())
def test_the_mse_range_is_never_worse_than_the_extremes_and_pays_at_few_bits(name: str, bits: int) -> None:
    x = _distributions()[name]
    minmax, mse = _mse(x, *minmax_range(_seen(x)), bits), _mse(x, *mse_range(_seen(x), bits), bits)
    assert mse <= 1.001 * minmax
    if bits == 2 and name in ("normal", "relu", "log-normal"):
        assert mse < 0.6 * minmax


@pytest.mark.parametrize("name", _distributions())
def test_more_bits_never_increase_the_error(name: str) -> None:
    x = _distributions()[name]
    errors = [_mse(x, *mse_range(_seen(x), bits), bits) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


def test_the_search_counts_the_levels_of_the_setting() -> None:
    x = _distributions()["relu"]
    ends = [mse_range(_seen(x), bits)[1] for bits in (2, 4, 6, 8)]
    assert ends == sorted(ends)
    assert ends[0] < 0.6 * ends[-1]


def test_a_uniform_distribution_at_two_bits_has_its_closed_form() -> None:
    # Levels 0, s, 2s, 3s; values above 3s are clipped over 1 - 3s, the rest is off by s/2 at most: s = 2 / 7.
    _, hi = mse_range(_seen(torch.linspace(0, 1, 100_001)), bits=2)
    assert hi == pytest.approx(6 / 7, rel=0.01)


@pytest.mark.parametrize("name", ["normal", "relu", "silu", "log-normal"])
def test_at_eight_bits_the_error_is_at_most_that_of_torchs_histogram_observer(name: str) -> None:
    from torch.ao.quantization.observer import HistogramObserver

    x = _distributions()[name]
    observer = HistogramObserver(dtype=torch.quint8, quant_min=0, quant_max=255)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    theirs = (fake_quantize(x, scale, zero_point.int(), 0, 255) - x).double().square().mean().item()
    assert _mse(x, *mse_range(_seen(x), 8), 8) <= 1.01 * theirs


@pytest.mark.parametrize("method", ["minmax", "mse"])
@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("value", [0.0, 2.5, -2.5])
def test_constant_tensors_quantize_without_error(method: str, bits: int, value: float) -> None:
    x = torch.full((50,), value)
    lo, hi = activation_range(_seen(x), method, bits)  # type: ignore[arg-type]  # str from parametrize
    assert lo <= 0 <= hi
    assert _mse(x, lo, hi, bits) <= 1e-12


def test_the_extremes_are_exact_and_hold_zero() -> None:
    assert minmax_range(_seen(torch.tensor([0.3, 1.7]))) == (0.0, torch.tensor(1.7).item())
    assert minmax_range(_seen(torch.tensor([-4.0, -1.0]))) == (-4.0, 0.0)
    assert activation_range(_seen(torch.tensor([-1.0, 2.0])), "minmax", 4) == (-1.0, 2.0)


@given(st.floats(-30, 30), st.integers(2, 8))
@settings(deadline=None, max_examples=15)
def test_the_range_scales_with_the_numbers(power: float, bits: int) -> None:
    # By a power of two all arithmetic is the same, so the range must be.
    x, factor = _distributions()["silu"], 2.0 ** round(power)
    lo, hi = mse_range(_seen(x), bits)
    assert mse_range(_seen(x * factor), bits) == (lo * factor, hi * factor)
