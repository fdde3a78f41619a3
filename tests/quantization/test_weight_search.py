"""The scale of least error against an exhaustive search, and the fast search for long rows against the exact one."""

import pytest
import torch
from torch import Tensor

import qcal.quantization.weight_search as weight_search
from qcal.functional.affine import Symmetry, signed_bounds, symmetric_scale
from qcal.quantization.weight_search import least_error_scale, squared_error


def _rows(count: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, length, generator=generator) * torch.rand(count, length, generator=generator).exp()


def _errors(rows: Tensor, bits: int, symmetry: Symmetry) -> tuple[Tensor, Tensor]:
    """The least error (R,) and the scale (R,) of the largest weight."""
    minmax = symmetric_scale(rows.abs().amax(1), bits, symmetry)
    scale = least_error_scale(rows, minmax, bits, symmetry)
    return squared_error(rows, scale, *signed_bounds(bits, symmetry)), minmax


@pytest.mark.parametrize("symmetry", ["restricted", "full"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("length", [1, 2, 9, 64])
def test_no_scale_of_an_exhaustive_search_is_better(length: int, bits: int, symmetry: Symmetry) -> None:
    rows = _rows(10, length, seed=length)
    least, minmax = _errors(rows, bits, symmetry)
    bounds = signed_bounds(bits, symmetry)
    best = torch.full((10,), torch.inf, dtype=torch.float64)
    for factor in torch.logspace(-8, 1.1, 4000, base=2.0).tolist():
        best = torch.minimum(best, squared_error(rows, minmax * factor, *bounds))
    assert bool((least <= best * (1 + 1e-6) + 1e-12).all())  # float32 rounds the scale


@pytest.mark.parametrize("symmetry", ["restricted", "full"])
@pytest.mark.parametrize(("bits", "excess"), [(2, 1e-4), (4, 1e-4), (6, 1e-3), (8, 0.1)])
def test_trying_scales_for_long_rows_is_nearly_as_good(
    monkeypatch: pytest.MonkeyPatch, bits: int, excess: float, symmetry: Symmetry
) -> None:
    length = weight_search.MAX_CHANGES // 2 ** (bits - 1)
    rows = _rows(8, length)
    exact, _ = _errors(rows, bits, symmetry)
    monkeypatch.setattr(weight_search, "MAX_CHANGES", 0)
    tried, _ = _errors(rows, bits, symmetry)
    assert not torch.equal(exact, tried)
    assert bool((tried <= (1 + excess) * exact).all())


def test_a_tensor_too_long_to_sort_is_searched_too() -> None:
    rows = torch.cat([_rows(1, 100_000), torch.full((1, 1), 40.0)], dim=1)
    least, minmax = _errors(rows, 4, "restricted")
    assert bool(least < 0.2 * squared_error(rows, minmax, -7, 7))


def test_rows_are_searched_each_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(7, 20)
    together = _errors(rows, 4, "full")[0]
    monkeypatch.setattr(weight_search, "_CHANGES_AT_ONCE", 1)
    assert torch.equal(_errors(rows, 4, "full")[0], together)
    assert torch.equal(_errors(rows[3:4], 4, "full")[0], together[3:4])


def test_weights_on_the_levels_of_fewer_bits_are_found_again_without_error() -> None:
    levels = torch.randint(-7, 8, (5, 100), generator=torch.Generator().manual_seed(0)).float()
    for bits in (4, 6, 8):
        assert _errors(0.1 * levels, bits, "restricted")[0].max() < 1e-9
