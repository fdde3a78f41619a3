"""qcal: train classifiers whose confidence was moved on purpose, quantize them, measure what confidence changed.

Importing `qcal` alone is cheap; each room is imported by its name (`qcal.quantization`, `qcal.robustness`, ...).
"""

__version__ = "0.1.0"
