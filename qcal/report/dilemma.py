"""The dilemma in figures: does the error that quantization adds follow the float network's overconfidence?

A point is a run. Over the runs, Spearman's rank correlation of the two, and the partial one with the float network's
accuracy held fixed: accuracy is a part of overconfidence, and moves the error on its own. Both with bootstrap
intervals, in two ways: drawing runs again speaks of other seeds for these regimes, drawing whole regimes of other
regimes.

References:
    C. A. Field, A. H. Welsh: Bootstrapping Clustered Data, Journal of the Royal Statistical Society B 2007: whole
    clusters, here regimes, are drawn.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qcal.functional.bootstrap import Interval, percentile_interval, resampled_sums
from qcal.functional.rank_correlation import spearman
from qcal.report.runs import Chapter, Run

__all__ = ["FEWEST_REGIMES", "FEWEST_RUNS", "Association", "Correlation", "Measure", "Verdict", "associations"]

Measure = Literal["overconfidence", "ece"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
Verdict = Literal[
    "protects",
    "harms",
    "protects, in these regimes",
    "harms, in these regimes",
    "follows accuracy",
    "cannot be told",
    "too few runs",
]

FEWEST_RUNS = 8
"""The bootstrap of a correlation of fewer runs holds less than it says."""
FEWEST_REGIMES = 5
"""Likewise of regimes."""
RESAMPLES = 10_000
_LEVEL = 0.95
_MOST_UNDEFINED = 0.01  # of the resamples, in which a figure had no spread


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over runs.

    Attributes:
        value: In [-1, 1]; None without spread.
        runs: 95 % interval over resampled runs; None for fewer than `FEWEST_RUNS`.
        runs_jointly: The same, so wide that the intervals of all settings hold together with 95 % (Bonferroni).
        regimes: 95 % interval over resampled regimes, each with all its runs; None for fewer than `FEWEST_REGIMES`.
    """

    value: float | None
    runs: Interval | None
    runs_jointly: Interval | None
    regimes: Interval | None

    @property
    def sign(self) -> int:
        """-1 or 1 if the joint interval lies on one side of 0, else 0."""
        return _sign(self.runs_jointly)

    @property
    def sign_over_regimes(self) -> int:
        """The same of the interval over regimes."""
        return _sign(self.regimes)


@dataclass(frozen=True)
class Association:
    """Error change against a measure of the float network at one setting.

    Attributes:
        setting: Such as `w4a4`.
        measure: `overconfidence` or `ece`, of the float network.
        num_runs: Points.
        plain: Spearman's correlation.
        partial: The same with float accuracy held fixed.
    """

    setting: str
    measure: Measure
    num_runs: int
    plain: Correlation
    partial: Correlation

    @property
    def verdict(self) -> Verdict:
        """What can be said: the partial correlation decides.

        Where every regime has an effect of its own, beside confidence, an interval over runs leaves out 0 four times as
        often as it says (docs/report.md): it speaks of these regimes. Only the one over regimes speaks of others.
        """
        if self.num_runs < FEWEST_RUNS:
            return "too few runs"
        if self.partial.sign:
            holds = self.partial.sign_over_regimes == self.partial.sign
            if self.partial.sign < 0:
                return "protects" if holds else "protects, in these regimes"
            return "harms" if holds else "harms, in these regimes"
        return "follows accuracy" if self.plain.sign else "cannot be told"


def associations(chapter: Chapter, measure: Measure, *, resamples: int = RESAMPLES, seed: int = 0) -> list[Association]:
    """The association at every setting.

    Args:
        chapter: Runs that may be compared.
        measure: Of the float network.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.

    Returns:
        One a setting, in the chapter's order.
    """
    found = []
    for setting in chapter.settings:
        runs = [run for run in chapter.runs if setting in run.settings]
        x = torch.tensor([getattr(run.scores, measure) for run in runs], dtype=torch.float64)
        y = torch.tensor([run.settings[setting].error_change for run in runs], dtype=torch.float64)
        accuracy = torch.tensor([run.scores.accuracy for run in runs], dtype=torch.float64)
        counts = _draws(runs, resamples, seed)
        plain, partial = (
            _correlation(x, y, control, counts, num_settings=len(chapter.settings)) for control in (None, accuracy)
        )
        found.append(Association(setting, measure, len(runs), plain, partial))
    return found


def _draws(runs: list[Run], resamples: int, seed: int) -> tuple[Tensor | None, Tensor | None]:
    """How often each run is drawn, `(R, N)`, when runs are drawn and when regimes are."""
    regimes = list(dict.fromkeys(run.regime for run in runs))
    of_regime = torch.tensor([[float(run.regime == regime) for run in runs] for regime in regimes])
    return (
        resampled_sums(torch.eye(len(runs)), resamples=resamples, seed=seed) if len(runs) >= FEWEST_RUNS else None,
        resampled_sums(of_regime, resamples=resamples, seed=seed) if len(regimes) >= FEWEST_REGIMES else None,
    )


def _correlation(
    x: Tensor, y: Tensor, control: Tensor | None, counts: tuple[Tensor | None, Tensor | None], *, num_settings: int
) -> Correlation:
    value = spearman(x, y, control=control)
    if not bool(value.isfinite()):
        return Correlation(None, None, None, None)
    samples = [None if each is None else spearman(x, y, control=control, counts=each) for each in counts]
    jointly = 1 - (1 - _LEVEL) / num_settings
    return Correlation(
        value.item(), _interval(samples[0], _LEVEL), _interval(samples[0], jointly), _interval(samples[1], _LEVEL)
    )


def _interval(samples: Tensor | None, level: float) -> Interval | None:
    if samples is None:
        return None
    defined = samples[samples.isfinite()]
    if len(defined) < (1 - _MOST_UNDEFINED) * len(samples):
        return None
    return percentile_interval(defined, level=level)


def _sign(interval: Interval | None) -> int:
    if interval is None or interval.low <= 0 <= interval.high:
        return 0
    return 1 if interval.low > 0 else -1
