"""The pictures of a chapter, each with the caption that says what is shown, and of how many runs and images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from matplotlib.figure import Figure

from qcal.functional.calibration import reliability_from_sums
from qcal.functional.paired_t import MeanTest, mean_test
from qcal.plots import margins_or_noise_panel, reliability_grid_figure, swap_figure
from qcal.plots.dilemma import RegimePoints, RunPoint, dilemma_figure
from qcal.plots.regime_curves import RegimeCurve, regime_curves_figure
from qcal.plots.regime_repair import Mean, regime_repair_figure
from qcal.plots.regime_style import RegimeStyle, regime_styles
from qcal.plots.setting_axis import MOST_UPRIGHT
from qcal.plots.style import minus, percent
from qcal.report.chapter_figures import ChapterFigures
from qcal.report.dilemma import Association
from qcal.report.logit_figures import CURVE_BINS, FLOAT, RELIABILITY_BINS, add_bins
from qcal.report.regime import BASELINE
from qcal.report.runs import Run
from qcal.robustness.repair import METHODS
from qcal.robustness.repair_words import METHOD_WORDS

__all__ = ["Picture", "Section", "chapter_pictures"]

_MOST_DIAGRAMS = 6  # beside each other
_MOST_REGIMES = 5  # reliability diagrams below each other in one picture
_MOST_DRAWN = 24  # regimes with pictures of their own
_FEWEST_IN_BIN = 10  # images of a run; fewer say nothing of a share
_XLABELS = {"overconfidence": "overconfidence of the float network", "ece": "ECE of the float network"}


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the page.

    Attributes:
        name: Of its files.
        figure: What is drawn.
        heading: Above it; empty under a section's own.
        caption: Below it.
        titles: What a hover says, by identifier in the figure.
        runs: Name of the run, by identifier in the figure.
    """

    name: str
    figure: Figure
    heading: str
    caption: str
    titles: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Section:
    """Pictures on one question.

    Attributes:
        title: The question.
        pictures: None where there is nothing to draw.
        missing: Why, then.
        note: What to know before the pictures.
    """

    title: str
    pictures: list[Picture]
    missing: str = ""
    note: str = ""


def chapter_pictures(figures: ChapterFigures, *, numbers: dict[str, int]) -> list[Section]:
    """Draw a chapter.

    Args:
        figures: Its numbers.
        numbers: A number for each run's name, for the points' identifiers.

    Returns:
        Sections in the order of the page.
    """
    styles = regime_styles(figures.chapter.regimes, baseline=BASELINE)
    regimes, drawn = figures.chapter.regimes, _drawn(figures.chapter.regimes)
    note = (
        f"Drawn for {len(drawn)} of {len(regimes)} regimes, evenly from under- to overconfident; the figures of all "
        "are in the tables."
        if len(drawn) < len(regimes)
        else ""
    )
    no_logits = "None of these runs has its logits (`logits.npz`); run the study again to have them."
    return [
        Section("The dilemma", [_dilemma(figures, styles, numbers)]),
        Section("What swapped, and what it cost", _three_panels(figures), no_logits, note),
        Section("Where along confidence the swaps lie", _curves(figures, styles), no_logits),
        Section(
            "Margins or noise",
            _margins(figures),
            f"This takes runs with {BASELINE} and runs of another regime with the same recipe and seed, whose logits "
            "hold "
            "images that are not compared.",
        ),
        Section("Calibration", _reliability(figures), no_logits, note),
        Section(
            "What recalibration repairs",
            _repair(figures),
            "None of these runs kept images aside to recalibrate on; give the data module a `recalibration_size`.",
        ),
    ]


