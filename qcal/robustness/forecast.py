"""The forecast of swaps, made from held-out noise and scored against what happened."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.bootstrap import Interval
from qcal.functional.brier_decomposition import top_label_brier_decomposition
from qcal.functional.prediction_summary import PredictionSummary
from qcal.functional.ranking import ranking_quality
from qcal.functional.swap_curves import SwapCurve, score_bins, swap_curve
from qcal.functional.swap_forecast import NoiseModel, SwapProbability, estimate_noise, swap_probability

__all__ = ["Forecast", "SwapForecast", "check_held_out", "score_forecast"]

_BINS = 10
_TWO_SIDED_95 = 1.959963984540054


@dataclass(frozen=True)
class Forecast:
    """A share that was forecast, beside what was measured.

    Attributes:
        predicted: Mean of the probabilities.
        measured: Share, or difference of shares, that was found.
        error: `measured - predicted`.
        error_interval: 95 % interval of the error over other images of the same kind (normal, from the spread of the
            paired differences); None with one image. Without 0 inside it the forecast is off by more than chance.
    """

    predicted: float
    measured: float
    error: float
    error_interval: Interval | None


@dataclass(frozen=True)
class SwapForecast:
    """P(swap) of every image from its margins and held-out noise, scored; see `score_forecast`.

    Attributes:
        method: How P(swap) was computed.
        num_held_out: Images the noise was estimated on.
        scale: Common factor of the float logits in the noise model.
        correlation_rms: Root mean square of the noise's correlation between two classes; None without noise.
        effective_dimensions: `(trace S)^2 / trace(S^2)` of the covariance S, in [1, C]: in how many directions of equal
            size the noise goes; None without noise.
        swap_rate: Swaps.
        swap_rate_range: Where 95 % of measured swap rates lie when the forecast is right and images swap independently
            (normal); it does not hold the uncertainty of the noise estimate.
        harmful: Harmful swaps. P(right) is the float confidence, so an overconfident network makes this too large.
        beneficial: Beneficial swaps.
        error_change: Harmful less beneficial.
        auroc: Of P(swap); None without swaps, or when all swapped.
        average_precision: Of P(swap); None without swaps.
        brier: Mean squared difference of P(swap) and what happened, in [0, 1].
        miscalibration: What the best monotone map of P(swap) would take off the Brier score.
        discrimination: How much better than the swap rate for all images it would then be.
        uncertainty: Brier score of the swap rate for all images.
        reliability: Mean P(swap) (`mean_score`) and swaps in bins of P(swap), of equal width and of equal count.
    """

    method: str
    num_held_out: int
    scale: float
    correlation_rms: float | None
    effective_dimensions: float | None
    swap_rate: Forecast
    swap_rate_range: Interval
    harmful: Forecast
    beneficial: Forecast
    error_change: Forecast
    auroc: float | None
    average_precision: float | None
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    reliability: tuple[SwapCurve, SwapCurve]


def score_forecast(
    float_logits: Tensor,
    held_out: tuple[Tensor, Tensor],
    float_prediction: Tensor,
    quant_prediction: Tensor,
    target: Tensor,
    *,
    predictions: PredictionSummary | None = None,
) -> SwapForecast:
    """Forecast swaps from noise that was measured on other images, and score the forecast.

    Args:
        float_logits: `(N, C)` floating and finite, of the compared images.
        held_out: Float and quantized logits `(M, C)`, M >= 2, of images that are not compared.
        float_prediction: `(N,)` int64.
        quant_prediction: `(N,)` int64.
        target: `(N,)` int64; used to score, not to forecast.
        predictions: `summarise_predictions(float_logits)`, to be made once for many settings; None makes it.

    Returns:
        The scored forecast.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: Held-out logits that do not fit, are not finite, or are the compared ones.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> before = 2 * torch.randn(4000, 3, generator=generator)
        >>> after = before + torch.randn(4000, 3, generator=generator)
        >>> scored = score_forecast(
        ...     before[2000:],
        ...     (before[:2000], after[:2000]),
        ...     before[2000:].argmax(1),
        ...     after[2000:].argmax(1),
        ...     before[2000:].argmax(1),
        ... )
        >>> round(scored.swap_rate.predicted, 2), round(scored.swap_rate.measured, 2)
        (0.21, 0.21)
    """
    check_held_out(float_logits, held_out)
    noise = estimate_noise(*held_out)
    chance = swap_probability(float_logits, noise, predictions=predictions)
    swapped = float_prediction != quant_prediction
    before, after = float_prediction == target, quant_prediction == target
    quality = ranking_quality(chance.swap, swapped)
    parts = top_label_brier_decomposition(chance.swap, swapped)
    bins = (
        score_bins(chance.swap, binning="equal_width", num_bins=_BINS),
        score_bins(chance.swap, binning="equal_count", num_bins=_BINS),
    )
    correlation, dimensions = _structure(noise)
    change = before.double() - after.double()
    return SwapForecast(
        method="exact normal" if float_logits.shape[1] == 2 else "pairwise normal, one shared factor an image",
        num_held_out=noise.num_images,
        scale=noise.scale,
        correlation_rms=correlation,
        effective_dimensions=dimensions,
        swap_rate=_forecast(chance.swap, swapped),
        swap_rate_range=_range(chance),
        harmful=_forecast(chance.harmful, swapped & before),
        beneficial=_forecast(chance.beneficial, swapped & after),
        error_change=_forecast(chance.harmful - chance.beneficial, change),
        auroc=quality.auroc,
        average_precision=quality.average_precision,
        brier=parts.score.item(),
        miscalibration=parts.miscalibration.item(),
        discrimination=parts.discrimination.item(),
        uncertainty=parts.uncertainty.item(),
        reliability=(swap_curve(bins[0], swapped, before, after), swap_curve(bins[1], swapped, before, after)),
    )


def check_held_out(float_logits: Tensor, held_out: tuple[Tensor, Tensor]) -> None:
    """Refuse held-out logits of another network, or of the very images that are to be forecast.

    Raises:
        ValueError: The number of classes differs, or the float logits are the compared ones.
    """
    held = held_out[0]
    if held.ndim != 2 or held.shape[1] != float_logits.shape[1]:
        raise ValueError(
            f"Held-out logits must have {float_logits.shape[1]} classes as the compared ones, got {tuple(held.shape)}. "
            "Run the same two networks on other images."
        )
    # Unequal first rows settle it in the usual case.
    first = held.shape == float_logits.shape and torch.equal(held[0], float_logits[0])
    if first and torch.equal(held, float_logits):
        raise ValueError(
            f"`held_out` must be logits of other images, got the {len(held)} compared ones. A forecast that has seen "
            "its images proves nothing: split them, or use images of the validation set."
        )


def _forecast(chance: Tensor, happened: Tensor) -> Forecast:
    difference = happened.double() - chance
    error, interval = difference.mean().item(), None
    if len(difference) > 1:
        reach = _TWO_SIDED_95 * difference.std().item() / math.sqrt(len(difference))
        interval = Interval(error - reach, error + reach)
    return Forecast(chance.mean().item(), happened.double().mean().item(), error, interval)


def _range(chance: SwapProbability) -> Interval:
    mean, num_images = chance.swap.mean().item(), len(chance.swap)
    reach = _TWO_SIDED_95 * math.sqrt((chance.swap * (1 - chance.swap)).sum().item()) / num_images
    return Interval(max(0.0, mean - reach), min(1.0, mean + reach))


def _structure(noise: NoiseModel) -> tuple[float | None, float | None]:
    """Root mean square correlation between classes, and the participation ratio of the covariance's eigenvalues."""
    own, squares = noise.covariance.diagonal(), noise.covariance.square()
    square = squares.sum().item()
    if square <= 0:
        return None, None
    noisy = own > 0
    inverse = torch.where(noisy, own.reciprocal(), 0)  # a class without noise has no correlation
    num_noisy = int(noisy.sum())
    pairs = num_noisy * (num_noisy - 1)
    off = max(0.0, inverse.dot(squares @ inverse).item() - num_noisy)
    return math.sqrt(off / pairs) if pairs else None, own.sum().item() ** 2 / square
