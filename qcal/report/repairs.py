"""What recalibration repairs, over runs: means of the figures that each run's analysis holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcal.functional.paired_t import MeanTest, mean_test
from qcal.report.runs import Chapter, Run
from qcal.robustness.repair import METHODS, RepairMethod

__all__ = ["Analyses", "MeanRepair", "mean_repairs", "repairs_over"]

Analyses = Mapping[str, Mapping[str, Any] | str]  # Any: JSON, laid out as `qcal.robustness.Analysis`


@dataclass(frozen=True)
class MeanRepair:
    """One repair of one regime at one setting, over runs.

    Attributes:
        regime: Its name.
        setting: Such as `w4a4`.
        method: `none` is as quantized.
        ece: After the repair.
        nll: Likewise, in nats.
        float_ece: Of the float network as trained.
        goal_ece: Of the float network, recalibrated likewise.
        goal_nll: Likewise, in nats.
        num_runs: Averaged over.
        num_reached: Runs of which the ECE is not distinguishably above that of the recalibrated float network.
    """

    regime: str
    setting: str
    method: RepairMethod
    ece: MeanTest
    nll: MeanTest
    float_ece: MeanTest
    goal_ece: MeanTest
    goal_nll: MeanTest
    num_runs: int
    num_reached: int


def mean_repairs(chapter: Chapter, analyses: Analyses) -> list[MeanRepair]:
    """Average the repairs of each regime.

    Args:
        chapter: Runs that may be compared.
        analyses: By name of the run; a text says why there is none.

    Returns:
        By regime, setting and method; nothing where no run had images to recalibrate on.
    """
    return [
        row
        for regime in chapter.regimes
        for setting in chapter.settings
        for row in repairs_over(chapter.of(regime), setting, analyses, name=regime)
    ]


def repairs_over(runs: Sequence[Run], setting: str, analyses: Analyses, *, name: str) -> list[MeanRepair]:
    """Average the repairs of some runs at one setting.

    Args:
        runs: Of one chapter.
        setting: Such as `w4a4`.
        analyses: By name of the run; a text says why there is none.
        name: What the runs have in common, for `MeanRepair.regime`.

    Returns:
        One a method; nothing where no run had images to recalibrate on.
    """
    found = [_repair(analyses.get(run.name, ""), setting) for run in runs]
    repairs = [repair for repair in found if repair is not None]
    return [_mean(name, setting, method, repairs) for method in METHODS] if repairs else []


def _repair(analysis: Mapping[str, Any] | str, setting: str) -> Mapping[str, Any] | None:  # Any: JSON
    if isinstance(analysis, str) or setting not in analysis["probabilities"]:
        return None
    repair: Mapping[str, Any] | None = analysis["probabilities"][setting]["repair"]
    return repair


def _mean(regime: str, setting: str, method: RepairMethod, repairs: Sequence[Mapping[str, Any]]) -> MeanRepair:
    outcomes = [next(each for each in repair["outcomes"] if each["method"] == method) for repair in repairs]
    gaps = [outcome["ece_gap"] for outcome in outcomes]
    return MeanRepair(
        regime,
        setting,
        method,
        ece=mean_test([outcome["ece"]["after"] for outcome in outcomes]),
        nll=mean_test([outcome["nll"]["after"] for outcome in outcomes]),
        float_ece=mean_test([repair["float_ece"] for repair in repairs]),
        goal_ece=mean_test([repair["recalibrated_float_ece"] for repair in repairs]),
        goal_nll=mean_test([repair["recalibrated_float_nll"] for repair in repairs]),
        num_runs=len(repairs),
        num_reached=sum(gap["low"] is not None and gap["low"] <= 0 for gap in gaps),
    )