def _dilemma(figures: ChapterFigures, styles: dict[str, RegimeStyle], numbers: dict[str, int]) -> Picture:
    chapter, measure = figures.chapter, figures.measure
    panels, titles, names = {}, {}, {}
    for place, setting in enumerate(chapter.settings):
        panel = {}
        for regime in chapter.regimes:
            runs = [run for run in chapter.of(regime) if setting in run.settings]
            points = []
            for run in runs:
                x, y = getattr(run.scores, measure), run.settings[setting].error_change
                gid = f"point-{numbers[run.name]}-{place}"
                points.append(RunPoint(x, y, gid))
                names[gid] = run.name
                titles[gid] = (
                    f"{run.name}\n{run.regime}, seed {run.seed}\n{measure} {_signed(x)} %, error change {_signed(y)} "
                    "points, "
                    f"swapped {percent(run.settings[setting].swap_rate)} %"
                )
            if points:
                tests = [mean_test([getattr(point, axis) for point in points]) for axis in "xy"]
                panel[regime] = RegimePoints(points, (tests[0].mean, tests[1].mean), _ends(tests[0]), _ends(tests[1]))
        panels[setting] = panel
    found = {each.setting: each for each in figures.associations[measure]}
    fig = dilemma_figure(
        panels,
        styles=styles,
        subtitles={setting: _correlation(found[setting]) for setting in panels},
        xlabel=_XLABELS[measure],
    )
    caption = (
        f"Error that quantization added, against the {measure} of the float network, one panel a setting. A small "
        "point "
        f"is one of {len(chapter.runs)} runs, a large one the mean of a regime's runs with Student's 95 % intervals "
        f"(from three runs on). Each run is judged on {chapter.num_images:,} images. Above each panel: Spearman's rank "
        "correlation, and the partial one with float accuracy held fixed; * where the interval over resampled runs, "
        "jointly 95 % over all settings, does not hold 0."
    )
    return Picture("dilemma", fig, "", caption, titles, names)


def _three_panels(figures: ChapterFigures) -> list[Picture]:
    chapter, pictures = figures.chapter, []
    for regime in _drawn(chapter.regimes):
        runs = [run for run in chapter.of(regime) if run.name in figures.logits]
        settings = _common(figures, runs)
        if not settings:
            continue
        rows = {setting: [run.settings[setting] for run in runs] for setting in settings}
        swap_rate = [fmean(row.swap_rate for row in rows[setting]) for setting in settings]
        error_change = [fmean(row.error_change for row in rows[setting]) for setting in settings]
        fig = swap_figure(
            settings,
            swap_rate,
            error_change,
            [change / rate if rate else None for change, rate in zip(error_change, swap_rate, strict=True)],
            [torch.cat([figures.logits[run.name].swapped_confidence[setting] for run in runs]) for setting in settings],
            num_images=chapter.num_images if len(runs) == 1 else None,
        )
        caption = (
            f"{regime}: {_of_runs(runs, chapter.num_images)}. Means over runs; the swaps of all runs are pooled for "
            "damage "
            "per swap and for confidence. Intervals over runs are in the table of regimes."
        )
        pictures.append(Picture(f"swaps-{_file_name(regime)}", fig, regime, caption))
    _share_heights([picture.figure for picture in pictures])
    return pictures


def _share_heights(figures: Sequence[Figure]) -> None:
    """Give the panels of all regimes one vertical scale, so that they can be compared."""
    for place in range(3):
        axes = [figure.axes[place] for figure in figures]
        ends = [ax.get_ylim() for ax in axes]
        for ax in axes:
            ax.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))


def _curves(figures: ChapterFigures, styles: dict[str, RegimeStyle]) -> list[Picture]:
    panels: dict[str, dict[str, RegimeCurve]] = {}
    for setting in figures.chapter.settings:
        for regime in figures.chapter.regimes:
            curve = _curve(figures, regime, setting)
            if curve is not None:
                panels.setdefault(setting, {})[regime] = curve
    if not panels:
        return []
    caption = (
        "Share of predictions that quantization swapped, in ten equal bins of the float network's confidence; mean "
        "over "
        f"the runs of a regime ({_of_runs(figures.chapter.runs, figures.chapter.num_images)} in all), with Student's "
        "95 % "
        "interval over runs as a band, from three runs on. A run counts in a bin where it has at least "
        f"{_FEWEST_IN_BIN} images, a bin where half of the runs do."
    )
    return [Picture("swap-curves", regime_curves_figure(panels, styles=styles), "", caption)]


