"""The answer of a report: three sentences made from the figures, or what cannot be told and what that would take."""

from collections.abc import Sequence
from statistics import fmean

from qcal.functional.bootstrap import Interval
from qcal.report.comparisons import ALPHA, RegimeComparison
from qcal.report.dilemma import FEWEST_REGIMES, FEWEST_RUNS, Association, Correlation
from qcal.report.regime import BASELINE
from qcal.report.repairs import MeanRepair
from qcal.report.runs import Chapter

__all__ = ["compared_answer", "dilemma_answer", "main_setting", "repaired_answer"]

_WORDS = {"overconfidence": "overconfident", "ece": "miscalibrated (ECE)"}
_MOST_NAMED = 3


def main_setting(chapter: Chapter) -> str:
    """The setting that a sentence on one setting speaks of: most swaps, among those that keep half of the accuracy.

    It is chosen by how much quantization broke, never by what the regimes made of it.
    """

    def mean(setting: str, name: str) -> float:
        return fmean(getattr(run.settings[setting], name) for run in chapter.runs if setting in run.settings)

    accuracy = fmean(run.scores.accuracy for run in chapter.runs)
    standing = [setting for setting in chapter.settings if mean(setting, "accuracy") >= accuracy / 2]
    return max(standing or chapter.settings, key=lambda setting: mean(setting, "swap_rate"))


def dilemma_answer(chapter: Chapter, found: Sequence[Association]) -> str:
    """Whether overconfidence protects from quantization.

    Args:
        chapter: The runs.
        found: Of one measure, at every setting.

    Returns:
        One sentence.
    """
    measure = _WORDS[found[0].measure]
    runs = f"{_count(len(chapter.runs), 'run')} of {_count(len(chapter.regimes), 'regime')}"
    unknown = f"Whether a more {measure} network loses less to quantization cannot be told from these runs"
    enough = [each for each in found if each.num_runs >= FEWEST_RUNS and each.plain.value is not None]
    if not enough:
        there = "is" if len(chapter.runs) == 1 else "are"
        return (
            f"{unknown}: there {there} {len(chapter.runs)}, and a correlation takes at least {FEWEST_RUNS} whose "
            "accuracy and confidence differ; add seeds and regimes."
        )
    told = [each for each in enough if each.partial.sign]
    if not told:
        return f"{unknown}: {_not_told(enough, runs)}"
    signs = {each.partial.sign for each in told}
    names = ", ".join(each.setting for each in told)
    if len(signs) == 2:
        less, more = (", ".join(each.setting for each in told if each.partial.sign == sign) for sign in (-1, 1))
        return (
            f"Over {runs}, the more {measure} the float network, the less error quantization added at {less}, and the "
            f"more at {more}, with float accuracy held fixed: no one answer holds for all settings."
        )
    main = _most_swapped(chapter, told)
    how = "less" if main.partial.sign < 0 else "more"
    return (
        f"Over {runs}, the more {measure} the float network, the {how} error quantization added: at {main.setting} the "
        f"rank correlation is {_signed(main.partial.value)} with float accuracy held fixed "
        f"({_range(main.partial.runs_jointly)}, jointly 95 % over {_count(len(found), 'setting')}; "
        f"{_signed(main.plain.value)} without holding it), and it can be told from 0 at {len(told)} of {len(found)} "
        f"({names}){_over_regimes(main.partial, len(chapter.regimes))}."
    )


def compared_answer(chapter: Chapter, found: Sequence[RegimeComparison]) -> str:
    """Which regimes lost more, or less, than cross-entropy.

    Args:
        chapter: The runs.
        found: All comparisons.

    Returns:
        One sentence.
    """
    unknown = f"Whether a regime loses more than {BASELINE} cannot be told from these runs"
    if BASELINE not in chapter.regimes:
        return f"{unknown}: none was trained with it; add a run of `regimes/cross_entropy.yaml` for each seed."
    if len(chapter.regimes) == 1:
        return f"{unknown}: all were trained with {BASELINE}; add another regime."
    tested = [each for each in found if each.holm_p is not None]
    if not tested:
        return f"{unknown}: a paired test takes three seeds that both were trained with, under one recipe; add seeds."
    told = sorted((each for each in tested if each.told), key=lambda each: -abs(each.difference.mean))
    of = f"{_count(len(tested), 'comparison')}, paired by seed (t-test, Holm-corrected)"
    if not told:
        best = min(tested, key=lambda each: each.difference.p_value or 0)
        return (
            f"{unknown}: in none of {of}, can the two be told apart; nearest is {best.regime} at {best.setting}, "
            f"{_points(best)}, corrected p {best.holm_p:.2g}."
        )
    # The largest of each regime: the settings of one regime tell much the same.
    largest: dict[str, RegimeComparison] = {}
    for each in told:
        largest.setdefault(each.regime, each)
    named = list(largest.values())[:_MOST_NAMED]
    parts = [
        f"{'more' if each.difference.mean > 0 else 'less'} error to {each.regime} at {each.setting} ({_points(each)})"
        for each in named
    ]
    rest = "" if len(told) == len(named) else " (named: the largest, one a regime)"
    return (
        f"Beside {BASELINE}, quantization added {', '.join(parts)}: in {len(told)} of {of}, the two are told apart at "
        f"{ALPHA:g}{rest}."
    )


