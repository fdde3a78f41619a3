"""Post-training quantization that answers what a network would do at many settings, without changing it."""

from qcal.quantization.adaround import AdaRoundOptions
from qcal.quantization.engines import Engine
from qcal.quantization.fold import Unfolded
from qcal.quantization.observers import RangeObserver
from qcal.quantization.placement import FloatOperation, Layer, Placement, StoredTensor
from qcal.quantization.plan import Plan
from qcal.quantization.preparation import prepare
from qcal.quantization.quantizer import Grid, Quantizer
from qcal.quantization.rules import PlacementName
from qcal.quantization.sensitivity import Sensitivity, describe_sensitivity
from qcal.quantization.setting import ActivationRange, Override, Setting

__all__ = [
    "ActivationRange",
    "AdaRoundOptions",
    "Engine",
    "FloatOperation",
    "Grid",
    "Layer",
    "Override",
    "Placement",
    "PlacementName",
    "Plan",
    "Quantizer",
    "RangeObserver",
    "Sensitivity",
    "Setting",
    "StoredTensor",
    "Unfolded",
    "describe_sensitivity",
    "prepare",
]
