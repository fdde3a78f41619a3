"""Float against quantized: which predictions changed, what it cost, and the record that is written to disk."""

from qcal.robustness.comparison import Comparison, Scores, compare, score
from qcal.robustness.record import (
    SCHEMA_VERSION,
    Record,
    build_record,
    read_logits,
    read_record,
    write_logits,
    write_record,
)
from qcal.robustness.study import Study, run_study

__all__ = [
    "SCHEMA_VERSION",
    "Comparison",
    "Record",
    "Scores",
    "Study",
    "build_record",
    "compare",
    "read_logits",
    "read_record",
    "run_study",
    "score",
    "write_logits",
    "write_record",
]
