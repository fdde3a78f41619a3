"""What broke, and why: everything that float and quantized logits say about swaps and the noise behind them.

Conventions, the same in every figure. Of tied logits the lowest class is the prediction. Confidence, margin and entropy
are those of the softmax in the logits' own type (float32 for half types); equal scores share their rank. Bins are
`(lo, hi]`. Intervals are 95 %. An undefined figure is None, never a number.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.bootstrap import RESAMPLES
from qcal.functional.logit_noise import LogitNoise
from qcal.functional.migration import ClassMigration, ConfidenceMigration, class_migration, confidence_migration
from qcal.functional.score_inputs import check_rows
from qcal.functional.swap_curves import SwapCurve, swap_curve
from qcal.robustness.float_reference import FloatReference, float_reference
from qcal.robustness.forecast import SwapForecast, score_forecast
from qcal.robustness.foresight import ConfidenceDistribution, Foresight, confidence_distribution, foresight
from qcal.robustness.noise_analysis import read_quantized
from qcal.robustness.swap_shares import SwapShares, swap_shares

__all__ = ["SwapAnalysis", "analyse_swaps"]

_NO_HELD_OUT = "No held-out logits were given, so there is no forecast: noise must be measured on other images."


@dataclass(frozen=True)
class SwapAnalysis:
    """Swaps and noise of one setting; see `analyse_swaps`. Plain values only: `dataclasses.asdict` of it is JSON.

    Attributes:
        num_images: N.
        num_classes: C.
        shares: Swaps by what they did, with intervals, and McNemar's test.
        curves: By score of the float network (`confidence`, `margin`, `entropy`, `logit_margin`), swaps in bins of
            equal width and in bins of equal count.
        swapped_confidence: Float confidence of the predictions that changed.
        unswapped_confidence: Float confidence of the others.
        foresight: By score, how well it foretold the swaps.
        confidence_migration: Float confidence against quantized confidence.
        class_migration: Which classes swaps left and where they went.
        noise: What was added to the logits.
        forecast: Swaps forecast from margins and held-out noise; None without held-out logits.
        forecast_missing: Why there is no forecast; None when there is one.
    """

    num_images: int
    num_classes: int
    shares: SwapShares
    curves: dict[str, tuple[SwapCurve, SwapCurve]]
    swapped_confidence: ConfidenceDistribution
    unswapped_confidence: ConfidenceDistribution
    foresight: dict[str, Foresight]
    confidence_migration: ConfidenceMigration
    class_migration: ClassMigration
    noise: LogitNoise
    forecast: SwapForecast | None
    forecast_missing: str | None


def analyse_swaps(
    float_logits: Tensor,
    quant_logits: Tensor,
    target: Tensor,
    *,
    held_out: tuple[Tensor, Tensor] | None = None,
    reference: FloatReference | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> SwapAnalysis:
    """Analyse what quantization did to predictions, from logits alone.

    The logits are read once, in blocks that stay in cache; no second table of their size is made.

    Args:
        float_logits: `(N, C)` floating and finite, N >= 1, C >= 2.
        quant_logits: `(N, C)` of the same images in the same order.
        target: `(N,)` int64 in [0, C).
        held_out: Float and quantized logits `(M, C)` of images that are not among the compared ones, for the forecast;
            None leaves it out.
        reference: `float_reference(float_logits, target)`, to be made once when many settings are compared with one
            float network; None makes it.
        resamples: Bootstrap draws.
        seed: Of the bootstrap; torch's global generator is not touched.

    Returns:
        The analysis.

    Raises:
        TypeError: Wrong types.
        ValueError: Shapes do not fit, values are not finite, targets out of range, held-out logits that do not fit or
            are the compared ones, or a reference made of other logits.

    Example:
        >>> before = torch.tensor([[2.0, 0.0], [0.1, 0.0], [0.0, 1.0]])
        >>> after = torch.tensor([[1.5, 0.0], [0.0, 0.1], [0.0, 1.0]])
        >>> analysis = analyse_swaps(before, after, torch.tensor([0, 0, 1]))
        >>> analysis.shares.harmful.count, analysis.foresight["confidence"].auroc
        (1, 1.0)
        >>> analysis.class_migration.largest_flows[0].destination, analysis.forecast
        (1, None)
    """
    check_rows(float_logits, "float_logits")
    check_rows(quant_logits, "quant_logits")
    if float_logits.shape != quant_logits.shape:
        raise ValueError(
            f"`float_logits` and `quant_logits` must have one shape, got {tuple(float_logits.shape)} and "
            f"{tuple(quant_logits.shape)}. Run both networks on the same images."
        )
    if reference is None:
        reference = float_reference(float_logits, target)
    _check_reference(reference, float_logits, target)
    rows, noise = read_quantized(float_logits, quant_logits, reference.predictions)
    target, before = reference.target, reference.predictions
    swapped, right_after = before.prediction != rows.prediction, rows.prediction == target
    forecast = None
    if held_out is not None:
        forecast = score_forecast(
            float_logits, held_out, before.prediction, rows.prediction, target, predictions=before
        )
    return SwapAnalysis(
        num_images=len(target),
        num_classes=before.num_classes,
        shares=swap_shares(
            before.prediction,
            rows.prediction,
            target,
            tied=rows.tied,
            float_class_on_top=rows.float_class_on_top,
            resamples=resamples,
            seed=seed,
        ),
        curves={
            name: (
                swap_curve(widths, swapped, reference.right, right_after),
                swap_curve(counts, swapped, reference.right, right_after),
            )
            for name, (widths, counts) in reference.bins.items()
        },
        swapped_confidence=confidence_distribution(before.confidence[swapped], reference.right[swapped]),
        unswapped_confidence=confidence_distribution(before.confidence[~swapped], reference.right[~swapped]),
        foresight=foresight(reference, swapped),
        confidence_migration=confidence_migration(before.confidence, rows.confidence, swapped),
        class_migration=class_migration(before.prediction, rows.prediction, target, num_classes=before.num_classes),
        noise=noise,
        forecast=forecast,
        forecast_missing=None if forecast else _NO_HELD_OUT,
    )


def _check_reference(reference: FloatReference, float_logits: Tensor, target: Tensor) -> None:
    """Refuse a reference of other logits or labels, as far as a look at its ends can tell."""
    summary = reference.predictions
    fits = len(summary.prediction) == len(float_logits) and summary.num_classes == float_logits.shape[1]
    if fits:
        ends = [0, len(float_logits) // 2, -1]
        top = float_logits[ends].amax(dim=1).cpu().to(summary.top_logit.dtype)
        fits = torch.equal(top, summary.top_logit[ends]) and torch.equal(reference.target, target.cpu())
    if not fits:
        raise ValueError(
            f"`reference` must be made of the same logits and target, got one of {len(summary.prediction)} images and "
            f"{summary.num_classes} classes for logits {tuple(float_logits.shape)}. Pass "
            "`float_reference(float_logits, target)`."
        )
