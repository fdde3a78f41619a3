"""The tables of the page, as cells: what is read, and what they are sorted by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qcal.functional.bootstrap import Interval
from qcal.functional.paired_t import MeanTest
from qcal.plots.style import minus
from qcal.report.chapter_figures import ChapterFigures
from qcal.report.comparisons import RegimeMean
from qcal.report.regime import BASELINE
from qcal.report.runs import Run
from qcal.robustness.repair_words import METHOD_WORDS

__all__ = ["Cell", "Table", "chapter_tables", "runs_table", "settings_table"]

_DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: To read.
        key: To sort by; None goes last.
        run: Name of the run that the row is of, to light it up with its points.
    """

    text: str
    key: float | str | None
    run: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: Above it.
        caption: What is shown.
        head: Names of the columns.
        rows: Cells.
        kinds: `text` or `number` of each column.
    """

    title: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def kinds(self) -> list[Literal["text", "number"]]:
        """Of each column, by its cells."""
        return [
            "text" if any(isinstance(row[place].key, str) for row in self.rows) else "number"
            for place in range(len(self.head))
        ]


def chapter_tables(figures: ChapterFigures) -> list[Table]:
    """The tables of a chapter; one without rows is left out."""
    tables = [_associations(figures), _regimes(figures), _comparisons(figures), _repairs(figures), _margins(figures)]
    return [table for table in tables if table.rows]


def runs_table(runs: Sequence[Run]) -> Table:
    """One row a run: what it is, its float network, how long it took and the hash of its weights."""
    head = ["run", "regime", "seed", "model", "data", "images", "accuracy, %", "overconfidence, %", "ECE, %", "NLL"]
    head += ["epochs", "run, s", "study, s", "torch", "weights", "not measured"]
    rows = []
    for run in runs:
        scores, context = run.scores, run.context
        study = sum((context.get("seconds") or {}).values()) or None
        versions, weights = context.get("versions") or {}, str(context.get("weights_sha256") or "")
        rows.append(
            [
                Cell(run.name, run.name, run.name),
                _text(run.regime),
                _number(run.seed, "d"),
                _text(run.model),
                _text(run.data),
                _number(run.num_images, ",d"),
                _percent(scores.accuracy),
                _percent(scores.overconfidence, signed=True),
                _percent(scores.ece),
                _number(scores.nll, ".3f"),
                _number(context.get("epochs"), "d"),
                _number(run.seconds, ".0f"),
                _number(study, ".1f"),
                _text(str(versions.get("torch", _DASH))),
                _text(weights[:12] or _DASH),
                _text("; ".join(f"{what}: {why}" for what, why in run.errors.items()) or _DASH),
            ]
        )
    caption = "The float network of every run. Seconds of a run are those that its sweep noted; of a study, its own."
    return Table("Runs", caption, head, rows)


def settings_table(runs: Sequence[Run]) -> Table:
    """One row a run and setting."""
    head = ["run", "regime", "seed", "setting", "accuracy, %", "error change", "swapped, %", "harmful, %"]
    head += ["beneficial, %", "damage / swap", "ECE, %", "overconfidence, %", "NLL"]
    rows = [
        [
            Cell(run.name, run.name, run.name),
            _text(run.regime),
            _number(run.seed, "d"),
            _text(setting),
            _percent(each.accuracy),
            _percent(each.error_change, signed=True),
            _percent(each.swap_rate),
            _percent(each.harmful),
            _percent(each.beneficial),
            _number(each.damage_per_swap, "+.2f"),
            _percent(each.ece),
            _percent(each.overconfidence, signed=True),
            _number(each.nll, ".3f"),
        ]
        for run in runs
        for setting, each in run.settings.items()
    ]
    return Table("Every run at every setting", "Error change in points of percent.", head, rows)


def _associations(figures: ChapterFigures) -> Table:
    head = ["float network's", "setting", "runs", "rank correlation", "95 %", "partial", "95 %", "jointly 95 %"]
    head += ["95 %, regimes drawn", "verdict"]
    rows = []
    for measure, found in figures.associations.items():
        for each in found:
            rows.append(
                [
                    _text(measure),
                    _text(each.setting),
                    _number(each.num_runs, "d"),
                    _number(each.plain.value, "+.2f"),
                    _range(each.plain.runs),
                    _number(each.partial.value, "+.2f"),
                    _range(each.partial.runs),
                    _range(each.partial.runs_jointly),
                    _range(each.partial.regimes),
                    _text(each.verdict),
                ]
            )
    caption = (
        "Spearman's rank correlation of error change with the float network's overconfidence or ECE; the partial one "
        "holds "
        "float accuracy fixed. Percentile intervals of 10,000 bootstrap resamples of runs; jointly: wide enough to "
        "hold at "
        "all settings together (Bonferroni); regimes drawn: whole regimes are resampled. Negative: the more, the less "
        "error quantization added. The last column says what the joint interval of the partial correlation allows."
    )
    return Table("Does the error follow overconfidence?", caption, head, rows)


def _regimes(figures: ChapterFigures) -> Table:
    chapter = figures.chapter
    found = {(each.regime, each.setting, each.figure): each for each in figures.means}
    head = ["regime", "runs", "accuracy, %", "overconfidence, %", "ECE, %", "NLL"]
    head += [f"error change {setting}" for setting in chapter.settings]
    rows = []
    for regime in chapter.regimes:
        nll = found[regime, None, "nll"].test
        rows.append(
            [
                _text(regime),
                _number(len(chapter.of(regime)), "d"),
                _mean_percent(found[regime, None, "accuracy"]),
                _mean_percent(found[regime, None, "overconfidence"], signed=True),
                _mean_percent(found[regime, None, "ece"]),
                Cell(_with_range(f"{nll.mean:.3f}", nll, ".3f", 1), nll.mean),
                *(
                    _mean_percent(found.get((regime, setting, "error_change")), signed=True)
                    for setting in chapter.settings
                ),
            ]
        )
    caption = (
        "Means over the runs of each regime, with Student's 95 % interval from three runs on; the first columns are "
        "of the "
        "float network, error change is in points of percent."
    )
    return Table("Regimes", caption, head, rows)


def _comparisons(figures: ChapterFigures) -> Table:
    head = ["regime", "setting", "pairs", f"error change less that of {BASELINE}", "95 %", "p", "p, Holm", "told apart"]
    rows = [
        [
            _text(each.regime),
            _text(each.setting),
            _number(each.difference.number, "d"),
            _percent(each.difference.mean, signed=True),
            _range(each.interval, scale=100),
            _number(each.difference.p_value, ".3g"),
            _number(each.holm_p, ".3g"),
            _text("yes" if each.told else "no" if each.holm_p is not None else "too few pairs, or equal"),
        ]
        for each in figures.comparisons
    ]
    caption = (
        f"Each regime against {BASELINE}, in points of percent; positive: the regime lost more. Two-sided paired "
        "t-test over "
        "pairs of runs with the same recipe and seed; Holm's correction over all rows of this table, told apart below "
        "0.05."
    )
    return Table(f"Regimes against {BASELINE}", caption, head, rows)


def _repairs(figures: ChapterFigures) -> Table:
    head = ["regime", "setting", "probabilities", "runs", "ECE, %", "float recalibrated, %", "reached by", "NLL, nats"]
    head += ["float recalibrated, nats"]
    rows = [
        [
            _text(each.regime),
            _text(each.setting),
            _text(METHOD_WORDS[each.method]),
            _number(each.num_runs, "d"),
            Cell(_with_range(f"{100 * each.ece.mean:.1f}", each.ece, ".1f", 100), each.ece.mean),
            _percent(each.goal_ece.mean, ".1f"),
            Cell(f"{each.num_reached} of {each.num_runs}", each.num_reached / each.num_runs),
            _number(each.nll.mean, ".3f"),
            _number(each.goal_nll.mean, ".3f"),
        ]
        for each in figures.repairs
    ]
    caption = (
        "Means over the runs of each regime, with Student's 95 % interval from three runs on. Reached by: runs whose "
        "ECE is "
        "not distinguishably above that of their float network recalibrated likewise (paired bootstrap over images)."
    )
    return Table("What recalibration repairs", caption, head, rows)


def _margins(figures: ChapterFigures) -> Table:
    head = ["regime", "setting", "pairs", "measured", "forecast", "owed to margins", "owed to noise"]
    rows = [
        [
            _text(each.regime),
            _text(each.setting),
            _number(each.difference.number, "d"),
            *(
                Cell(_with_range(minus(f"{100 * test.mean:+.1f}"), test, "+.1f", 100), test.mean)
                for test in (each.measured, each.difference, each.margins, each.noise)
            ),
        ]
        for each in figures.margins
    ]
    caption = (
        f"Swap rate less that of {BASELINE}, in points of percent, with Student's 95 % interval over pairs of runs."
    )
    return Table("Margins or noise", caption, head, rows)


def _text(text: str) -> Cell:
    return Cell(text, text)


def _number(value: float | None, form: str) -> Cell:
    return Cell(_DASH, None) if value is None else Cell(minus(format(value, form)), float(value))


def _percent(share: float, form: str = ".2f", *, signed: bool = False) -> Cell:
    return Cell(minus(format(100 * share, f"{'+' if signed else ''}{form}")), share)


def _mean_percent(mean: RegimeMean | None, *, signed: bool = False) -> Cell:
    if mean is None:
        return Cell(_DASH, None)
    form = f"{'+' if signed else ''}.1f"
    return Cell(_with_range(minus(format(100 * mean.test.mean, form)), mean.test, form, 100), mean.test.mean)


def _with_range(text: str, test: MeanTest, form: str, scale: float) -> str:
    return text if test.interval is None else f"{text} ({_ends(test.interval, form, scale)})"


def _range(interval: Interval | None, *, scale: float = 1) -> Cell:
    form = "+.2f"
    return Cell(_DASH, None) if interval is None else Cell(_ends(interval, form, scale), interval.low)


def _ends(interval: Interval, form: str, scale: float) -> str:
    return minus(f"{format(scale * interval.low, form)} to {format(scale * interval.high, form)}")
