"""How the weights of one layer, and one stored tensor, are quantized: what is left of a setting on a given network."""

from dataclasses import dataclass

from qcal.functional.affine import Symmetry
from qcal.quantization.setting import (
    ACTIVATION_PERCENTILE,
    WEIGHT_PERCENTILE,
    ActivationRange,
    ActivationSymmetry,
    Granularity,
    WeightRange,
)


@dataclass(frozen=True)
class WeightSpec:
    """How the weights of one layer are quantized; the fields are those of `Setting`."""

    bits: int
    range: WeightRange = "minmax"
    symmetry: Symmetry = "restricted"
    granularity: Granularity = "per_channel"
    percentile: float = WEIGHT_PERCENTILE


@dataclass(frozen=True)
class ActivationSpec:
    """How one stored tensor is quantized; the fields are those of `Setting`."""

    bits: int
    range: ActivationRange = "minmax"
    symmetry: ActivationSymmetry = "affine"
    percentile: float = ACTIVATION_PERCENTILE
