"""Float against quantized: which predictions changed, what it cost, and the record that is written to disk."""

from qcal.robustness.analysis import Analysis, analyse, read_analysis, write_analysis
from qcal.robustness.comparison import Comparison, Scores, compare, score
from qcal.robustness.confidence_control import TemperatureControl, control_answer, temperature_control
from qcal.robustness.float_reference import FloatReference, float_reference
from qcal.robustness.forecast import SwapForecast
from qcal.robustness.logits import BatchLogits, Logits, interleave
from qcal.robustness.margins_or_noise import MarginsOrNoise, QuantizedRun, margins_or_noise
from qcal.robustness.paired_change import Change
from qcal.robustness.probabilities import ProbabilityAnalysis, analyse_probabilities
from qcal.robustness.probability_words import what_was_hurt
from qcal.robustness.record import (
    SCHEMA_VERSION,
    Record,
    build_record,
    read_logits,
    read_noise_logits,
    read_recalibration_logits,
    read_record,
    write_logits,
    write_record,
)
from qcal.robustness.repair import ProbabilityRepair, Recalibration, RepairOutcome
from qcal.robustness.repair_words import repair_answer, repair_table
from qcal.robustness.selective_fallback import SelectiveFallback
from qcal.robustness.study import Baseline, Grid, Study, prepare_grid, run_study
from qcal.robustness.swap_analysis import SwapAnalysis, analyse_swaps

__all__ = [
    "SCHEMA_VERSION",
    "Analysis",
    "Baseline",
    "BatchLogits",
    "Change",
    "Comparison",
    "FloatReference",
    "Grid",
    "Logits",
    "MarginsOrNoise",
    "ProbabilityAnalysis",
    "ProbabilityRepair",
    "QuantizedRun",
    "Recalibration",
    "Record",
    "RepairOutcome",
    "Scores",
    "SelectiveFallback",
    "Study",
    "SwapAnalysis",
    "SwapForecast",
    "TemperatureControl",
    "analyse",
    "analyse_probabilities",
    "analyse_swaps",
    "build_record",
    "compare",
    "control_answer",
    "float_reference",
    "interleave",
    "margins_or_noise",
    "prepare_grid",
    "read_analysis",
    "read_logits",
    "read_noise_logits",
    "read_recalibration_logits",
    "read_record",
    "repair_answer",
    "repair_table",
    "run_study",
    "score",
    "temperature_control",
    "what_was_hurt",
    "write_analysis",
    "write_logits",
    "write_record",
]
