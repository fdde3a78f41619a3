"""Pictures: numbers in, matplotlib axes out. Nothing here computes a result, uses pyplot or chooses a backend."""

from qcal.plots.epochs import epoch_figure, epoch_panel
from qcal.plots.forecast import forecast_figure, forecast_panel
from qcal.plots.margins_or_noise import margins_or_noise_figure, margins_or_noise_panel
from qcal.plots.migration import migration_figure, migration_panel
from qcal.plots.reliability import confidence_histogram, reliability_diagram, reliability_figure
from qcal.plots.reliability_grid import reliability_grid_figure
from qcal.plots.repair_table import repair_table_panel
from qcal.plots.risk_coverage import risk_coverage_panel
from qcal.plots.save import save_figure
from qcal.plots.selective_fallback import selective_fallback_panel
from qcal.plots.style import setting_colour
from qcal.plots.swap_curve import float_accuracy_panel, swap_curve_figure, swap_curve_panel
from qcal.plots.swaps import damage_per_swap_panel, swap_and_error_panel, swap_figure, swapped_confidence_panel
from qcal.plots.temperature_control import temperature_control_panel

__all__ = [
    "confidence_histogram",
    "damage_per_swap_panel",
    "epoch_figure",
    "epoch_panel",
    "float_accuracy_panel",
    "forecast_figure",
    "forecast_panel",
    "margins_or_noise_figure",
    "margins_or_noise_panel",
    "migration_figure",
    "migration_panel",
    "reliability_diagram",
    "reliability_figure",
    "reliability_grid_figure",
    "repair_table_panel",
    "risk_coverage_panel",
    "save_figure",
    "selective_fallback_panel",
    "setting_colour",
    "swap_and_error_panel",
    "swap_curve_figure",
    "swap_curve_panel",
    "swap_figure",
    "swapped_confidence_panel",
    "temperature_control_panel",
]
