"""The divergence against a plain loop over bins, its range against exhaustive search, its error on activations."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcal.functional.affine import affine_scale_zero_point
from qcal.quantization.entropy_range import DivergenceOfGrid, entropy_range
from qcal.quantization.observers import RangeObserver
from qcal.quantization.quantizer import Grid
from qcal.quantization.range_search import Levels, range_of
from qcal.quantization.ranges import activation_grid, minmax_range
from qcal.quantization.setting import ActivationRange, ActivationSymmetry
from qcal.quantization.specs import ActivationSpec
from tests.quantization.distributions import distributions, mse, seen


def _divergence(observer: RangeObserver, lo: float, hi: float, bits: int) -> float:
    """KL(P || Q) as S. Migacz tells it, bin by bin."""
    values, counts = (t.numpy() for t in observer.values_and_counts())
    values, counts = values[values != 0], counts[values != 0]
    scale, zero_point = (t.item() for t in affine_scale_zero_point(lo, hi, bits))
    level = np.floor(values / scale + 0.5) + zero_point
    kept = (level >= 0) & (level <= 2**bits - 1)
    if kept.sum() < min(2**bits, len(values)):
        return math.inf
    reference, level = counts[kept], level[kept]
    candidate = _expanded(reference, level)
    reference[0] += counts[: int(kept.argmax())].sum()
    reference[-1] += counts[len(counts) - int(kept[::-1].argmax()) :].sum()
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return float((p * np.log(p / q)).sum())


def _expanded(counts: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts merged into levels, then each level spread evenly over its bins."""
    spread = np.empty_like(counts)
    for q in np.unique(level):
        spread[level == q] = counts[level == q].mean()
    return spread


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", distributions())
def test_the_divergence_is_that_of_a_loop_over_bins(name: str, bits: int) -> None:
    observer = seen(distributions()[name])
    divergence = DivergenceOfGrid(observer, Levels(bits))
    lo, hi = minmax_range(observer)
    for below in (1.0, 0.7, 0.2):
        for above in (1.0, 0.6, 0.1, 0.001):
            ours = range_of(divergence, lo * below, hi * above).cost.item()
            assert ours == pytest.approx(_divergence(observer, lo * below, hi * above, bits), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", distributions())
def test_the_range_is_as_good_as_an_exhaustive_search(name: str, bits: int) -> None:
    observer = seen(distributions()[name])
    lo, hi = minmax_range(observer)
    factors = (2.0 ** (-torch.arange(20) / 4)).tolist()
    pairs = {(lo * below, hi * above) for below in factors for above in factors}
    exhaustive = min(_divergence(observer, *pair, bits) for pair in pairs)
    assert _divergence(observer, *entropy_range(observer, bits), bits) <= 1.02 * exhaustive + 1e-9


def _activations() -> dict[str, torch.Tensor]:
    # A hundred times the numbers: the divergence compares shapes, which few numbers in thousands of bins do not show.
    normal = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    return {
        "normal": normal,
        "relu": normal.relu(),
        "relu6": (3 * normal + 1).clamp(0, 6),
        "skewed": normal.abs() ** 1.5,
    }


@pytest.mark.parametrize("symmetry", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", _activations())
def test_the_error_stays_near_the_least_one(name: str, bits: int, symmetry: ActivationSymmetry) -> None:
    x = _activations()[name]
    observer = seen(x)
    methods: tuple[ActivationRange, ...] = ("entropy", "mse", "minmax")
    entropy, least, extremes = (
        mse(x, activation_grid(observer, ActivationSpec(bits, method, symmetry))) for method in methods
    )
    assert entropy <= max(2.5 * least, 1.1 * extremes)
    if name in ("relu", "skewed") and bits <= 4:
        assert entropy < extremes


def test_the_search_counts_the_levels_of_the_setting() -> None:
    observer = seen(_activations()["relu"])
    ends = [entropy_range(observer, bits)[1] for bits in (2, 4, 8)]
    assert ends == sorted(ends)
    assert ends[0] < 0.8 * ends[-1]


def test_the_zeros_of_a_relu_do_not_change_the_range() -> None:
    x = _activations()["relu"]
    many_zeros = torch.cat([x, torch.zeros(4_000_000)])
    assert entropy_range(seen(many_zeros), 4) == entropy_range(seen(x), 4)


def test_a_uniform_distribution_is_not_clipped() -> None:
    _, hi = entropy_range(seen(torch.linspace(0, 1, 819_201)[:-1]), bits=8)
    assert hi == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_few_gray_values_are_not_clipped_into_two(bits: int) -> None:
    # The pixels of an image fill every twentieth bin: a range of two bins would make two equal halves, divergence 0.
    x = torch.linspace(-1, 1, 256).repeat_interleave(torch.arange(256) % 7 + 1)
    grid = Grid.over(*entropy_range(seen(x), bits), bits)
    assert mse(x, grid) < 2 * mse(x, Grid.over(-1.0, 1.0, bits))
