"""All that a chapter of the report says, computed once: the numbers that answer, pictures and tables are made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcal.report.answer import compared_answer, dilemma_answer, main_setting, repaired_answer
from qcal.report.comparisons import RegimeComparison, RegimeMean, compare_regimes, regime_means
from qcal.report.dilemma import Association, Measure, associations
from qcal.report.logit_figures import LogitFigures, logit_figures, open_logits, run_analysis
from qcal.report.margins_of_regimes import MeanMargins, mean_margins
from qcal.report.repairs import Analyses, MeanRepair, mean_repairs, repairs_over
from qcal.report.runs import Chapter

__all__ = ["ChapterFigures", "chapter_figures"]


@dataclass(frozen=True, eq=False)  # eq: tensors have no truth value
class ChapterFigures:
    """The numbers of a chapter.

    Attributes:
        chapter: Its runs.
        measure: What the answer and the picture of the dilemma are about.
        main_setting: Of sentences and pictures on one setting.
        answer: Three sentences.
        associations: By measure of the float network, one a setting.
        means: Of the regimes.
        comparisons: Of the regimes with cross-entropy.
        repairs: Of the regimes.
        margins: Of the regimes beside cross-entropy.
        logits: By name of the run, for those that have logits.
        missing: Why the others have none.
        analyses: By name of the run; a text says why there is none.
    """

    chapter: Chapter
    measure: Measure
    main_setting: str
    answer: tuple[str, str, str]
    associations: dict[Measure, list[Association]]
    means: list[RegimeMean]
    comparisons: list[RegimeComparison]
    repairs: list[MeanRepair]
    margins: list[MeanMargins]
    logits: dict[str, LogitFigures]
    missing: dict[str, str]
    analyses: Analyses


def chapter_figures(chapter: Chapter, *, cache: Path, measure: Measure = "overconfidence") -> ChapterFigures:
    """Compute what a chapter says.

    Args:
        chapter: Runs that may be compared.
        cache: Where analyses are kept for the next report.
        measure: Of the float network, for the answer.

    Returns:
        The numbers.

    Raises:
        OSError: The cache cannot be written.
    """
    analyses: dict[str, Mapping[str, Any] | str] = {}  # Any: JSON
    logits: dict[str, LogitFigures] = {}
    missing: dict[str, str] = {}
    for run in chapter.runs:
        opened = open_logits(run.folder)
        analyses[run.name] = run_analysis(run.folder, opened, cache)
        if isinstance(opened, str):
            missing[run.name] = opened
        else:
            logits[run.name] = logit_figures(opened)
    measures: tuple[Measure, Measure] = ("overconfidence", "ece")
    found = {each: associations(chapter, each) for each in measures}
    comparisons = compare_regimes(chapter)
    setting = main_setting(chapter)
    return ChapterFigures(
        chapter=chapter,
        measure=measure,
        main_setting=setting,
        answer=(
            dilemma_answer(chapter, found[measure]),
            compared_answer(chapter, comparisons),
            repaired_answer(setting, repairs_over(chapter.runs, setting, analyses, name="all runs")),
        ),
        associations=found,
        means=regime_means(chapter),
        comparisons=comparisons,
        repairs=mean_repairs(chapter, analyses),
        margins=mean_margins(chapter, cache, readable=set(logits)),
        logits=logits,
        missing=missing,
        analyses=analyses,
    )
