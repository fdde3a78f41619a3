"""A temperature for each image, from the quantization noise that is forecast for it.

Quantized logits are float logits plus noise. If the difference of two of its classes' logits has noise of variance
`2 s_i^2`, then a float network's calibrated probability, averaged over what its logits may have been, is about

    softmax(z_i / sqrt(T^2 + pi/8 * 2 s_i^2)) = softmax(z_i * k_i / T),     k_i = (1 + pi/4 * s_i^2 / T^2)^(-1/2):

MacKay's approximation of a sigmoid averaged over a Gaussian, with T the float network's temperature. Two things are
forecast or fitted, on images held out from training of which both logits are known:

- The noise, from the quantized logits alone. `s_i^2`, the variance over the classes of image i's noise, is regressed on
  `v_i`, the variance over the classes of its quantized logits: `s^2(v) = floor + slope * v`, neither negative, by least
  squares. Rounding adds noise of a fixed size (floor) and of a size that grows with the activations (slope).
- How much of the noise the probabilities have to pay for. The inverse temperature is `b_i = constant + noise * k_i`,
  neither negative, where the mean negative log-likelihood is least. It is convex in the two, so that the minimum is
  unique. `noise = 1 / T, constant = 0` is MacKay's own answer, `noise = 0` one temperature for all images: MacKay's
  assumes that noise is independent of the logits and harms every image alike, which the fit may deny.

Where the noise is the same for every image, or there is none, this is temperature scaling.

References:
    D. J. C. MacKay: The Evidence Framework Applied to Classification Networks, Neural Computation 4 (5), 1992,
    equation 10 (the factor k). Its use for several classes: M. N. Gibbs, Bayesian Gaussian Processes for Regression and
    Classification, 1997; Z. Lu, E. Ie, F. Sha, Mean-Field Approximation to Gaussian-Softmax Integral, 2020.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_class_target, check_rows, raise_if_bad_rows
from qcal.functional.temperature import TemperatureFit, fit_temperature

__all__ = ["NoiseTemperatureFit", "fit_noise_temperature"]

_SLICE_NUMBERS = 1 << 21  # logits looked at together, so that no (N, C) table in float64 is made
_MOST_STEPS = 60  # Newton needs about six
_CONVERGED = 1e-16  # gain left, in nats
_MOST_HALVINGS = 40
_SAME = 1e-9  # spread of k below which the images' noise cannot be told apart
_PI_QUARTER = math.pi / 4


@dataclass(frozen=True)
class NoiseTemperatureFit:
    """Result of `fit_noise_temperature`; `temperature` gives the temperature of each image.

    Attributes:
        noise_floor: Forecast variance over the classes of the noise, at logits that are all equal; >= 0.
        noise_slope: Its growth with the variance over the classes of the quantized logits; >= 0.
        float_temperature: T, the best temperature of the float logits.
        constant: Part of the inverse temperature that is the same for every image; >= 0.
        noise: Part that noise takes from, `constant + noise * k_i`; >= 0, and 0 where one temperature is as good.
        one_temperature: The best single temperature of the quantized logits.
        nll_before: Mean negative log-likelihood of the quantized logits as they are, in nats.
        nll_one_temperature: The same at the best single temperature.
        nll_after: The same at the images' own temperatures; never above `nll_one_temperature`.
    """

    noise_floor: float
    noise_slope: float
    float_temperature: float
    constant: float
    noise: float
    one_temperature: float
    nll_before: float
    nll_one_temperature: float
    nll_after: float

    def forecast(self, quant_logits: Tensor) -> Tensor:
        """Variance over the classes of the noise forecast for each image, `(N,)` float64, from its logits alone."""
        return self.noise_floor + self.noise_slope * _variance(quant_logits)

    def temperature(self, quant_logits: Tensor) -> Tensor:
        """The temperature of each image, `(N,)` float64, positive; dividing by it changes no prediction.

        Args:
            quant_logits: `(N, C)` of the quantized network on any images; no float logits are needed.

        Raises:
            TypeError: not floating.
            ValueError: another shape, NaN or infinite values.
        """
        check_rows(quant_logits, "quant_logits")
        if self.noise == 0:  # exactly the one temperature, not the reciprocal of its reciprocal
            return _variance(quant_logits).fill_(self.one_temperature)
        return (self.constant + self.noise * _damping(self.forecast(quant_logits), self.float_temperature)).reciprocal()


def fit_noise_temperature(
    float_logits: Tensor,
    quant_logits: Tensor,
    target: Tensor,
    *,
    float_fit: TemperatureFit | None = None,
    quant_fit: TemperatureFit | None = None,
) -> NoiseTemperatureFit:
    """Forecast each image's noise from its quantized logits, and fit how it should lower the confidence.

    Args:
        float_logits: `(N, C)` floating, finite; held out from training, and not the test set.
        quant_logits: `(N, C)` of the quantized network, same images in the same order.
        target: `(N,)` int64 class indices.
        float_fit: `fit_temperature(float_logits, target)`, if the caller has it; else it is fitted here.
        quant_fit: The same of the quantized logits.

    Returns:
        A `NoiseTemperatureFit`.

    Raises:
        TypeError: wrong types.
        ValueError: wrong or different shapes; NaN or infinite logits; targets out of range; logits of either network
            that have no best temperature (all predictions right, or at chance).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 3 * torch.randn(500, 10, generator=generator)
        >>> target = torch.multinomial(torch.softmax(logits / 2, dim=1), 1, generator=generator).squeeze(1)
        >>> noisy = logits + torch.randn(500, 10, generator=generator)
        >>> fit = fit_noise_temperature(logits, noisy, target)
        >>> round(fit.forecast(noisy).mean().item(), 1), bool((fit.temperature(noisy) > 1).all())
        (1.0, True)
    """
    _check(float_logits, quant_logits, target)
    float_fit = fit_temperature(float_logits, target) if float_fit is None else float_fit
    quant_fit = fit_temperature(quant_logits, target) if quant_fit is None else quant_fit
    for name, fit in (("float_logits", float_fit), ("quant_logits", quant_fit)):
        if fit.at_bound is not None:
            raise ValueError(f"`{name}` must have a best temperature, got none: {fit.message}")
    floor, slope = _noise_line(_noise_variance(float_logits, quant_logits), _variance(quant_logits))
    damping = _damping(floor + slope * _variance(quant_logits), float_fit.temperature)
    (constant, noise), value = _best_parts(quant_logits, target, damping, quant_fit)
    return NoiseTemperatureFit(
        noise_floor=floor,
        noise_slope=slope,
        float_temperature=float_fit.temperature,
        constant=constant,
        noise=noise,
        one_temperature=quant_fit.temperature,
        nll_before=quant_fit.nll_before,
        nll_one_temperature=quant_fit.nll_after,
        nll_after=value,
    )


def _check(float_logits: Tensor, quant_logits: Tensor, target: Tensor) -> None:
    check_rows(float_logits, "float_logits")
    check_rows(quant_logits, "quant_logits")
    if float_logits.shape != quant_logits.shape:
        raise ValueError(
            f"`float_logits` and `quant_logits` must have one shape, got {tuple(float_logits.shape)} and "
            f"{tuple(quant_logits.shape)}. Run both networks on the same images."
        )
    check_class_target(target, *quant_logits.shape)


def _rows(logits: Tensor) -> int:
    return max(1, _SLICE_NUMBERS // logits.shape[1])


def _slices(logits: Tensor) -> tuple[Tensor, ...]:
    return torch.split(logits.detach(), _rows(logits))


def _variance(logits: Tensor) -> Tensor:
    """Variance over the classes of each row, `(N,)` float64."""
    variance = torch.cat([rows.double().var(dim=1) for rows in _slices(logits)])
    raise_if_bad_rows(variance)
    return variance


def _noise_variance(float_logits: Tensor, quant_logits: Tensor) -> Tensor:
    pairs = zip(_slices(float_logits), _slices(quant_logits), strict=True)
    variance = torch.cat([(after.double() - before.double()).var(dim=1) for before, after in pairs])
    raise_if_bad_rows(variance)
    return variance


def _noise_line(noise: Tensor, spread: Tensor) -> tuple[float, float]:
    """Least squares `noise = floor + slope * spread` with neither part negative."""
    centred = spread - spread.mean()
    square = centred.square().sum()
    slope = float(centred.dot(noise - noise.mean()) / square) if square > 0 else 0.0
    floor = float(noise.mean()) - slope * float(spread.mean())
    if slope < 0:
        return float(noise.mean()), 0.0
    if floor < 0:  # through the origin; the loss is convex, so the minimum is on this edge
        return 0.0, float(spread.dot(noise) / spread.dot(spread))
    return floor, slope


def _damping(noise: Tensor, temperature: float) -> Tensor:
    """MacKay's k of each image, in (0, 1]."""
    return (1 + _PI_QUARTER * noise / temperature**2).rsqrt()


