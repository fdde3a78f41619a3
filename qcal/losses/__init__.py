"""Training regimes: losses `(logits, target) -> 0-dim` that move a classifier's confidence on purpose.

Cross-entropy itself is `torch.nn.CrossEntropyLoss`. The same word means the same thing in every class, so that a
command line that swaps one loss for another cannot misread an argument left over:

- `gamma`: exponent of a probability weight, 0 = cross-entropy.
- `epsilon`: share of the uniform distribution in the target, 0 = cross-entropy.
- `penalty_weight`: coefficient of a term added to cross-entropy, 0 = cross-entropy. It is not called `weight`, which in
  `torch.nn.CrossEntropyLoss` means one weight per class.
- `mix`: share of the loss in a mixture with cross-entropy, 0 = cross-entropy.
- `temperature`: divisor of the logits, 1 = cross-entropy.
- `strength`: the dial's position in [-1, 1], 0 = cross-entropy.
"""

from qcal.losses.calibrating import BrierLoss, DCALoss, MDCALoss, MMCELoss
from qcal.losses.focal import DualFocalLoss, FLSDLoss, FocalLoss, InverseFocalLoss
from qcal.losses.logit_scale import ConfidenceDial, LogitNormLoss, TrainingTemperatureLoss
from qcal.losses.regime import Direction, RegimeLoss
from qcal.losses.smoothing import ConfidencePenaltyLoss, LabelSmoothingLoss, MarginLabelSmoothingLoss, MaxSupLoss

__all__ = [
    "BrierLoss",
    "ConfidenceDial",
    "ConfidencePenaltyLoss",
    "DCALoss",
    "Direction",
    "DualFocalLoss",
    "FLSDLoss",
    "FocalLoss",
    "InverseFocalLoss",
    "LabelSmoothingLoss",
    "LogitNormLoss",
    "MDCALoss",
    "MMCELoss",
    "MarginLabelSmoothingLoss",
    "MaxSupLoss",
    "RegimeLoss",
    "TrainingTemperatureLoss",
]
