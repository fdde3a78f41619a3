"""Every regime against cross-entropy, paired by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from qcal.functional.bootstrap import Interval
from qcal.functional.paired_t import MeanTest, holm, mean_test
from qcal.report.regime import BASELINE
from qcal.report.runs import Chapter, Run

__all__ = ["RegimeComparison", "RegimeMean", "compare_regimes", "pairs_with_baseline", "regime_means"]

ALPHA = 0.05
_FIGURES: Mapping[str, Callable[[Run], float]] = {
    "accuracy": lambda run: run.scores.accuracy,
    "overconfidence": lambda run: run.scores.overconfidence,
    "ece": lambda run: run.scores.ece,
    "nll": lambda run: run.scores.nll,
}


@dataclass(frozen=True)
class RegimeMean:
    """A figure of one regime over its seeds.

    Attributes:
        regime: Its name.
        setting: Of the figure; None of the float network.
        figure: Such as `error_change`.
        test: Mean over runs and Student's 95 % interval; its p value is of no use here.
    """

    regime: str
    setting: str | None
    figure: str
    test: MeanTest


@dataclass(frozen=True)
class RegimeComparison:
    """Error change of a regime less that of cross-entropy at one setting; a positive difference: the regime lost more.

    Attributes:
        regime: Not cross-entropy.
        setting: Such as `w4a4`.
        difference: Mean over pairs with Student's 95 % interval and the paired t-test's p value.
        holm_p: The p value corrected for all comparisons of the chapter; None where there is none.
    """

    regime: str
    setting: str
    difference: MeanTest
    holm_p: float | None

    @property
    def told(self) -> bool:
        """Whether the two can be told apart."""
        return self.holm_p is not None and self.holm_p < ALPHA

    @property
    def interval(self) -> Interval | None:
        """Of the difference."""
        return self.difference.interval


def regime_means(chapter: Chapter) -> list[RegimeMean]:
    """Means over seeds of the float network's scores, and of error change, swap rate and ECE at every setting."""
    found = []
    for regime in chapter.regimes:
        runs = chapter.of(regime)
        found += [
            RegimeMean(regime, None, name, mean_test([value(run) for run in runs])) for name, value in _FIGURES.items()
        ]
        for setting in chapter.settings:
            rows = [run.settings[setting] for run in runs if setting in run.settings]
            found += [
                RegimeMean(regime, setting, name, mean_test([getattr(row, name) for row in rows]))
                for name in ("error_change", "swap_rate", "ece")
                if rows
            ]
    return found


def compare_regimes(chapter: Chapter) -> list[RegimeComparison]:
    """Paired t-tests of every regime against cross-entropy at every setting, with Holm's correction over all of them.

    Pairs have one recipe and one seed; several runs of a regime with both are averaged first.

    Args:
        chapter: Runs that may be compared.

    Returns:
        By regime, then setting; empty without cross-entropy or without pairs.
    """
    found = []
    for regime in chapter.regimes:
        pairs = pairs_with_baseline(chapter, regime)
        for setting in chapter.settings:
            differences = [
                _mean_error(own, setting) - _mean_error(base, setting)
                for own, base in pairs
                if all(setting in run.settings for run in (*own, *base))
            ]
            if differences:
                found.append((regime, setting, mean_test(differences)))
    tested = [place for place, (_, _, test) in enumerate(found) if test.p_value is not None]
    corrected = dict(zip(tested, holm([found[place][2].p_value or 0.0 for place in tested]), strict=True))
    return [RegimeComparison(*row, corrected.get(place)) for place, row in enumerate(found)]


def pairs_with_baseline(chapter: Chapter, regime: str) -> list[tuple[tuple[Run, ...], tuple[Run, ...]]]:
    """Runs of a regime beside those of cross-entropy with the same recipe and seed.

    Returns:
        One entry a pair; either side has several runs where a run was repeated. Empty for cross-entropy itself.
    """
    if regime == BASELINE:
        return []
    own, base = _by_pairing(chapter.of(regime)), _by_pairing(chapter.of(BASELINE))
    return [(own[key], base[key]) for key in own if key in base]


def _by_pairing(runs: Sequence[Run]) -> dict[tuple[str, int], tuple[Run, ...]]:
    found: dict[tuple[str, int], tuple[Run, ...]] = {}
    for run in runs:
        if run.recipe is not None and run.seed is not None:
            key = (run.recipe, run.seed)
            found[key] = (*found.get(key, ()), run)
    return found


def _mean_error(runs: Sequence[Run], setting: str) -> float:
    return fmean(run.settings[setting].error_change for run in runs)