def _curve(figures: ChapterFigures, regime: str, setting: str) -> RegimeCurve | None:
    runs = [run for run in figures.chapter.of(regime) if run.name in figures.logits]
    parts = [figures.logits[run.name].swaps[setting] for run in runs if setting in figures.logits[run.name].swaps]
    if not parts:
        return None
    confidence, tests = [], []
    for place in range(CURVE_BINS):
        own = [part for part in parts if part.count[place] >= _FEWEST_IN_BIN]
        if own and len(own) >= len(parts) / 2:
            whole = add_bins(own)
            confidence.append(float(whole.confidence[place] / whole.count[place]))
            tests.append(mean_test([float(part.correct[place] / part.count[place]) for part in own]))
    if not tests:
        return None
    intervals = [_ends(test) or (float("nan"), float("nan")) for test in tests]
    return RegimeCurve(
        confidence,
        [test.mean for test in tests],
        [max(low, 0.0) for low, _ in intervals],
        [high for _, high in intervals],
    )


def _margins(figures: ChapterFigures) -> list[Picture]:
    regimes = list(dict.fromkeys(each.regime for each in figures.margins))
    if not regimes:
        return []
    settings = max(len([each for each in figures.margins if each.regime == regime]) for regime in regimes)
    columns = min(2 if settings <= MOST_UPRIGHT else 1, len(regimes))
    rows = -(-len(regimes) // columns)
    fig = Figure(figsize=(columns * max(4.6, 0.8 + settings), rows * 3.1), layout="constrained")
    axes = list(fig.subplots(rows, columns, squeeze=False).flat)
    for ax, regime in zip(axes, regimes, strict=False):
        own = [each for each in figures.margins if each.regime == regime]
        margins_or_noise_panel(
            [each.setting for each in own],
            [_estimate(each.difference) for each in own],
            [_estimate(each.margins) for each in own],
            [_estimate(each.noise) for each in own],
            ax=ax,
            runs=f"{regime} less {BASELINE}",
        )
    for ax in axes[len(regimes) :]:
        ax.set_axis_off()
    pairs = {each.difference.number for each in figures.margins}
    count = f"{min(pairs)}" if len(pairs) == 1 else f"{min(pairs)} to {max(pairs)}"
    caption = (
        f"Swap rate of a regime less that of {BASELINE}, forecast from the float network's margins and from noise "
        "measured on other images, and the parts that either owes: above 0, the regime swaps more. Means over "
        f"{count} pair{'s' if max(pairs) > 1 else ''} of runs with the same seed, with Student's 95 % interval over "
        "pairs, from three on."
    )
    return [Picture("margins-or-noise", fig, "", caption)]


def _reliability(figures: ChapterFigures) -> list[Picture]:
    chapter, pictures = figures.chapter, []
    with_logits = [run for run in chapter.runs if run.name in figures.logits]
    settings = _spread(_common(figures, with_logits), figures.main_setting)
    if not settings:
        return []
    regimes = [regime for regime in _drawn(chapter.regimes) if any(run.regime == regime for run in with_logits)]
    for start in range(0, len(regimes), _MOST_REGIMES):
        part = regimes[start : start + _MOST_REGIMES]
        rows = {}
        for regime in part:
            parts = [figures.logits[run.name].reliability for run in with_logits if run.regime == regime]
            rows[regime] = {
                label: reliability_from_sums(add_bins([each[label] for each in parts]), num_bins=RELIABILITY_BINS)
                for label in (FLOAT, *settings)
            }
        caption = (
            f"Accuracy against confidence of the float network and of {', '.join(settings)}, a row a regime: the "
            "images of "
            f"all runs of a regime pooled ({_of_runs(with_logits, chapter.num_images)} in all), 15 equal-width bins "
            "(lo, hi]. ECE and overconfidence above each diagram are those of the pooled images; the table of regimes "
            "has the "
            "means over runs."
        )
        number = "" if len(regimes) <= _MOST_REGIMES else f"-{start // _MOST_REGIMES + 1}"
        pictures.append(Picture(f"reliability{number}", reliability_grid_figure(rows), "", caption))
    return pictures


def _repair(figures: ChapterFigures) -> list[Picture]:
    own = [each for each in figures.repairs if each.setting == figures.main_setting]
    regimes = list(dict.fromkeys(each.regime for each in own))
    if not regimes:
        return []
    methods = {METHOD_WORDS[method]: [_mean(each.ece) for each in own if each.method == method] for method in METHODS}
    goal = [_mean(each.goal_ece) for each in own if each.method == METHODS[0]]
    fig = regime_repair_figure(regimes, methods, goal, title=f"{figures.main_setting}: ECE after each repair")
    runs = sum(each.num_runs for each in own if each.method == METHODS[0])
    caption = (
        f"ECE of {figures.main_setting} as quantized and after three repairs fitted on images kept aside: the float "
        "network's temperature reused, one temperature refitted, and one for each image from the noise forecast for "
        "it. "
        f"Means over {runs} runs, by regime, on {figures.chapter.num_images:,} images, with Student's 95 % interval "
        "over runs from "
        "three on. The upright line is the float network recalibrated likewise: at or left of it, nothing of the "
        "dilemma is left."
    )
    return [Picture("repair", fig, "", caption)]


def _drawn(regimes: Sequence[str]) -> list[str]:
    """The regimes that have pictures of their own: all, or as many as can be looked at, the first and the last too."""
    if len(regimes) <= _MOST_DRAWN:
        return list(regimes)
    return [regimes[round(step * (len(regimes) - 1) / (_MOST_DRAWN - 1))] for step in range(_MOST_DRAWN)]


def _common(figures: ChapterFigures, runs: Sequence[Run]) -> list[str]:
    """The settings that all of some runs have, in their records and in their logits."""
    return [
        setting
        for setting in figures.chapter.settings
        if runs and all(setting in run.settings and setting in figures.logits[run.name].swaps for run in runs)
    ]


def _spread(settings: Sequence[str], main: str) -> list[str]:
    """As many settings as fit beside the float network, evenly from the first to the last, `main` among them."""
    most = _MOST_DIAGRAMS - 1
    if len(settings) <= most:
        return list(settings)
    places = {round(step * (len(settings) - 1) / (most - 1)) for step in range(most)}
    chosen = [setting for place, setting in enumerate(settings) if place in places]
    if main in settings and main not in chosen:
        nearest = min(range(1, most - 1), key=lambda place: abs(settings.index(chosen[place]) - settings.index(main)))
        chosen[nearest] = main
    return chosen


def _correlation(each: Association) -> str:
    if each.plain.value is None:
        return "no spread to correlate"
    star = {name: "*" if part.sign else "" for name, part in (("plain", each.plain), ("partial", each.partial))}
    partial = "undefined" if each.partial.value is None else f"{minus(f'{each.partial.value:+.2f}')}{star['partial']}"
    return f"rank correlation {minus(f'{each.plain.value:+.2f}')}{star['plain']}, partial {partial}"


def _of_runs(runs: Sequence[Run], num_images: int) -> str:
    return f"{len(runs)} run{'' if len(runs) == 1 else 's'} of {num_images:,} images"


def _ends(test: MeanTest) -> tuple[float, float] | None:
    return None if test.interval is None else (test.interval.low, test.interval.high)


def _estimate(test: MeanTest) -> tuple[float, float, float]:
    low, high = _ends(test) or (test.mean, test.mean)
    return test.mean, low, high


def _mean(test: MeanTest) -> Mean:
    return (test.mean, *(_ends(test) or (None, None)))


def _signed(share: float) -> str:
    return minus(f"{100 * share:+.2f}")


def _file_name(text: str) -> str:
    signs = text.replace("+", "plus-").replace(" -", " minus-")
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in signs).split()).lower()
