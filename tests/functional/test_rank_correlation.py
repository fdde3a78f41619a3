import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from qcal.functional.bootstrap import resampled_sums
from qcal.functional.rank_correlation import midranks, spearman


def _three(num: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Rounded, so that there are ties.
    x, y, z = torch.randn(3, num, generator=generator, dtype=torch.float64)
    return [(values * 4).round() / 4 for values in (x + z, y + z - x / 2, z)]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_scipys_rank_correlation(seed: int) -> None:
    x, y, _ = _three(30, seed)
    assert spearman(x, y).item() == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_partial_one_is_the_correlation_of_what_a_regression_on_the_control_leaves(seed: int) -> None:
    x, y, z = _three(30, seed)
    ranks = [rankdata(values.numpy()) for values in (x, y, z)]
    design = np.stack([np.ones(30), ranks[2]], axis=1)
    left = [rank - design @ np.linalg.lstsq(design, rank, rcond=None)[0] for rank in ranks[:2]]
    assert spearman(x, y, control=z).item() == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-10)


def test_resamples_give_the_figures_of_the_drawn_runs() -> None:
    x, y, z = _three(12, 0)
    counts = resampled_sums(torch.eye(12), resamples=50, seed=3)
    found = spearman(x, y, control=z, counts=counts)
    for row, value in zip(counts.long(), found, strict=True):
        drawn = torch.repeat_interleave(torch.arange(12), row)
        assert value.item() == pytest.approx(spearman(x[drawn], y[drawn], control=z[drawn]).item(), abs=1e-10)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_midranks_are_scipys(values: list[int]) -> None:
    ranks = midranks(torch.tensor(values).double(), torch.ones(1, len(values)))
    assert ranks[0].tolist() == rankdata(values).tolist()


def test_without_spread_there_is_no_correlation() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert spearman(x, torch.ones(3)).isnan()
    assert spearman(x, torch.tensor([3.0, 1.0, 2.0]), control=x).isnan()


@pytest.mark.parametrize(
    ("values", "counts", "message"),
    [
        (torch.ones(3), torch.ones(2, 4), r"`values` must have shape \(N,\) and `counts` \(R, N\)"),
        (torch.tensor([1.0, float("nan")]), torch.ones(1, 2), "`values` must be finite"),
    ],
)
def test_wrong_input_is_refused(values: torch.Tensor, counts: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        midranks(values, counts)
