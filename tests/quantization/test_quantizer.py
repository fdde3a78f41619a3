"""A quantizer quantizes, watches or does nothing."""

import pytest
import torch

from qcal.quantization.observers import RangeObserver
from qcal.quantization.quantizer import Grid, Quantizer


def test_without_grid_and_observer_the_same_tensor_passes() -> None:
    x = torch.randn(3)
    assert Quantizer("conv", (3,))(x) is x


@pytest.mark.parametrize("grid", [Grid.over(-1.5, 2.0, 4), Grid.over(0.0, 0.7, 2), Grid.symmetric(1.9, 8)])
def test_with_a_grid_it_gives_what_torchs_kernel_gives(grid: Grid) -> None:
    x = torch.randn(100)
    quantizer = Quantizer("conv", (100,))
    quantizer.grid = grid
    expected = torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, grid.quant_min, grid.quant_max)
    assert torch.equal(quantizer(x), expected)


def test_only_an_inplace_quantizer_overwrites_its_input() -> None:
    x = torch.randn(100)
    before = x.clone()
    kept, overwriting = Quantizer("input", (100,)), Quantizer("conv", (100,), inplace=True)
    kept.grid = overwriting.grid = Grid.over(-1.0, 1.0, 2)
    result = kept(x)
    assert torch.equal(x, before)
    assert torch.equal(overwriting(x), result)
    assert torch.equal(x, result)


def test_an_observer_sees_what_passes_unchanged() -> None:
    x = torch.randn(100)
    quantizer = Quantizer("conv", (100,), inplace=True)
    quantizer.observer = RangeObserver()
    assert quantizer(x) is x
    assert quantizer.observer.num_seen == 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_refused_with_the_name_of_the_layer(bad: float) -> None:
    quantizer = Quantizer("layer1.0.conv2", (1,))
    quantizer.observer = RangeObserver()
    with pytest.raises(ValueError, match=r"got NaN or infinity at `layer1\.0\.conv2`"):
        quantizer(torch.tensor([bad]))
