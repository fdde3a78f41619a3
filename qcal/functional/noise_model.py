"""Quantization as noise on logits: a common factor, a bias of each class and a covariance, from held-out images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.prediction_summary import row_blocks
from qcal.functional.score_inputs import check_rows, lift_half, raise_if_bad_rows

__all__ = ["NoiseModel", "estimate_noise"]

_PILOT_ROWS = 64
_GRAM_ROWS = 2048  # images whose residuals are held at once, and summed in float32
_STRIP = 256  # classes
_ROUNDING = 1e-12  # share of a sum of squares that rounding may leave


@dataclass(frozen=True)
class NoiseModel:
    """Quantization as noise on C logits, `q = scale * f + bias + r`; see `estimate_noise`.

    Attributes:
        scale: Common factor of the float logits.
        bias: `(C,)` float64.
        covariance: `(C, C)` float64, of `r`.
        num_images: Held-out images it was estimated from.
    """

    scale: float
    bias: Tensor
    covariance: Tensor
    num_images: int

    @property
    def lead_variance(self) -> Tensor:
        """Variance of the difference of two classes' noise, `(C, C)` float64: `S_ii + S_jj - 2 S_ij`."""
        own = self.covariance.diagonal()
        return (own[:, None] + own[None, :] - 2 * self.covariance).clamp(min=0)


def estimate_noise(float_logits: Tensor, quant_logits: Tensor) -> NoiseModel:
    """Estimate factor, bias and covariance of quantization noise, from images that are not to be forecast.

    The factor is that of least squares with a free bias for each class, on rows less their own mean (softmax and argmax
    do not see it). The covariance is that of the residuals about their class means, over M - 1.

    Args:
        float_logits: `(M, C)` floating and finite, M >= 2. The relative error of a standard deviation is about
            `1 / sqrt(2 M)`: 2 % from 1,000 images.
        quant_logits: `(M, C)` of the same images.

    Returns:
        The model.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: Shapes do not fit, fewer than two images, or values that are not finite.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 5 * torch.randn(4000, 3, generator=generator)
        >>> noise = estimate_noise(logits, 0.8 * logits + 0.5 * torch.randn(4000, 3, generator=generator))
        >>> round(noise.scale, 2), [round(v, 1) for v in noise.lead_variance[0].tolist()]
        (0.8, [0.0, 0.5, 0.5])
    """
    check_rows(float_logits, "float_logits")
    check_rows(quant_logits, "quant_logits")
    if float_logits.shape != quant_logits.shape or len(float_logits) < 2:
        raise ValueError(
            "Held-out logits must be two tables of one shape (M, C) with M >= 2, got "
            f"{tuple(float_logits.shape)} and {tuple(quant_logits.shape)}. Run both networks on some hundred images "
            "that are not compared."
        )
    for logits in (float_logits, quant_logits):
        # A row's sum is finite exactly when every logit is, short of overflow.
        raise_if_bad_rows(lift_half(logits.detach()).sum(dim=1))
    scale, bias = _factor_and_bias(float_logits, quant_logits)
    covariance = _covariance(float_logits, quant_logits, scale, bias)
    return NoiseModel(scale, bias, covariance, len(float_logits))


def _factor_and_bias(float_logits: Tensor, quant_logits: Tensor) -> tuple[float, Tensor]:
    """The factor and the bias, `(C,)` float64.

    Sums are taken about a pilot mean, so that rounding is relative to the logits' spread, and corrected for it.
    """
    num_images, num_classes = float_logits.shape
    both = (float_logits, quant_logits)
    pilots = [lift_half(logits[:_PILOT_ROWS]).mean(dim=0) for logits in both]
    sums = [torch.zeros_like(pilot, dtype=torch.float64) for pilot in pilots]
    row_sums = torch.zeros(2, dtype=torch.float64, device=float_logits.device)
    product, square = torch.zeros_like(row_sums[0]), torch.zeros_like(row_sums[0])
    for block in row_blocks(num_images, num_classes):
        before, after = (lift_half(logits[block].detach()) - pilot for logits, pilot in zip(both, pilots, strict=True))
        means = [rows.mean(dim=1) for rows in (before, after)]
        for side, (rows, mean) in enumerate(zip((before, after), means, strict=True)):
            sums[side] += rows.sum(dim=0)
            row_sums[side] += mean.sum(dtype=torch.float64)
            rows -= mean[:, None]
        product += torch.linalg.vecdot(before, after.to(before.dtype)).sum(dtype=torch.float64)
        square += torch.linalg.vecdot(before, before).sum(dtype=torch.float64)
    x, y = ((total - row_sum) / num_images for total, row_sum in zip(sums, row_sums, strict=True))
    product -= num_images * x.dot(y)
    left = (square - num_images * x.dot(x)).item()
    # Float logits that never vary, up to rounding, say nothing about a factor.
    scale = product.item() / left if left > _ROUNDING * square.item() else 1.0
    before_mean, after_mean = (pilot.double() + total / num_images for pilot, total in zip(pilots, sums, strict=True))
    return scale, after_mean - scale * before_mean


def _covariance(float_logits: Tensor, quant_logits: Tensor, scale: float, bias: Tensor) -> Tensor:
    """Covariance of what factor and bias leave, `(C, C)` float64.

    Residuals are small numbers about 0: their products lose nothing that matters in float32, over two thousand images;
    those sums are added in float64. Only the upper triangle is multiplied out, in strips of classes.
    """
    num_images, num_classes = float_logits.shape
    covariance = torch.zeros(num_classes, num_classes, dtype=torch.float64, device=float_logits.device)
    for start in range(0, num_images, _GRAM_ROWS):
        block = slice(start, start + _GRAM_ROWS)
        before, after = lift_half(float_logits[block].detach()), lift_half(quant_logits[block].detach())
        rest = torch.sub(after, before, alpha=scale).sub_(bias.to(before.dtype))
        for first in range(0, num_classes, _STRIP):
            strip = slice(first, first + _STRIP)
            covariance[strip, first:] += rest[:, strip].T @ rest[:, first:]
    covariance /= num_images - 1
    for first in range(0, num_classes, _STRIP):
        strip, below = slice(first, first + _STRIP), slice(first + _STRIP, None)
        covariance[below, strip] = covariance[strip, below].T
    return covariance
