"""Margins or noise: why one network swaps fewer predictions than another when both are quantized alike.

A network may hold its predictions because its margins are wide or because its noise is small, and training for
confidence changes both. With P(swap) known for any margins and any noise (`qcal.functional.swap_forecast`), the two can
be exchanged: `rate[A, B]` is the swap rate with A's float logits under B's noise. Going from A to B, the margins may
change first or the noise may; the mean over both orders shares the difference out completely:

    margins = (rate[B, A] - rate[A, A] + rate[B, B] - rate[A, B]) / 2
    noise   = (rate[A, B] - rate[A, A] + rate[B, B] - rate[B, A]) / 2
    margins + noise = rate[B, B] - rate[A, A]

Noise is measured in logits. A network whose logits are all twice as large, noise included, swaps the same predictions:
its margins then count in its favour and its noise against it, and the two cancel.

References:
    L. S. Shapley: A Value for n-Person Games, 1953 (with two players, the mean over both orders).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.bootstrap import RESAMPLES, Interval, percentile_interval, resampled_sums
from qcal.functional.score_inputs import check_rows
from qcal.functional.swap_forecast import estimate_noise, swap_probability
from qcal.functional.swaps import lowest_argmax
from qcal.robustness.forecast import check_held_out
from qcal.robustness.swap_shares import Estimate

__all__ = ["MarginsOrNoise", "QuantizedRun", "margins_or_noise"]


@dataclass(frozen=True)
class QuantizedRun:
    """One trained network at one setting.

    Attributes:
        float_logits: `(N, C)` of the compared images.
        held_out: Float and quantized logits `(M, C)` of other images, from which its noise is estimated.
        quant_logits: `(N, C)` of the compared images, to say what was measured; None if that is not wanted.
    """

    float_logits: Tensor
    held_out: tuple[Tensor, Tensor]
    quant_logits: Tensor | None = None


@dataclass(frozen=True)
class MarginsOrNoise:
    """The difference in swap rate between two runs, shared out; see `margins_or_noise`. Positive: B swaps more.

    Intervals are 95 % percentile intervals over resampled images, the same for both runs; the noise estimates are held
    fixed.

    Attributes:
        rate_a: A's forecast swap rate: its margins, its noise.
        rate_b: B's.
        rate_a_with_noise_of_b: A's margins under B's noise.
        rate_b_with_noise_of_a: B's margins under A's noise.
        difference: `rate_b - rate_a`, the sum of the two parts.
        margins: The part owed to margins.
        noise: The part owed to noise.
        measured_a: A's measured swap rate; None when its quantized logits were not given.
        measured_b: B's.
        measured_difference: `measured_b - measured_a`; None unless both are there.
        num_images: N.
        resamples: Bootstrap draws.
        seed: Of their generator.
    """

    rate_a: Estimate
    rate_b: Estimate
    rate_a_with_noise_of_b: Estimate
    rate_b_with_noise_of_a: Estimate
    difference: Estimate
    margins: Estimate
    noise: Estimate
    measured_a: Estimate | None
    measured_b: Estimate | None
    measured_difference: Estimate | None
    num_images: int
    resamples: int
    seed: int


def margins_or_noise(a: QuantizedRun, b: QuantizedRun, *, resamples: int = RESAMPLES, seed: int = 0) -> MarginsOrNoise:
    """Share the difference in swap rate between two runs at one setting out among their margins and their noise.

    Args:
        a: The run to start from, for example trained with cross-entropy.
        b: The run to explain, on the same images in the same order.
        resamples: Bootstrap draws.
        seed: Of the bootstrap.

    Returns:
        The four swap rates, the parts, and what was measured.

    Raises:
        TypeError: Logits that are not floating.
        ValueError: The runs are not of the same images and classes, or held-out logits that do not fit, are not finite,
            or are the compared ones.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits, held = torch.randn(500, 3, generator=generator), torch.randn(500, 3, generator=generator)
        >>> small, large = (held + std * torch.randn(500, 3, generator=generator) for std in (0.1, 0.2))
        >>> parts = margins_or_noise(QuantizedRun(logits, (held, small)), QuantizedRun(logits, (held, large)))
        >>> parts.margins.value, parts.noise.value == parts.difference.value
        (0.0, True)
    """
    _check_runs(a, b)
    noise_a, noise_b = estimate_noise(*a.held_out), estimate_noise(*b.held_out)
    chances = [
        swap_probability(logits, noise).swap
        for logits, noise in (
            (a.float_logits, noise_a),
            (b.float_logits, noise_b),
            (a.float_logits, noise_b),
            (b.float_logits, noise_a),
        )
    ]
    measured = [_swapped(run) for run in (a, b)]
    columns = torch.stack([*chances, *(swapped for swapped in measured if swapped is not None)], dim=1)
    num_images = len(columns)
    drawn = resampled_sums(columns, resamples=resamples, seed=seed) / num_images
    rates = torch.cat([columns.mean(dim=0, keepdim=True), drawn])  # the figures first, then each resample's
    own_a, own_b, a_with_b, b_with_a = (rates[:, place] for place in range(4))
    found = iter(rates[:, place] for place in range(4, rates.shape[1]))
    seen_a, seen_b = (None if swapped is None else next(found) for swapped in measured)
    return MarginsOrNoise(
        rate_a=_estimate(own_a),
        rate_b=_estimate(own_b),
        rate_a_with_noise_of_b=_estimate(a_with_b),
        rate_b_with_noise_of_a=_estimate(b_with_a),
        difference=_estimate(own_b - own_a),
        margins=_estimate(((b_with_a - own_a) + (own_b - a_with_b)) / 2),
        noise=_estimate(((a_with_b - own_a) + (own_b - b_with_a)) / 2),
        measured_a=None if seen_a is None else _estimate(seen_a),
        measured_b=None if seen_b is None else _estimate(seen_b),
        measured_difference=None if seen_a is None or seen_b is None else _estimate(seen_b - seen_a),
        num_images=num_images,
        resamples=resamples,
        seed=seed,
    )


def _estimate(rates: Tensor) -> Estimate:
    interval = percentile_interval(rates[1:])
    return Estimate(rates[0].item(), Interval(interval.low, interval.high))


def _swapped(run: QuantizedRun) -> Tensor | None:
    if run.quant_logits is None:
        return None
    return (lowest_argmax(run.float_logits) != lowest_argmax(run.quant_logits)).double().cpu()


def _check_runs(a: QuantizedRun, b: QuantizedRun) -> None:
    for name, run in (("a", a), ("b", b)):
        check_rows(run.float_logits, f"{name}.float_logits")
        check_held_out(run.float_logits, run.held_out)
        if run.quant_logits is not None and run.quant_logits.shape != run.float_logits.shape:
            raise ValueError(
                f"`{name}.quant_logits` must have the shape of its float logits, {tuple(run.float_logits.shape)}, got "
                f"{tuple(run.quant_logits.shape)}. Run both networks on the same images."
            )
    if a.float_logits.shape != b.float_logits.shape:
        raise ValueError(
            "Both runs must be of the same images and classes, got float logits "
            f"{tuple(a.float_logits.shape)} and {tuple(b.float_logits.shape)}. Compare runs on one data set."
        )