def _best_parts(
    logits: Tensor, target: Tensor, damping: Tensor, one: TemperatureFit
) -> tuple[tuple[float, float], float]:
    """`(constant, noise)`, neither negative, of least mean NLL, and that NLL.

    The NLL is convex: if its free minimum has a negative part, the minimum is on an edge of the allowed quarter.
    """
    constant_only = (1 / one.temperature, 0.0)
    if float(damping.amax() - damping.amin()) < _SAME:
        return constant_only, one.nll_after
    design = torch.stack([torch.ones_like(damping), damping], dim=1)
    noise_only, noise_only_nll = _minimise(logits, target, damping[:, None], [1 / one.temperature])
    edges = [(constant_only, one.nll_after), ((0.0, noise_only[0]), noise_only_nll)]
    best = min(edges, key=lambda edge: edge[1])
    free, free_nll = _minimise(logits, target, design, list(best[0]))
    if min(free) >= 0 and free_nll < best[1]:
        return (free[0], free[1]), free_nll
    return best


def _minimise(logits: Tensor, target: Tensor, design: Tensor, start: list[float]) -> tuple[list[float], float]:
    """Weights of the design's columns, whose sum is the inverse temperature, of least mean NLL; Newton, halved."""
    at = design.new_tensor(start)
    value, slope, curvature = _derivatives(logits, target, design @ at)
    for _ in range(_MOST_STEPS):
        gradient = design.T @ slope / len(design)
        hessian = design.T @ (curvature[:, None] * design) / len(design)
        step = -torch.linalg.lstsq(hessian, gradient[:, None], driver="gelsd").solution.squeeze(1)
        if -gradient.dot(step) / 2 < _CONVERGED:
            break
        for _ in range(_MOST_HALVINGS):
            moved = _derivatives(logits, target, design @ (at + step))
            if moved[0] < value:
                break
            step = step / 2
        else:
            break  # float64 can no longer tell the losses apart
        at, (value, slope, curvature) = at + step, moved
    return at.tolist(), value


def _derivatives(logits: Tensor, target: Tensor, inverse: Tensor) -> tuple[float, Tensor, Tensor]:
    """Mean NLL of `softmax(b_i z_i)`, and each row's first and second derivative in `b_i`, `(N,)` float64."""
    values, slopes, curvatures = [], [], []
    columns = (torch.split(column, _rows(logits)) for column in (target, inverse))
    for part, labels, b in zip(_slices(logits), *columns, strict=True):
        z = part.double()
        z -= z.amax(dim=1, keepdim=True)
        own = z.gather(1, labels[:, None]).squeeze(1)
        weight = (z * b[:, None]).exp_()
        total = weight.sum(dim=1)
        mean = weight.mul_(z).sum(dim=1) / total
        square = weight.mul_(z).sum(dim=1) / total
        values.append(total.log() - b * own)
        slopes.append(mean - own)
        curvatures.append(square - mean.square())
    return torch.cat(values).mean().item(), torch.cat(slopes), torch.cat(curvatures)
