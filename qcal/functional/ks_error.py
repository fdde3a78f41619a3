"""Kolmogorov-Smirnov calibration error: calibration without bins."""

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_confidence

__all__ = ["ks_calibration_error"]


def ks_calibration_error(confidence: Tensor, correct: Tensor) -> Tensor:
    """Largest gap between the cumulative confidence and the cumulative accuracy, samples sorted by confidence.

    `max_t |1/N sum_{i: p_i <= t} (p_i - c_i)|`, with `c_i` 1 where correct, else 0. For a network that is over- (or
    under-) confident everywhere it equals `|overconfidence|`.

    The maximum is over thresholds `t`, so that equal confidences enter together and the order of the samples does not
    matter; the paper's code goes sample by sample.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Returns:
        0-dim float64 in [0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> ks_calibration_error(torch.tensor([0.5, 1.0]), torch.tensor([True, False])).item()
        0.25

    References:
        Gupta, Rahimi, Ajanthan, Mensink, Sminchisescu, Hartley: Calibration of Neural Networks using Splines,
        ICLR 2021, equation 5.
    """
    check_confidence(confidence, correct)
    values, group, _ = torch.unique(confidence.double(), return_inverse=True, return_counts=True)
    residual = confidence.double() - correct.double()
    per_value = torch.zeros_like(values).index_add_(0, group, residual)
    return per_value.cumsum(0).abs().amax() / len(confidence)
