"""Smooth ECE: calibration error with a Gaussian kernel in place of bins, its width chosen by the error itself.

The residuals `r_i = p_i - c_i` are masses at the confidences `p_i`; each is spread over [0, 1] by a Gaussian (standard
deviation `bandwidth`) that is reflected at 0 and at 1, so that no mass leaves and none is invented:

    smooth_ece(bandwidth) = integral over t in [0, 1] of |1/N sum_i r_i K(t, p_i)|,   integral of K(., p) = 1 for all p.

It follows that residuals of one sign give `|mean confidence - accuracy|` at every bandwidth. The published package
(relplot 1.0.3) divides by a density that loses most of the samples at confidence 1, and overstates the error of a
network that has many: by 41 % where a quarter of the confidences are exactly 1, by 19 % where a fifteenth are.

The masses are put on a grid of 16384 cells (shared linearly between the two nearest nodes) and smoothed by FFT on the
circle that the interval and its mirror image make. There the reflected Gaussian is a plain one, of known
transform and of mass 1 exactly; below four cells, 2.4e-4, it is sampled and normalised, so that it stays positive.

References:
    Blasiok, Nakkiran: Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing, ICLR 2024 (arXiv 2309.12236),
    definition 3 (fixed point) and section 3 (reflected kernel).
"""

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_confidence

__all__ = ["smooth_ece", "smooth_ece_at_bandwidth", "smooth_ece_bandwidth"]

_CELLS = 1 << 14
_NARROW = 4  # cells: a Gaussian this wide has less than 1e-34 of its transform beyond what the grid resolves
_HALVINGS = 40  # of the bandwidth's range [0, 1]; leaves 1e-12


def smooth_ece(confidence: Tensor, correct: Tensor) -> Tensor:
    """Smooth calibration error at the bandwidth that equals it (the fixed point of definition 3).

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Returns:
        0-dim float64 in [0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> round(smooth_ece(torch.tensor([0.75, 1.0]), torch.tensor([False, False])).item(), 9)
        0.875
    """
    bandwidth = smooth_ece_bandwidth(confidence, correct)
    return smooth_ece_at_bandwidth(confidence, correct, bandwidth=bandwidth)


def smooth_ece_at_bandwidth(confidence: Tensor, correct: Tensor, *, bandwidth: float) -> Tensor:
    """Smooth calibration error at a given bandwidth, 0-dim float64; falls as the bandwidth grows.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        bandwidth: Standard deviation of the Gaussian before reflection, in (0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: as `smooth_ece`; `bandwidth` outside (0, 1].

    Example:
        >>> confidence, correct = torch.tensor([0.25, 0.75]), torch.tensor([True, False])
        >>> fine = smooth_ece_at_bandwidth(confidence, correct, bandwidth=0.01)
        >>> coarse = smooth_ece_at_bandwidth(confidence, correct, bandwidth=1.0)
        >>> round(fine.item(), 6), round(coarse.item(), 6)
        (0.75, 0.004856)
    """
    if not 0 < bandwidth <= 1:
        raise ValueError(f"`bandwidth` must be in (0, 1], got {bandwidth}. It is a width on the axis of confidence.")
    check_confidence(confidence, correct)
    return _smoothed(_spectrum(confidence, correct), bandwidth)


def smooth_ece_bandwidth(confidence: Tensor, correct: Tensor) -> float:
    """The bandwidth that equals its own smooth calibration error, in (0, 1], to 1e-12.

    It exists and is unique because `smooth_ece_at_bandwidth` falls with the bandwidth and is at most 1.
    Each of the 40 halvings waits for the device.

    Raises:
        TypeError: wrong types.
        ValueError: as `smooth_ece`.

    Example:
        >>> round(smooth_ece_bandwidth(torch.tensor([0.75, 1.0]), torch.tensor([False, False])), 9)
        0.875
    """
    check_confidence(confidence, correct)
    spectrum = _spectrum(confidence, correct)
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if bool(_smoothed(spectrum, middle) > middle):
            low = middle
        else:
            high = middle
    return high


def _spectrum(confidence: Tensor, correct: Tensor) -> Tensor:
    """FFT of the residual masses on the circle of `2 * _CELLS` nodes: the interval, then its mirror image."""
    place = confidence.double() * _CELLS
    left = place.floor().clamp(max=_CELLS - 1)
    right_share = place - left
    mass = (confidence.double() - correct.double()) / len(confidence)
    node = left.long()
    circle = mass.new_zeros(2 * _CELLS)
    circle.index_add_(0, node, mass * (1 - right_share)).index_add_(0, node + 1, mass * right_share)
    mirrored = circle.flip(0).roll(1)  # node j to node -j; 0 and _CELLS stay
    spectrum: Tensor = torch.fft.rfft((circle + mirrored) / 2)
    return spectrum


def _smoothed(spectrum: Tensor, bandwidth: float) -> Tensor:
    """Sum of the absolute smoothed masses; half of the mass lies on each half of the circle, so all of it is summed."""
    smooth: Tensor = torch.fft.irfft(spectrum * _kernel_spectrum(bandwidth, spectrum.device), n=2 * _CELLS)
    return smooth.abs().sum()


def _kernel_spectrum(bandwidth: float, device: torch.device) -> Tensor:
    """Transform of the Gaussian of mass 1 on the circle of length 2, `(_CELLS + 1,)` float64; 1 at frequency 0."""
    node = torch.arange(_CELLS + 1, dtype=torch.float64, device=device)
    if bandwidth * _CELLS >= _NARROW:
        return torch.exp(-0.5 * (torch.pi * bandwidth * node).square())
    half = torch.exp(-0.5 * (node / (bandwidth * _CELLS)).square())
    circle = torch.cat([half, half[1:-1].flip(0)])
    spectrum: Tensor = torch.fft.rfft(circle / circle.sum())
    return spectrum.real
