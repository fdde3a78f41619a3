"""The affine formula against torch's own kernels, closed forms and its properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.affine import (
    Symmetry,
    affine_scale_zero_point,
    dequantize,
    fake_quantize,
    quantize,
    signed_bounds,
    symmetric_scale,
    unsigned_bounds,
)

BITS = range(2, 9)
SYMMETRIES: list[Symmetry] = ["restricted", "full"]


def _activations(seed: int = 0) -> Tensor:
    return torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(seed)) * 3 + 0.7


@pytest.mark.parametrize("bits", BITS)
def test_activations_equal_torchs_per_tensor_kernel_bit_for_bit(bits: int) -> None:
    x = _activations()
    scale, zero_point = affine_scale_zero_point(x.min(), x.max(), bits)
    quant_min, quant_max = unsigned_bounds(bits)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, quant_min, quant_max)
    torch.testing.assert_close(fake_quantize(x, scale, zero_point, quant_min, quant_max), expected, rtol=0, atol=0)
    numbers = fake_quantize(x, scale.item(), int(zero_point.item()), quant_min, quant_max)
    torch.testing.assert_close(numbers, expected, rtol=0, atol=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_equal_torchs_per_channel_kernel_bit_for_bit(bits: int, symmetry: Symmetry, axis: int) -> None:
    w = _activations(1)
    scale = symmetric_scale(w.abs().amax([a for a in range(4) if a != axis]), bits, symmetry)
    quant_min, quant_max = signed_bounds(bits, symmetry)
    zeros = torch.zeros(len(scale), dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(w, scale, zeros, axis, quant_min, quant_max)
    ours = fake_quantize(w, scale, 0, quant_min, quant_max, channel_axis=axis)
    torch.testing.assert_close(ours, expected, rtol=0, atol=0)


def test_a_zero_point_per_channel_equals_torchs_kernel() -> None:
    x = _activations(2)
    scale, zero_point = affine_scale_zero_point(x.amin((0, 2, 3)), x.amax((0, 2, 3)), 5)
    expected = torch.fake_quantize_per_channel_affine(x, scale, zero_point, 1, 0, 31)
    torch.testing.assert_close(fake_quantize(x, scale, zero_point, 0, 31, channel_axis=1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("zero_point", [0, 3])
def test_fake_quantize_is_quantize_then_dequantize(zero_point: int) -> None:
    x = _activations(3)
    there = quantize(x, 0.37, zero_point, 0, 15)
    assert there.dtype == torch.int32
    assert there.min() == 0
    assert there.max() == 15
    back = dequantize(there, 0.37, zero_point)
    torch.testing.assert_close(back, fake_quantize(x, 0.37, zero_point, 0, 15), rtol=0, atol=0)


def test_quantize_and_dequantize_follow_the_channel_axis() -> None:
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    scale, zero_point = torch.tensor([0.5, 0.25]), torch.tensor([0, 1])
    by_row = quantize(x, scale, zero_point, 0, 255, channel_axis=0)
    assert by_row.tolist() == [[2, 2], [5, 5]]
    assert quantize(x, scale, zero_point, 0, 255, channel_axis=1).tolist() == [[2, 5], [2, 5]]
    assert torch.equal(dequantize(by_row, scale, zero_point, channel_axis=0), x)


def test_ties_go_to_the_even_level() -> None:
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]) * 0.25
    assert quantize(halves, 0.25, 0, -8, 7).tolist() == [-2, -2, 0, 0, 2, 2, 4]


def test_an_odd_zero_point_does_not_move_the_ties() -> None:
    halves = torch.tensor([0.5, 1.5, 2.5])
    assert (quantize(halves, 1.0, 3, 0, 15) - 3).tolist() == [0, 2, 2]


@given(
    st.floats(2.0**-60, 2.0**60, width=32),
    st.integers(2, 8),
    st.integers(0, 255),
    st.lists(st.integers(-300, 300), min_size=1, max_size=20),
)
@settings(deadline=None, max_examples=100)
def test_at_ties_and_their_neighbours_the_kernels_of_torch_decide_alike(
    scale: float, bits: int, zero_point: int, steps: list[int]
) -> None:
    # (k + 0.5) * scale in float32 and the two numbers beside it: whichever side the inexact reciprocal takes them to.
    quant_max = unsigned_bounds(bits)[1]
    zero_point = min(zero_point, quant_max)
    ties = (torch.tensor(steps) + 0.5).mul(scale)
    x = torch.cat([ties, *(torch.nextafter(ties, torch.full_like(ties, way)) for way in (-math.inf, math.inf))])
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, quant_max)
    assert torch.equal(fake_quantize(x, scale, zero_point, 0, quant_max), expected)
    channel = torch.tensor([scale]), torch.tensor([zero_point], dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x[None], *channel, 0, 0, quant_max)
    ours = fake_quantize(x[None], *channel, 0, quant_max, channel_axis=0)
    assert torch.equal(ours, expected)


def test_a_tie_falls_where_the_reciprocal_puts_it() -> None:
    # In float32 1.65 / 0.3 is 5.4999995, but 1.65 * (1 / 0.3) is 5.5, a tie, which goes up to the even level.
    x, scale = torch.tensor([1.65]), torch.tensor(0.3)
    assert (x / scale).round().item() == 5
    assert quantize(x, scale, 0, 0, 15).item() == quantize(x, 0.3, 0, 0, 15).item() == 6
    assert fake_quantize(x, scale, 0, 0, 15).item() == pytest.approx(1.8)
    assert torch.fake_quantize_per_tensor_affine(x, 0.3, 0, 0, 15).item() == pytest.approx(1.8)


def test_a_single_channel_is_quantized_as_a_whole_tensor() -> None:
    w = _activations()[:1]
    scale = symmetric_scale(w.abs().amax((1, 2, 3)), 4)
    assert torch.equal(
        fake_quantize(w, scale, 0, *signed_bounds(4), channel_axis=0), fake_quantize(w, scale[0], 0, *signed_bounds(4))
    )


def test_the_input_is_left_alone_unless_asked() -> None:
    x = _activations()
    before = x.clone()
    result = fake_quantize(x, 0.1, 4, 0, 255)
    assert torch.equal(x, before)
    assert fake_quantize(x, 0.1, 4, 0, 255, inplace=True) is x
    assert torch.equal(x, result)


def test_nan_stays_nan() -> None:
    assert fake_quantize(torch.tensor([math.nan, 1.0]), 0.5, 0, 0, 3).isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_caller_is_kept(dtype: torch.dtype) -> None:
    x = torch.tensor([-1.0, 0.3, 0.9], dtype=dtype)
    assert fake_quantize(x, 0.5, 1, 0, 3).dtype == dtype
    assert fake_quantize(x, 0.5, 1, 0, 3).tolist() == [-0.5, 0.5, 1.0]


def test_bounds_of_every_width() -> None:
    assert [unsigned_bounds(b) for b in (2, 8)] == [(0, 3), (0, 255)]
    assert [signed_bounds(b) for b in (2, 8)] == [(-1, 1), (-127, 127)]
    assert [signed_bounds(b, "full") for b in (2, 8)] == [(-2, 1), (-128, 127)]


def test_scales_in_closed_form() -> None:
    assert symmetric_scale(12.7, 8).item() == pytest.approx(0.1)
    assert symmetric_scale(12.75, 8, "full").item() == pytest.approx(0.1)
    scale, zero_point = affine_scale_zero_point(torch.tensor([-1.0, 0.0, 1.0, -3.0]), torch.tensor([2.0, 6, 3, -1]), 2)
    assert scale.tolist() == [1.0, 2.0, 1.0, 1.0]  # 0 is always inside: [1, 3] becomes [0, 3], [-3, -1] becomes [-3, 0]
    assert zero_point.tolist() == [1, 0, 0, 3]


def test_the_symmetric_full_scale_is_that_of_torchs_observer() -> None:
    from torch.ao.quantization.observer import PerChannelMinMaxObserver

    w = _activations(4).flatten(1)
    observer = PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-8, quant_max=7
    )
    observer(w)
    expected, _ = observer.calculate_qparams()
    assert torch.equal(symmetric_scale(w.abs().amax(1), 4, "full"), expected)


def test_a_restricted_grid_has_the_largest_weight_as_a_level_and_a_full_one_does_not() -> None:
    w = torch.tensor([-7.5, 7.5])
    restricted = fake_quantize(w, symmetric_scale(7.5, 4), 0, *signed_bounds(4))
    full = fake_quantize(w, symmetric_scale(7.5, 4, "full"), 0, *signed_bounds(4, "full"))
    assert restricted.tolist() == pytest.approx([-7.5, 7.5])
    assert full.tolist() == [-8.0, 7.0]  # -7.5 steps is a tie, 8 steps do not exist


@pytest.mark.parametrize("bits", BITS)
def test_all_zero_and_constant_tensors_survive(bits: int) -> None:
    for value in (0.0, 2.5, -2.5):
        x = torch.full((5,), value)
        scale, zero_point = affine_scale_zero_point(x.min(), x.max(), bits)
        torch.testing.assert_close(fake_quantize(x, scale, zero_point, *unsigned_bounds(bits)), x)
        weight_scale = symmetric_scale(x.abs().max(), bits)
        torch.testing.assert_close(fake_quantize(x, weight_scale, 0, *signed_bounds(bits)), x)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_ranges_stay_finite(size: float) -> None:
    x = torch.tensor([-size, 0.0, size / 3, size])
    scale, zero_point = affine_scale_zero_point(-size, size, 8)
    result = fake_quantize(x, scale, zero_point, 0, 255)
    assert torch.isfinite(result).all()
    assert (result - x).abs().max() <= max(0.51 * scale.item(), size / 100)
    assert torch.equal(fake_quantize(result, scale, zero_point, 0, 255), result)
    channels = torch.stack([x, x.flip(0) / 2, torch.zeros(4)])
    scales = symmetric_scale(channels.abs().amax(1), 8)
    weights = fake_quantize(channels, scales, 0, *signed_bounds(8), channel_axis=0)
    assert ((weights - channels).abs().amax(1) <= torch.maximum(0.51 * scales, channels.amax(1) / 100)).all()
    assert torch.equal(fake_quantize(weights, scales, 0, *signed_bounds(8), channel_axis=0), weights)


RANGES = st.tuples(st.floats(-100, 100, width=32), st.floats(-100, 100, width=32)).map(sorted)


@given(RANGES, st.integers(2, 8), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_properties_of_the_affine_grid(bounds: list[float], bits: int, seed: int) -> None:
    lo, hi = bounds
    scale, zero_point = affine_scale_zero_point(lo, hi, bits)
    quant_min, quant_max = unsigned_bounds(bits)
    assert 0 <= zero_point.item() <= quant_max
    x = torch.rand(256, generator=torch.Generator().manual_seed(seed)) * (hi - lo) + lo
    x = x.clamp(lo, hi).sort().values
    result = fake_quantize(x, scale, zero_point, quant_min, quant_max)
    # Rounding the zero point may move an end of the range by half a step, hence a whole step out there; half inside.
    inside = (x / scale).abs() <= torch.where(x < 0, zero_point, quant_max - zero_point)
    error = (result - x).abs() / scale
    assert (error[inside] <= 0.5 + 1e-4).all()
    assert (error <= 1 + 1e-4).all()
    assert torch.equal(fake_quantize(result, scale, zero_point, quant_min, quant_max), result)
    assert (result.diff() >= 0).all()
    assert fake_quantize(torch.zeros(1), scale, zero_point, quant_min, quant_max).item() == 0.0


@given(st.floats(2.0**-60, 2.0**60, width=32), st.integers(2, 8), st.sampled_from(SYMMETRIES), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_properties_of_the_symmetric_grid(largest: float, bits: int, symmetry: Symmetry, seed: int) -> None:
    scale = symmetric_scale(largest, bits, symmetry)
    bounds = signed_bounds(bits, symmetry)
    w = (torch.rand(256, generator=torch.Generator().manual_seed(seed)) * 2 - 1).sort().values * largest
    result = fake_quantize(w, scale, 0, *bounds)
    assert ((result - w).abs() <= scale * (0.5 + 1e-4)).all()
    assert torch.equal(fake_quantize(result, scale, 0, *bounds), result)
    assert (result.diff() >= 0).all()
    if symmetry == "restricted":
        torch.testing.assert_close(fake_quantize(-w, scale, 0, *bounds), -result, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [1, 9, 0, -4, True, 4.0, None])
def test_a_bit_width_outside_2_to_8_is_refused(bits: int) -> None:
    for call in (unsigned_bounds, signed_bounds, lambda b: symmetric_scale(1.0, b)):
        with pytest.raises(ValueError, match=r"`bits` must be an integer in \[2, 8\], got"):
            call(bits)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_range_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="`maximum` must be finite, got"):
        affine_scale_zero_point(0.0, bad, 8)
    with pytest.raises(ValueError, match="`max_abs` must be finite, got"):
        symmetric_scale(bad, 8)


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`minimum` must not exceed `maximum`, got 2\.0 and 1\.0"):
        affine_scale_zero_point(2.0, 1.0, 8)
    with pytest.raises(ValueError, match=r"`max_abs` must not be negative, got -1\.0"):
        symmetric_scale(-1.0, 8)


def test_an_unknown_convention_is_refused() -> None:
    with pytest.raises(ValueError, match='`symmetry` must be "restricted" or "full", got \'half\''):
        signed_bounds(8, "half")  # type: ignore[arg-type]  # a wrong value is the point
