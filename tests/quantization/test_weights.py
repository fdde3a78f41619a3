"""Quantized weights against torch's observers and kernels, and the laws that hold for any weights."""

import warnings
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from qcal.functional.affine import Symmetry, signed_bounds
from qcal.quantization.setting import Granularity, WeightRange
from qcal.quantization.specs import WeightSpec
from qcal.quantization.weights import quantize_weight, weight_scale

RANGES = get_args(WeightRange)
LAYOUTS = [(6, 5), (6, 5, 3, 3), (6, 1, 3, 3)]


def _weight(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetry", ["restricted", "full"])
@pytest.mark.parametrize("shape", LAYOUTS)
def test_weights_equal_torchs_per_channel_kernel(bits: int, symmetry: Symmetry, shape: tuple[int, ...]) -> None:
    w = _weight(shape, seed=bits)
    half = 2 ** (bits - 1)
    bounds, steps = ((-half, half - 1), half - 0.5) if symmetry == "full" else ((1 - half, half - 1), half - 1)
    scale = w.flatten(1).abs().amax(1) / steps
    expected = torch.fake_quantize_per_channel_affine(w, scale, torch.zeros(6, dtype=torch.int32), 0, *bounds)
    assert torch.equal(quantize_weight(w, WeightSpec(bits, symmetry=symmetry)), expected)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", LAYOUTS)
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_full_range_weights_are_those_of_torchs_observers(
    bits: int, shape: tuple[int, ...], granularity: Granularity
) -> None:
    w = _weight(shape, seed=bits)
    bounds = signed_bounds(bits, "full")
    with warnings.catch_warnings():
        # torch says that its quantization moves to torchao, and that `reduce_range` will be deprecated.
        warnings.simplefilter("ignore")
        from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

        grid = {"dtype": torch.qint8, "quant_min": bounds[0], "quant_max": bounds[1]}
        if granularity == "per_channel":
            observer = PerChannelMinMaxObserver(ch_axis=0, qscheme=torch.per_channel_symmetric, **grid)
        else:
            observer = MinMaxObserver(qscheme=torch.per_tensor_symmetric, **grid)
        observer(w)
        scale, zero_point = observer.calculate_qparams()
    if granularity == "per_channel":
        expected = torch.fake_quantize_per_channel_affine(w, scale, zero_point.int(), 0, *bounds)
    else:
        expected = torch.fake_quantize_per_tensor_affine(w, scale, zero_point.int(), *bounds)
    spec = WeightSpec(bits, symmetry="full", granularity=granularity)
    assert torch.equal(weight_scale(w, spec).reshape(-1), scale)
    assert torch.equal(quantize_weight(w, spec), expected)


def test_each_channel_has_its_own_scale_and_zero_channels_stay_zero() -> None:
    w = torch.tensor([[1.0, 0.3], [100.0, 30.0], [0.0, 0.0]])
    assert quantize_weight(w, WeightSpec(2)).tolist() == [[1.0, 0.0], [100.0, 0.0], [0.0, 0.0]]


def test_one_scale_for_the_whole_tensor_loses_small_channels() -> None:
    w = torch.tensor([[1.0, 0.3], [100.0, 70.0]])
    assert quantize_weight(w, WeightSpec(2, granularity="per_tensor")).tolist() == [[0.0, 0.0], [100.0, 100.0]]


def test_a_percentile_is_numpys_quantile_of_the_absolute_weights() -> None:
    w = _weight((5, 333))
    for percentile in (60.0, 99.0, 99.9, 100.0):
        by_channel = WeightSpec(4, "percentile", percentile=percentile)
        of_all = WeightSpec(4, "percentile", granularity="per_tensor", percentile=percentile)
        for spec, axis in ((by_channel, 1), (of_all, None)):
            expected = np.quantile(w.abs().numpy(), percentile / 100, axis=axis) / 7
            np.testing.assert_allclose(weight_scale(w, spec).numpy(), expected, rtol=1e-6)


def test_a_percentile_of_mostly_zero_weights_covers_the_largest() -> None:
    w = torch.zeros(1, 1000)
    w[0, 0] = 3.5
    assert quantize_weight(w, WeightSpec(4, "percentile")).max() == 3.5


@pytest.mark.parametrize("range_", RANGES)
def test_the_channel_axis_of_a_transposed_convolution_is_one(range_: WeightRange) -> None:
    w = _weight((3, 4, 2, 2))
    spec = WeightSpec(4, range_, symmetry="full")
    by_channel = quantize_weight(w, spec, channel_axis=1)
    assert torch.equal(by_channel, quantize_weight(w.transpose(0, 1), spec).transpose(0, 1))


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@pytest.mark.parametrize("range_", RANGES)
def test_the_weight_is_left_alone_and_its_layout_kept(granularity: Granularity, range_: WeightRange) -> None:
    w = _weight((4, 3, 3, 3)).contiguous(memory_format=torch.channels_last)
    before = w.clone()
    result = quantize_weight(w, WeightSpec(3, range_, granularity=granularity))
    assert torch.equal(w, before)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, quantize_weight(w.contiguous(), WeightSpec(3, range_, granularity=granularity)))


