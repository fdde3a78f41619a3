"""Vector scaling: a scale and an offset for each class, fitted to held-out labels.

`softmax(w * z + b)` with `w, b` of length C. The mean negative log-likelihood is convex in `(w, b)`; it is minimised in
float64 by Newton steps with halving, from the best temperature, on logits divided by their own size. With the exact
Hessian ten steps do what takes L-BFGS a thousand gradients. The offsets are shifted to mean 0, since a common offset
changes nothing.

References:
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.proper_scores import nll
from qcal.functional.temperature import finite_logits, fit_temperature

__all__ = ["VectorScalingFit", "fit_vector_scaling"]

_MOST_STEPS = 30  # a minimum takes about ten; towards one at infinity, the gain left falls by e a step and stays above
_CONVERGED = 1e-18  # gain left, in nats
_QUADRATIC = 1e-9  # below this gain whole steps are safe, and float64 could no longer compare the losses
_MOST_HALVINGS = 40
_RIDGE = 1e-11  # of the Hessian's mean diagonal: makes the direction of a common offset solvable


@dataclass(frozen=True)
class VectorScalingFit:
    """Result of `fit_vector_scaling`.

    Attributes:
        scale: `(C,)` float64, factor of each class's logit.
        bias: `(C,)` float64, offset of each class's logit; mean 0.
        nll_before: Mean negative log-likelihood of the logits as they are, in nats.
        nll_after: The same after scaling.
        gain_left: What another Newton step would take off the NLL, in nats: how far from the minimum the search ended.
        converged: Whether there is a minimum and it was reached (`gain_left` below 1e-18).
        unseen_classes: Number of classes that `target` never names; their best offset is minus infinity.
    """

    scale: Tensor
    bias: Tensor
    nll_before: float
    nll_after: float
    gain_left: float
    converged: bool
    unseen_classes: int

    @property
    def message(self) -> str:
        """What was found, in a sentence for people; without convergence, the likely reason and what to do."""
        change = f"NLL {self.nll_before:.6g} -> {self.nll_after:.6g}"
        if self.converged:
            return f"vector scaling converged: {change}."
        reason = (
            f"{self.unseen_classes} classes have no sample" if self.unseen_classes else "the classes may be separable"
        )
        return (
            f"vector scaling has no finite optimum or did not reach it: {reason}. "
            f"Recalibrate on more samples, or use one temperature. ({change})"
        )


def fit_vector_scaling(logits: Tensor, target: Tensor) -> VectorScalingFit:
    """Find the per-class scale `w` and offset `b` that minimise the mean NLL of `softmax(w * logits + b)`.

    Args:
        logits: `(N, C)` floating, finite; held out from training, and not the test set. 2 C numbers are fitted, so N
            should be many times that.
        target: `(N,)` int64 class indices.

    Returns:
        A `VectorScalingFit`; look at `converged` before using it.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; NaN or infinite logits; targets out of range; logits equal within every row.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).repeat(2, 1)
        >>> fit = fit_vector_scaling(logits, torch.tensor([0, 0, 1, 1, 0, 1, 1, 0]))
        >>> fit.converged, fit.nll_after < fit.nll_before
        (True, True)
    """
    logits = finite_logits(logits, target)
    start = fit_temperature(logits, target)
    size = logits.square().mean().sqrt()
    inverse = 1.0 if start.at_bound else 1 / start.temperature
    num_classes = logits.shape[1]
    first = torch.cat([size * inverse * torch.ones_like(logits[0]), torch.zeros_like(logits[0])])
    parameters, gain_left = _minimise(logits / size, target, first)
    scale, bias = parameters[:num_classes] / size, parameters[num_classes:]
    bias = bias - bias.mean()
    return VectorScalingFit(
        scale=scale,
        bias=bias,
        nll_before=nll(logits, target).item(),
        nll_after=nll(logits * scale + bias, target).item(),
        gain_left=gain_left,
        converged=gain_left < _CONVERGED and start.at_bound != "lower",
        unseen_classes=num_classes - len(torch.unique(target)),
    )


def _minimise(unit: Tensor, target: Tensor, at: Tensor) -> tuple[Tensor, float]:
    """Best `(w, b)` joined to one vector `(2 C,)`, and the NLL that a further step would gain."""
    gain = float("inf")
    for _ in range(_MOST_STEPS):
        gradient, hessian = _derivatives(unit, target, at)
        hessian.diagonal().add_(_RIDGE * hessian.diagonal().mean())
        step = -torch.linalg.solve(hessian, gradient)
        gain = -gradient.dot(step).item() / 2
        if gain < _CONVERGED:
            break
        at = at + (step if gain < _QUADRATIC else _shortened(unit, target, at, step))
    return at, gain


def _shortened(unit: Tensor, target: Tensor, at: Tensor, step: Tensor) -> Tensor:
    """The step, halved until the NLL falls: far from the minimum a whole Newton step may overshoot."""
    value = _loss(unit, target, at)
    for _ in range(_MOST_HALVINGS):
        if _loss(unit, target, at + step) < value:
            break
        step = step / 2
    return step


def _loss(unit: Tensor, target: Tensor, parameters: Tensor) -> float:
    scale, bias = parameters.chunk(2)
    return F.cross_entropy(unit * scale + bias, target).item()


def _derivatives(unit: Tensor, target: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient `(2 C,)` and Hessian `(2 C, 2 C)` of the mean NLL, in `(w, b)`.

    With `p` the probabilities and `a = p * z`: the Hessian's blocks are means of `diag(a z) - a a^T` (w, w),
    `diag(a) - a p^T` (w, b) and `diag(p) - p p^T` (b, b).
    """
    scale, bias = parameters.chunk(2)
    probs = torch.softmax(unit * scale + bias, dim=1)
    both = torch.cat([probs * unit, probs], dim=1)
    hessian = both.T @ both / -len(unit)
    num_classes = unit.shape[1]
    blocks = hessian.view(2, num_classes, 2, num_classes)
    mean_probs, mean_weighted = probs.mean(dim=0), both[:, :num_classes].mean(dim=0)
    blocks[0, :, 0].diagonal().add_((both[:, :num_classes] * unit).mean(dim=0))
    blocks[0, :, 1].diagonal().add_(mean_weighted)
    blocks[1, :, 0].diagonal().add_(mean_weighted)
    blocks[1, :, 1].diagonal().add_(mean_probs)
    residual = probs.scatter_add_(1, target[:, None], -torch.ones_like(probs[:, :1]))
    return torch.cat([(residual * unit).mean(dim=0), residual.mean(dim=0)]), hessian
