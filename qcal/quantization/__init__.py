"""Post-training quantization that answers what a network would do at many settings, without changing it."""

from qcal.quantization.engines import Engine
from qcal.quantization.fold import Unfolded
from qcal.quantization.observers import RangeObserver
from qcal.quantization.place import FloatOperation, Layer
from qcal.quantization.plan import Plan, prepare
from qcal.quantization.quantizer import Grid, Quantizer
from qcal.quantization.setting import ActivationRange, Setting

__all__ = [
    "ActivationRange",
    "Engine",
    "FloatOperation",
    "Grid",
    "Layer",
    "Plan",
    "Quantizer",
    "RangeObserver",
    "Setting",
    "Unfolded",
    "prepare",
]
