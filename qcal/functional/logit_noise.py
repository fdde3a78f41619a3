"""Logit noise: what quantization added to the logits, `e = quantized - float`, in figures.

Quantization acts on a network as noise does. How large it is beside the logits (SQNR), whether it is a mere shrinking
of them, whether it favours classes, and whether it is common to all classes (softmax and argmax do not see a number
added to every logit of an image) decides what it can do to a prediction.

Sums over images are gathered block by block: products within a block in the logits' own type, sums of blocks in
float64. Class statistics are taken about a pilot mean, so that a large constant offset does not drown their spread.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.prediction_summary import row_blocks
from qcal.functional.score_inputs import check_rows, lift_half

__all__ = ["LogitNoise", "NoiseMoments", "logit_noise"]

_PILOT_ROWS = 64


@dataclass(frozen=True)
class LogitNoise:
    """What quantization did to N rows of C logits; see `logit_noise`. None where a figure is undefined.

    "Centred" is a row of logits less its own mean: what softmax and argmax see of it.

    Attributes:
        bias: C means of the noise, one a class.
        std: C standard deviations of the noise about them, one a class.
        rmse: Root mean square of the noise over images and classes.
        sqnr_db: `10 log10(sum float^2 / sum noise^2)`, of the logits as they are; None without noise or without logits.
        common_share: Share of the noise's power that is common to all classes of an image, and harmless, in [0, 1];
            None without noise.
        scale: The common factor `a` that brings centred float logits closest to the quantized ones (least squares);
            below 1 the logits shrank. None when the float logits are constant.
        residual_rmse: Root mean square of what is left of the centred noise when that factor is allowed for.
        residual_share: Its share of the centred noise's power, in [0, 1]; None without noise.
        class_correlation: Mean covariance of two classes' noise over its mean variance, in [-1/(C-1), 1]; None without
            noise or with one image.
        growth_exponent: `g` of the power law noise norm ~ (logit norm)^g that fits best (least squares of logarithms of
            the centred norms): 0 when noise does not depend on the logits, 1 when it grows as they do. None without
            noise, or when the logits' norms do not differ.
        growth_correlation: Correlation of those logarithms, in [-1, 1]; None as above.
        margin_bias: Mean change of the float network's lead (top logit less next).
        margin_std: Standard deviation of that change: the noise that swaps predictions.
    """

    bias: tuple[float, ...]
    std: tuple[float, ...]
    rmse: float
    sqnr_db: float | None
    common_share: float | None
    scale: float | None
    residual_rmse: float
    residual_share: float | None
    class_correlation: float | None
    growth_exponent: float | None
    growth_correlation: float | None
    margin_bias: float
    margin_std: float


class NoiseMoments:
    """Sums from which `LogitNoise` follows, gathered over blocks of rows.

    Args:
        float_rows: First rows `(n, C)` of the float logits, for the pilot mean.
        quant_rows: The same rows of the quantized logits.

    Example:
        >>> before = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> moments = NoiseMoments(before, before + 0.5)
        >>> moments.add(before, before + 0.5, torch.empty(2, 2), torch.tensor([0, 1]), torch.tensor([1, 0]))
        >>> moments.result().bias, moments.result().common_share
        ((0.5, 0.5), 1.0)
    """

    def __init__(self, float_rows: Tensor, quant_rows: Tensor) -> None:
        first = slice(0, _PILOT_ROWS)
        self._pilot = (lift_half(quant_rows[first]) - lift_half(float_rows[first])).mean(dim=0)
        self._class_sum = torch.zeros_like(self._pilot, dtype=torch.float64)
        self._class_square = torch.zeros_like(self._class_sum)
        self._rows: list[tuple[Tensor, ...]] = []
        self._product = self._pilot.new_empty(0)

    def add(self, float_rows: Tensor, quant_rows: Tensor, scratch: Tensor, top: Tensor, runner_up: Tensor) -> None:
        """Add a block of rows.

        Args:
            float_rows: `(n, C)` float32 or float64.
            quant_rows: `(n, C)` of the same type.
            scratch: `(n, C)` of that type, which is overwritten.
            top: `(n,)` int64, the float network's prediction.
            runner_up: `(n,)` int64, its next class.
        """
        noise = torch.sub(quant_rows, float_rows, out=scratch)
        lead = noise.gather(1, top[:, None]) - noise.gather(1, runner_up[:, None])
        self._rows.append(
            (
                torch.linalg.vector_norm(noise, dim=1),
                noise.sum(dim=1),
                self._multiply(float_rows, noise).sum(dim=1),
                torch.linalg.vector_norm(float_rows, dim=1),
                float_rows.sum(dim=1),
                lead.squeeze(1),
            )
        )
        # Sums, not products with ones: those run on threads of another library, and the two wait for each other.
        self._class_sum += noise.sub_(self._pilot).sum(dim=0)
        self._class_square += torch.mul(noise, noise, out=noise).sum(dim=0)

    def _multiply(self, float_rows: Tensor, noise: Tensor) -> Tensor:
        # Into memory that is kept: to be given fresh pages for every block costs more than the whole rest.
        if len(self._product) < len(noise):
            self._product = torch.empty_like(noise)
        return torch.mul(float_rows, noise, out=self._product[: len(noise)])

    def result(self) -> LogitNoise:
        """The figures of all rows added so far.

        Raises:
            ValueError: The quantized logits have NaN or infinite values (the number of rows is in the message).
        """
        columns = [torch.cat(column).double() for column in zip(*self._rows, strict=True)]
        noise_norm, noise_sum, product, float_norm, float_sum, lead = columns
        broken = int((~noise_norm.isfinite()).sum())
        if broken:
            raise ValueError(
                f"`quant_logits` must be finite, got {broken} of {len(noise_norm)} rows with NaN or infinite values. "
                "Look for an overflow, or for images that are not finite."
            )
        num_images, num_classes = len(noise_norm), len(self._pilot)
        shift = self._class_sum / num_images
        variance = (self._class_square / num_images - shift.square()).clamp(min=0)
        bias = self._pilot.double() + shift
        power, common = noise_norm.square().sum().item(), (noise_sum.square().sum() / num_classes).item()
        signal = float_norm.square().sum().item()
        centred_noise = (noise_norm.square() - noise_sum.square() / num_classes).clamp(min=0)
        centred_float = (float_norm.square() - float_sum.square() / num_classes).clamp(min=0)
        shrinkage = _quotient(
            (product - float_sum * noise_sum / num_classes).sum().item(),
            centred_float.sum().item() if bool((centred_float > 1e-12 * float_norm.square()).any()) else 0.0,
        )
        spare = centred_noise.sum().item()
        left = max(0.0, spare - (shrinkage or 0.0) ** 2 * centred_float.sum().item())
        growth = _power_law(centred_float, centred_noise)
        cells = num_images * num_classes
        return LogitNoise(
            bias=tuple(bias.tolist()),
            std=tuple(variance.sqrt().tolist()),
            rmse=math.sqrt(power / cells),
            sqnr_db=10 * math.log10(signal / power) if signal > 0 and power > 0 else None,
            common_share=min(1.0, common / power) if power > 0 else None,
            scale=None if shrinkage is None else 1 + shrinkage,
            residual_rmse=math.sqrt(left / cells),
            residual_share=_quotient(left, spare),
            class_correlation=_class_correlation(noise_sum, variance),
            growth_exponent=growth[0],
            growth_correlation=growth[1],
            margin_bias=lead.mean().item(),
            margin_std=lead.std(correction=0).item(),
        )


def logit_noise(float_logits: Tensor, quant_logits: Tensor) -> LogitNoise:
    """Measure the noise that quantization added to logits.

    Args:
        float_logits: `(N, C)` floating and finite, N >= 1, C >= 2.
        quant_logits: `(N, C)` of the same images.

    Returns:
        The figures, as a `LogitNoise`.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: Shapes do not fit, or values that are not finite.

    Example:
        >>> before = torch.tensor([[2.0, -2.0], [-1.0, 1.0]])
        >>> noise = logit_noise(before, 0.9 * before)
        >>> round(noise.sqnr_db, 3), round(noise.scale, 3), round(noise.growth_exponent, 3)
        (20.0, 0.9, 1.0)

    References:
        Finkelstein, Almog, Grobman: Fighting Quantization Bias With Bias, 2019 (the bias of outputs).
        Sheng et al.: A Quantization-Friendly Separable Convolution for MobileNets, 2018 (SQNR).
    """
    check_rows(float_logits, "float_logits")
    check_rows(quant_logits, "quant_logits")
    if float_logits.shape != quant_logits.shape:
        raise ValueError(
            f"`float_logits` and `quant_logits` must have one shape, got {tuple(float_logits.shape)} and "
            f"{tuple(quant_logits.shape)}. Run both networks on the same images."
        )
    broken = int((~float_logits.isfinite()).any(dim=1).sum())
    if broken:
        raise ValueError(
            f"`float_logits` must be finite, got {broken} of {len(float_logits)} rows with NaN or infinite values. "
            "Look for a diverged training run."
        )
    moments = NoiseMoments(float_logits, quant_logits)
    for block in row_blocks(*float_logits.shape):
        before, after = lift_half(float_logits[block].detach()), lift_half(quant_logits[block].detach())
        top, runner_up = before.topk(2, dim=1).indices.unbind(1)
        moments.add(before, after.to(before.dtype), torch.empty_like(before), top, runner_up)
    return moments.result()


def _quotient(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None


def _class_correlation(noise_sum: Tensor, variance: Tensor) -> float | None:
    """Mean covariance of two classes over mean variance: the variance of a sum holds every covariance of its terms."""
    num_classes, own = len(variance), variance.sum().item()
    if len(noise_sum) < 2 or own <= 0:
        return None
    between = noise_sum.var(correction=0).item() - own
    return max(-1 / (num_classes - 1), min(1.0, between / ((num_classes - 1) * own)))


def _power_law(float_power: Tensor, noise_power: Tensor) -> tuple[float | None, float | None]:
    """Exponent and correlation of the norms, from the images that have both."""
    both = (float_power > 0) & (noise_power > 0)
    x, y = float_power[both].log() / 2, noise_power[both].log() / 2
    if len(x) < 2:
        return None, None
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = x.square().sum().item(), y.square().sum().item(), (x * y).sum().item()
    if xx <= 1e-12 * len(x):  # norms that are equal up to rounding tell no slope
        return None, None
    return xy / xx, xy / math.sqrt(xx * yy) if yy > 1e-12 * len(y) else None
