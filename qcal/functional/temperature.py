"""Temperature scaling: the one number that, dividing the logits, makes the likelihood of held-out labels greatest.

The mean negative log-likelihood of `softmax(z / T)` is convex in `b = 1 / T`, with derivative

    g(b) = mean_i (E_{k ~ softmax(b z_i)}[z_ik] - z_i[y_i]),        g'(b) = mean_i Var_{k ~ softmax(b z_i)}[z_ik] >= 0,

so its minimum is the root of an increasing function. It is searched on `log b` by Newton steps inside a bracket of
proven sign change, in float64, until the bracket is narrower than 1e-8 of T. The logits are first divided by their own
size, so that T is scaled by `a` when they are.

References:
    Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from qcal.functional.proper_scores import nll
from qcal.functional.score_inputs import check_class_target, check_rows

__all__ = ["TemperatureFit", "finite_logits", "fit_temperature", "scale_logits"]

# Temperatures searched, in units of the logits' own size. Outside, softmax(z / T) is one-hot or uniform for any use.
_SEARCH = (1e-6, 1e6)
_RELATIVE_WIDTH = 5e-9
_OVERSHOOT = 1e-9  # how far past a nearly exact Newton point to look, so that the bracket closes from both sides
_MOST_STEPS = 200  # bisection alone needs 33


@dataclass(frozen=True)
class TemperatureFit:
    """Result of `fit_temperature`.

    Attributes:
        temperature: The optimal T; with `at_bound` the end of the range that was searched.
        bracket: `(low, high)` around the optimal T, at most 1e-8 of it apart; with `at_bound` both are that end.
        search_range: `(low, high)` of the temperatures that were searched.
        nll_before: Mean negative log-likelihood at T = 1, in nats.
        nll_after: The same at `temperature`.
        at_bound: `"lower"` if the likelihood still grows as T falls to the lower end (every prediction is right),
            `"upper"` if it grows as T rises to the upper end (the logits are at or below chance), else None.
    """

    temperature: float
    bracket: tuple[float, float]
    search_range: tuple[float, float]
    nll_before: float
    nll_after: float
    at_bound: Literal["lower", "upper"] | None

    @property
    def message(self) -> str:
        """What was found, in a sentence for people; at a bound, why, and what to do."""
        change = f"NLL {self.nll_before:.6g} -> {self.nll_after:.6g}"
        if self.at_bound is None:
            return f"temperature {self.temperature:.9g} is optimal: {change}."
        reason, advice = {
            "lower": (
                "no finite optimum above 0: every prediction is right",
                "recalibrate on more, or harder, samples",
            ),
            "upper": (
                "no finite optimum: the logits rank the true class at or below chance",
                "check labels and weights",
            ),
        }[self.at_bound]
        return (
            f"temperature ran to the {self.at_bound} end of [{self.search_range[0]:.3g}, {self.search_range[1]:.3g}], "
            f"{reason}. Do not use {self.temperature:.3g}; {advice}. ({change})"
        )


def fit_temperature(logits: Tensor, target: Tensor) -> TemperatureFit:
    """Find the temperature T that minimises the mean negative log-likelihood of `softmax(logits / T)`.

    Args:
        logits: `(N, C)` floating, finite; held out from training, and not the test set.
        target: `(N,)` int64 class indices.

    Returns:
        A `TemperatureFit`; its relative error is below 1e-8. T > 1 says that the network was overconfident.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; rows with NaN or infinite logits; targets out of range; logits that are equal within
            every row, for which any T is as good.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 0.0]] * 4)
        >>> fit = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))  # right three times in four: z / T = log 3
        >>> round(fit.temperature, 8), round(2 / 1.0986122886681098, 8), fit.at_bound
        (1.82047845, 1.82047845, None)
    """
    logits = finite_logits(logits, target)
    shifted = logits - logits.amax(dim=1, keepdim=True)
    size = shifted.square().mean().sqrt().item()
    if size == 0:
        raise ValueError(
            f"`logits` must differ between classes, got {len(logits)} rows of equal values, for which every "
            "temperature is as good. Check that the network is trained and its weights are loaded."
        )
    search = (size * _SEARCH[0], size * _SEARCH[1])
    low, high = _log_inverse_bracket(shifted / size, target)
    if low == high:
        at_bound: Literal["lower", "upper"] | None = "lower" if low > 0 else "upper"
        temperature = search[0] if low > 0 else search[1]
        bracket = (temperature, temperature)
    else:
        at_bound = None
        temperature = size * math.exp(-(low + high) / 2)
        bracket = (size * math.exp(-high), size * math.exp(-low))
    return TemperatureFit(
        temperature=temperature,
        bracket=bracket,
        search_range=search,
        nll_before=nll(logits, target).item(),
        nll_after=nll(logits / temperature, target).item(),
        at_bound=at_bound,
    )


def scale_logits(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """`logits / temperature`, in the type of the logits.

    Raises:
        ValueError: `temperature` is a number that is not positive and finite.

    Example:
        >>> import torch
        >>> scale_logits(torch.tensor([[2.0, 0.0]]), 2.0)
        tensor([[1., 0.]])
    """
    if not isinstance(temperature, Tensor) and not (0 < temperature < math.inf):
        raise ValueError(f"`temperature` must be positive and finite, got {temperature}. 1 changes nothing.")
    return logits / temperature


def finite_logits(logits: Tensor, target: Tensor) -> Tensor:
    """`logits` in float64 and without gradient, after checking that all are finite and fit `target`.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes; rows with NaN or infinite logits; targets out of range (with their numbers).
    """
    check_rows(logits, "logits")
    check_class_target(target, *logits.shape)
    finite = logits.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise ValueError(
            f"`logits` must be finite, got {int((~finite).sum())} of {len(finite)} rows with NaN or infinite values. "
            "Leave these samples out, or give masked classes a large negative logit."
        )
    return logits.detach().double()


def _log_inverse_bracket(shifted: Tensor, target: Tensor) -> tuple[float, float]:
    """Bracket of the optimal `log(1 / T)`; two equal ends if the likelihood has no optimum inside the search range."""
    own = shifted.gather(1, target[:, None]).squeeze(1)

    def slope(log_inverse: float) -> tuple[float, float]:
        """Derivative of the NLL in `b = 1 / T`, and the derivative of that in `log b`."""
        inverse = math.exp(log_inverse)
        weight = (shifted * inverse).exp_()
        total = weight.sum(dim=1)
        weighted = weight.mul_(shifted)
        mean = weighted.sum(dim=1) / total
        variance = weighted.mul_(shifted).sum(dim=1) / total - mean.square()
        return (mean - own).mean().item(), inverse * variance.mean().item()

    low, high = -math.log(_SEARCH[1]), -math.log(_SEARCH[0])
    if slope(low)[0] >= 0:
        return low, low
    if slope(high)[0] <= 0:
        return high, high
    return _bracket_root(slope, low, high)


def _bracket_root(slope: Callable[[float], tuple[float, float]], low: float, high: float) -> tuple[float, float]:
    """Narrow `[low, high]`, where an increasing function changes sign, to `_RELATIVE_WIDTH`."""
    at = (low + high) / 2
    for _ in range(_MOST_STEPS):
        value, rise = slope(at)
        low, high = (at, high) if value < 0 else (low, at)
        if high - low < _RELATIVE_WIDTH:
            return low, high
        step = -value / rise if rise > 0 else math.inf
        if abs(step) < _OVERSHOOT:
            step += math.copysign(_OVERSHOOT, -value)
        at = at + step if low < at + step < high else (low + high) / 2
    raise RuntimeError(
        f"The temperature search did not close its bracket in {_MOST_STEPS} steps (log(1/T) in [{low}, {high}]). "
        "Please report the logits."
    )
