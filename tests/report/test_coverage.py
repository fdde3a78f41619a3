"""How often the intervals of a correlation leave out 0 where there is none, on runs as sweeps make them."""

import pytest
import torch

from qcal.functional.bootstrap import percentile_interval, resampled_sums
from qcal.functional.rank_correlation import spearman

REGIMES, SEEDS, TIMES = 6, 4, 300


def _false_alarms(*, regime_effects: float, draw_regimes: bool) -> float:
    num = REGIMES * SEEDS
    of_regime = torch.eye(REGIMES).repeat_interleave(SEEDS, dim=1)
    counts = resampled_sums(of_regime if draw_regimes else torch.eye(num), resamples=1000)
    generator, alarms = torch.Generator().manual_seed(0), 0
    for _ in range(TIMES):
        x, y = (
            share * torch.randn(REGIMES, generator=generator).repeat_interleave(SEEDS)
            + own * torch.randn(num, generator=generator)
            for share, own in ((1.0, 0.2), (regime_effects, 1.0))
        )
        samples = spearman(x, y, control=torch.randn(num, generator=generator), counts=counts)
        interval = percentile_interval(samples[samples.isfinite()])
        alarms += not interval.low <= 0 <= interval.high
    return alarms / TIMES


@pytest.mark.slow
def test_over_runs_the_interval_holds_what_it_says_where_regimes_have_no_effects_of_their_own() -> None:
    assert 0.02 <= _false_alarms(regime_effects=0.0, draw_regimes=False) <= 0.08


@pytest.mark.slow
def test_only_drawing_regimes_allows_for_effects_of_their_own() -> None:
    assert _false_alarms(regime_effects=1.0, draw_regimes=False) > 0.15
    assert _false_alarms(regime_effects=1.0, draw_regimes=True) <= 0.11