def test_at_most_as_many_values_as_levels_in_a_channel() -> None:
    w = _weight((5, 1000))
    for bits in range(2, 9):
        assert all(len(channel.unique()) <= 2**bits - 1 for channel in quantize_weight(w, WeightSpec(bits)))
        assert all(
            len(channel.unique()) <= 2**bits for channel in quantize_weight(w, WeightSpec(bits, symmetry="full"))
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("range_", RANGES)
def test_weights_must_be_finite(bad: float, range_: WeightRange) -> None:
    w = _weight((4, 30))
    w[2, 7] = bad
    with pytest.raises(ValueError, match=r"Weights must be finite to be quantized, got NaN or infinity\."):
        quantize_weight(w, WeightSpec(4, range_))


quick = settings(deadline=None, max_examples=100, derandomize=True)
# Weights of any size that float32 has normal numbers for, so also constant, all-zero and single channels.
_sizes = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False) | st.floats(
    -1, 1, width=32, allow_subnormal=False
)
_weights = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=_sizes).map(
    torch.from_numpy
)
_specs = st.builds(
    WeightSpec,
    bits=st.integers(2, 8),
    range=st.sampled_from(RANGES),
    symmetry=st.sampled_from(["restricted", "full"]),
    granularity=st.sampled_from(["per_channel", "per_tensor"]),
    percentile=st.sampled_from([60.0, 99.0, 100.0]),
)


def _scale_beside(w: Tensor, spec: WeightSpec) -> Tensor:
    """The scale in float64, in a shape that broadcasts over `w`."""
    return weight_scale(w, spec).double().reshape(-1, 1)


@quick
@given(_weights, _specs)
def test_inside_the_range_the_error_is_at_most_half_a_step(w: Tensor, spec: WeightSpec) -> None:
    scale = _scale_beside(w, spec)
    quant_min, quant_max = signed_bounds(spec.bits, spec.symmetry)
    error = (quantize_weight(w, spec).double() - w.double()).abs()
    inside = (w >= (quant_min - 0.5) * scale) & (w <= (quant_max + 0.5) * scale)
    # Two roundings in float32 on the way to a level of at most 128, and one on the way back.
    assert bool((error <= scale * (0.5 + 1e-4))[inside].all())


@quick
@given(_weights, _specs)
def test_with_minmax_every_weight_is_inside_the_range(w: Tensor, spec: WeightSpec) -> None:
    plain = WeightSpec(spec.bits, "minmax", spec.symmetry, spec.granularity)
    error = (quantize_weight(w, plain).double() - w.double()).abs()
    assert bool((error <= _scale_beside(w, plain) * (0.5 + 1e-4)).all())


@quick
@given(_weights, _specs)
def test_zero_stays_exactly_zero_and_signs_are_kept(w: Tensor, spec: WeightSpec) -> None:
    w = torch.cat([w, torch.zeros(len(w), 1)], dim=1)
    result = quantize_weight(w, spec)
    assert bool((result[w == 0] == 0).all())
    assert bool((result * w.sign() >= 0).all())


@quick
@given(_weights, _specs)
def test_rounding_keeps_the_order_of_the_weights_of_a_channel(w: Tensor, spec: WeightSpec) -> None:
    ordered = w.sort(dim=1).values
    assert bool((quantize_weight(ordered, spec).diff(dim=1) >= 0).all())


# The others clip the largest weight, so the second time the range is narrower.
@quick
@given(_weights, _specs.filter(lambda spec: spec.symmetry == "restricted" and spec.range != "percentile"))
def test_rounding_rounded_weights_changes_nothing(w: Tensor, spec: WeightSpec) -> None:
    once = quantize_weight(w, spec)
    torch.testing.assert_close(quantize_weight(once, spec), once, rtol=1e-6, atol=0)


@quick
@given(_weights, _specs.filter(lambda spec: spec.bits < 8))
def test_more_bits_never_make_a_larger_error_with_mse_ranges(w: Tensor, spec: WeightSpec) -> None:
    def errors(bits: int) -> Tensor:
        fitted = WeightSpec(bits, "mse", spec.symmetry, spec.granularity)
        error = (quantize_weight(w, fitted).double() - w.double()) / w.double().abs().amax().clamp(min=1e-60)
        return error.square().sum() if spec.granularity == "per_tensor" else error.square().sum(1)

    # The scale of both is rounded to float32, which moves each weight by up to 1e-7 of the largest.
    assert bool((errors(spec.bits + 1) <= errors(spec.bits) * (1 + 1e-5) + 1e-12).all())


@quick
@given(_weights, _specs)
def test_an_mse_range_is_never_worse_than_the_largest_weight(w: Tensor, spec: WeightSpec) -> None:
    def errors(range_: WeightRange) -> Tensor:
        fitted = WeightSpec(spec.bits, range_, spec.symmetry, spec.granularity)
        error = (quantize_weight(w, fitted).double() - w.double()).square()
        return error.sum() if spec.granularity == "per_tensor" else error.sum(1)

    assert bool((errors("mse") <= errors("minmax")).all())


@quick
@given(st.floats(1e-30, 1e30), st.integers(1, 9), st.integers(2, 8), st.sampled_from(RANGES))
def test_a_constant_channel_is_kept(value: float, length: int, bits: int, range_: WeightRange) -> None:
    w = torch.full((1, length), value, dtype=torch.float32)
    torch.testing.assert_close(quantize_weight(w, WeightSpec(bits, range_)), w, rtol=1e-6, atol=0)
