"""The pictures of an analysis: why predictions changed, and what repairs the probabilities."""

from collections.abc import Callable, Mapping
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qcal.functional.swap_curves import SwapCurve
from qcal.plots import (
    forecast_figure,
    migration_figure,
    repair_table_panel,
    risk_coverage_panel,
    selective_fallback_panel,
    swap_curve_figure,
)
from qcal.plots.repair_table import Unit
from qcal.plots.style import FLOAT
from qcal.robustness import Analysis, ProbabilityRepair

_SIZE = (5.2, 3.4)  # inches
_METHODS = {
    "none": "as quantized",
    "float_temperature": "float's T",
    "refitted_temperature": "refitted T",
    "noise_temperature": "T an image",
}


def draw_analysis(analysis: Analysis) -> dict[str, Figure]:
    """Draw what an analysis holds; what was not measured has no picture.

    Returns:
        By name: `swap_curve` (swaps against float confidence, float accuracy beneath), `migration-<setting>` of the
        setting with the most swaps, `risk_coverage`, `selective_fallback`, and with held-out images `forecast` and
        `repair`.
    """
    figures = {
        "swap_curve": swap_curve_figure({name: each.curves["confidence"][1] for name, each in analysis.swaps.items()}),
        "risk_coverage": _one(lambda ax: _risk_coverage(analysis, ax)),
        "selective_fallback": _one(lambda ax: _fallback(analysis, ax)),
    }
    worst = max(analysis.swaps, key=lambda name: analysis.swaps[name].shares.swapped.count)
    figures[f"migration-{worst}"] = migration_figure(analysis.swaps[worst].confidence_migration, setting=worst)
    reliability: dict[str, SwapCurve] = {
        name: each.forecast.reliability[1] for name, each in analysis.swaps.items() if each.forecast is not None
    }
    if reliability:
        figures["forecast"] = forecast_figure(reliability)
    repairs = {name: each.repair for name, each in analysis.probabilities.items() if each.repair is not None}
    if repairs:
        figures["repair"] = _repair_figure(repairs)
    return figures


def _one(draw: Callable[[Axes], Axes]) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    draw(figure.add_subplot())
    return figure


def _risk_coverage(analysis: Analysis, ax: Axes) -> Axes:
    changes = {name: each.risk_coverage for name, each in analysis.probabilities.items()}
    first = next(iter(changes.values()))
    curves = {FLOAT: (first.coverage, first.float_risk)}
    curves |= {name: (each.coverage, each.quant_risk) for name, each in changes.items()}
    areas = {FLOAT: first.float_aurc, **{name: each.quant_aurc for name, each in changes.items()}}
    return risk_coverage_panel(curves, ax=ax, areas=areas)


def _fallback(analysis: Analysis, ax: Axes) -> Axes:
    fallbacks = {name: each.fallback for name, each in analysis.probabilities.items()}
    chosen = {name: each.chosen for name, each in fallbacks.items() if each.chosen is not None}
    return selective_fallback_panel(
        {name: (each.share, each.accuracy) for name, each in fallbacks.items()},
        ax=ax,
        float_accuracy=next(iter(analysis.probabilities.values())).accuracy.before,
        chosen={name: (each.handed_over, each.accuracy.after) for name, each in chosen.items()},
    )


def _repair_figure(repairs: Mapping[str, ProbabilityRepair]) -> Figure:
    """ECE and NLL after each repair, beside each other."""
    figure = Figure(figsize=(10.4, 1.6 + 0.5 * len(repairs)), layout="constrained")
    some = next(iter(repairs.values()))
    units: tuple[tuple[Literal["ece", "nll"], str, float, Unit], ...] = (
        ("ece", "ECE, %", some.recalibrated_float_ece, "percent"),
        ("nll", "NLL, nats", some.recalibrated_float_nll, "nats"),
    )
    for ax, (score, title, reference, unit) in zip(figure.subplots(1, 2), units, strict=True):
        after = [[getattr(outcome, score).after for outcome in each.outcomes] for each in repairs.values()]
        gaps = [[getattr(outcome, f"{score}_gap") for outcome in each.outcomes] for each in repairs.values()]
        repair_table_panel(
            list(repairs),
            [_METHODS[outcome.method] for outcome in some.outcomes],
            after,
            ax=ax,
            title=title,
            reference=reference,
            gap_low=[[gap.low for gap in row] for row in gaps],
            gap_high=[[gap.high for gap in row] for row in gaps],
            unit=unit,
        )
    return figure