def repaired_answer(setting: str, found: Sequence[MeanRepair]) -> str:
    """Whether recalibrating after quantization leaves the dilemma behind.

    Args:
        setting: From `main_setting`.
        found: One a method, over all runs; empty if no run could be recalibrated.

    Returns:
        One sentence.
    """
    if not found:
        return (
            "What recalibration after quantization repairs cannot be told from these runs: none has logits of images "
            "kept aside for it; give the data module a `recalibration_size`."
        )
    plain, refitted = (next(each for each in found if each.method == name) for name in ("none", "refitted_temperature"))
    share = refitted.num_reached / refitted.num_runs
    verdict = (
        "so that recalibrating afterwards leaves the dilemma behind as far as ECE can tell"
        if share == 1
        else "so that recalibrating afterwards mends most of it"
        if share >= 0.5
        else "so that a part of the dilemma stays"
    )
    return (
        f"At {setting}, one temperature fitted after quantization takes the ECE from {_percent(plain.ece.mean)} to "
        f"{_percent(refitted.ece.mean)} %{_test_range(refitted.ece.interval)} on average over "
        f"{_count(refitted.num_runs, 'run')}, beside {_percent(refitted.goal_ece.mean)} % of the float networks "
        f"recalibrated likewise; in {refitted.num_reached} of {refitted.num_runs} it is not distinguishably above "
        f"that, {verdict}."
    )


def _not_told(found: Sequence[Association], runs: str) -> str:
    by_accuracy = [each for each in found if each.verdict == "follows accuracy"]
    if by_accuracy:
        one = max(by_accuracy, key=lambda each: abs(each.plain.value or 0))
        if one.partial.value is None:
            return (
                f"over {runs} the two are correlated at {one.setting} ({_signed(one.plain.value)}, "
                f"{_range(one.plain.runs_jointly)}), but float accuracy ranks the runs alike, so that with it held "
                "fixed nothing is left to correlate."
            )
        return (
            f"over {runs} the two are correlated at {', '.join(each.setting for each in by_accuracy)}, most at "
            f"{one.setting} ({_signed(one.plain.value)}, {_range(one.plain.runs_jointly)}), but with float accuracy "
            "held "
            f"fixed every interval holds 0 (there {_signed(one.partial.value)}, {_range(one.partial.runs_jointly)}, "
            f"jointly 95 % over {_count(len(found), 'setting')})."
        )
    values = [each.partial.value for each in found if each.partial.value is not None]
    if not values:
        return f"over {runs} float accuracy leaves nothing to correlate."
    widest = max(found, key=lambda each: abs(each.partial.value or 0))
    return (
        f"over {runs} the rank correlation with float accuracy held fixed lies between {_signed(min(values))} and "
        f"{_signed(max(values))} over {_count(len(found), 'setting')}, and every interval holds 0 ({widest.setting}: "
        f"{_range(widest.partial.runs_jointly)}, jointly 95 %)."
    )


def _over_regimes(partial: Correlation, num_regimes: int) -> str:
    if partial.regimes is None:
        return f"; whether other regimes would line up so, {num_regimes} cannot tell (at least {FEWEST_REGIMES})"
    if partial.sign_over_regimes == partial.sign:
        return f"; it holds when whole regimes are drawn again, too ({_range(partial.regimes)})"
    return f"; but not when whole regimes are drawn again ({_range(partial.regimes)}), so other regimes may differ"


def _most_swapped(chapter: Chapter, found: Sequence[Association]) -> Association:
    def swaps(each: Association) -> float:
        return fmean(run.settings[each.setting].swap_rate for run in chapter.runs if each.setting in run.settings)

    return max(found, key=swaps)


def _points(each: RegimeComparison) -> str:
    low_high = "" if each.interval is None else f", {_signed_percent(each.interval.low)} to "
    high = "" if each.interval is None else _signed_percent(each.interval.high)
    return f"{_signed_percent(each.difference.mean)} points{low_high}{high}"


def _test_range(interval: Interval | None) -> str:
    return "" if interval is None else f" ({_percent(interval.low)} to {_percent(interval.high)})"


def _range(interval: Interval | None) -> str:
    return "no interval" if interval is None else f"{_signed(interval.low)} to {_signed(interval.high)}"


def _signed(value: float | None) -> str:
    return "undefined" if value is None else _minus(f"{value:+.2f}")


def _percent(share: float) -> str:
    return _minus(f"{100 * share:.1f}")


def _signed_percent(share: float) -> str:
    return _minus(f"{100 * share:+.1f}")


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
