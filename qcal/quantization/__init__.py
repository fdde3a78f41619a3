"""Post-training quantization that answers what a network would do at many settings, without changing it.

Where to look:

- settings: `setting`, `setting_words` (short forms), `resolve` and `specs` (what one means on a network)
- from a network to a plan: `preparation`; `graph` (export), `simplify`, `attention`, `fold`, `layers`, then `rules`,
  `sites` and `place` (which tensors are quantized); `modules` and its helpers for networks without a graph
- ranges: `observers` (what one pass keeps), `observers_in_parts` (of a pass shared out between processes), `ranges`,
  `mse_range`, `entropy_range`
- weights: `weights`, `weight_search`; methods: `equalization`, `bias_correction`, `adaround`
- running: `plan` (the door), `variants` (plain and equalized), `network`, `engines`, `quantizer`, `portions`,
  `sensitivity`, `summary`, `plan_file`
"""

from qcal.quantization.adaround import AdaRoundOptions
from qcal.quantization.engines import Engine
from qcal.quantization.fold import Unfolded
from qcal.quantization.observers import RangeObserver
from qcal.quantization.observers_in_parts import PartObserver, join_parts
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
    "PartObserver",
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
    "join_parts",
    "prepare",
]
