import math

import pytest
import torch

from qcal.functional.bootstrap import percentile_interval, resampled_sums
from qcal.robustness.paired_change import Change, ResampledScore, change_between, resample_columns

EMPTY = torch.empty(0, dtype=torch.float64)


def test_all_tables_are_resampled_by_the_same_draws() -> None:
    column = torch.randn(50, generator=torch.Generator().manual_seed(0))
    sums = resample_columns({"one": column, "two": torch.stack([column, -column], dim=1)}, resamples=20, seed=3)
    assert sums is not None
    torch.testing.assert_close(sums["two"], torch.stack([sums["one"], -sums["one"]], dim=1))
    torch.testing.assert_close(sums["one"], resampled_sums(column[:, None], resamples=20, seed=3).squeeze(1))


def test_too_few_images_are_not_resampled() -> None:
    assert resample_columns({"one": torch.ones(29)}) is None
    assert resample_columns({"one": torch.ones(30)}, resamples=2) is not None


def test_the_interval_of_a_mean_is_the_percentile_interval() -> None:
    values = torch.rand(500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    samples = resampled_sums(values, resamples=4000) / 500
    before, after = (ResampledScore(values[:, i].mean().item(), samples[:, i]) for i in (0, 1))
    change = change_between(before, after)
    plain = percentile_interval(samples[:, 1] - samples[:, 0])
    assert (change.low, change.high) == (plain.low, plain.high)


@pytest.mark.parametrize(("excess", "ends"), [(0.0, (-0.75, 1.15)), (0.3, (-1.35, 1.15)), (-0.3, (-0.75, 1.75))])
def test_the_interval_of_an_error_allows_for_the_excess_of_its_resamples(
    excess: float, ends: tuple[float, float]
) -> None:
    samples = torch.linspace(-1, 1, 101, dtype=torch.float64)
    before = ResampledScore(0.5, torch.full((101,), 0.5, dtype=torch.float64), is_error=True)
    change = change_between(before, ResampledScore(0.7, samples + 0.7 + excess, is_error=True))
    assert (change.low, change.high) == pytest.approx(ends)


def test_the_excess_of_a_resample_and_of_a_score_without_error_stand_as_the_docstring_says() -> None:
    """|x| of Gaussian noise has mean 0.8 s; resampled around x it has sqrt(2) times that."""
    noise = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_score = noise[:, 0].abs().mean()
    of_resample = noise.sum(dim=1).abs().mean() - of_score
    assert (of_score / of_resample).item() == pytest.approx(2.4, abs=0.03)


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [
        (0.1, 0.3, "rose"),
        (-0.3, -0.1, "fell"),
        (-0.1, 0.3, "not distinguishable"),
        (0.0, 0.0, "not distinguishable"),
        (None, None, "not distinguishable"),
    ],
)
def test_a_change_is_told_from_nothing_only_if_its_interval_does_not_hold_0(
    low: float | None, high: float | None, direction: str
) -> None:
    middle = 0.0 if low is None or high is None else (low + high) / 2
    assert Change(0.5, 0.5 + middle, middle, low, high).direction == direction


@pytest.mark.parametrize("samples", [EMPTY, torch.tensor([0.1, math.nan]), torch.tensor([0.1, math.inf])])
def test_without_samples_or_with_undefined_ones_there_is_no_interval(samples: torch.Tensor) -> None:
    change = change_between(ResampledScore(0.5, samples), ResampledScore(0.75, samples))
    assert change == Change(0.5, 0.75, 0.25, None, None)
