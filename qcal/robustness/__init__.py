"""Float against quantized: which predictions changed, what it cost, and the record that is written to disk."""

from qcal.robustness.comparison import Comparison, Scores, compare, score
from qcal.robustness.logits import BatchLogits, Logits, interleave
from qcal.robustness.record import (
    SCHEMA_VERSION,
    Record,
    build_record,
    read_logits,
    read_recalibration_logits,
    read_record,
    write_logits,
    write_record,
)
from qcal.robustness.study import Baseline, Grid, Study, prepare_grid, run_study

__all__ = [
    "SCHEMA_VERSION",
    "Baseline",
    "BatchLogits",
    "Comparison",
    "Grid",
    "Logits",
    "Record",
    "Scores",
    "Study",
    "build_record",
    "compare",
    "interleave",
    "prepare_grid",
    "read_logits",
    "read_recalibration_logits",
    "read_record",
    "run_study",
    "score",
    "write_logits",
    "write_record",
]
