"""Quantized weights against torch's per-channel kernel."""

import pytest
import torch

from qcal.functional.affine import Symmetry
from qcal.quantization.weights import quantize_weight


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetry", ["restricted", "full"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3), (6, 1, 3, 3)])
def test_weights_equal_torchs_per_channel_kernel(bits: int, symmetry: Symmetry, shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(bits))
    half = 2 ** (bits - 1)
    bounds, steps = ((-half, half - 1), half - 0.5) if symmetry == "full" else ((1 - half, half - 1), half - 1)
    scale = w.flatten(1).abs().amax(1) / steps
    expected = torch.fake_quantize_per_channel_affine(w, scale, torch.zeros(6, dtype=torch.int32), 0, *bounds)
    assert torch.equal(quantize_weight(w, bits, symmetry), expected)


def test_each_channel_has_its_own_scale_and_zero_channels_stay_zero() -> None:
    w = torch.tensor([[1.0, 0.3], [100.0, 30.0], [0.0, 0.0]])
    assert quantize_weight(w, 2, "restricted").tolist() == [[1.0, 0.0], [100.0, 0.0], [0.0, 0.0]]


def test_the_channel_axis_of_a_transposed_convolution_is_one() -> None:
    w = torch.randn(3, 4, 2, 2)
    by_channel = quantize_weight(w, 4, "full", channel_axis=1)
    assert torch.equal(by_channel, quantize_weight(w.transpose(0, 1), 4, "full").transpose(0, 1))


def test_the_weight_is_left_alone_and_its_layout_kept() -> None:
    w = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    before = w.clone()
    result = quantize_weight(w, 3, "restricted")
    assert torch.equal(w, before)
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_at_most_as_many_values_as_levels_in_a_channel() -> None:
    w = torch.randn(5, 1000)
    for bits in range(2, 9):
        assert all(len(channel.unique()) <= 2**bits - 1 for channel in quantize_weight(w, bits, "restricted"))
        assert all(len(channel.unique()) <= 2**bits for channel in quantize_weight(w, bits, "full"))
