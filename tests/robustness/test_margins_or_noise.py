import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from qcal.robustness import MarginsOrNoise, QuantizedRun, margins_or_noise


def _run(
    *, spread: float, noise: float, rows: int = 3000, seed: int = 0, classes: int = 5, held_out: int = 4000
) -> QuantizedRun:
    """The same images for every spread: the logits of one draw, stretched."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(rows, classes, generator=generator)
    held = spread * torch.randn(held_out, classes, generator=generator)
    generator = torch.Generator().manual_seed(100 + seed)
    after, held_after = (t + noise * torch.randn(t.shape, generator=generator) for t in (logits, held))
    return QuantizedRun(logits, (held, held_after), after)


def _values(parts: MarginsOrNoise) -> tuple[float, float, float]:
    return parts.margins.value, parts.noise.value, parts.difference.value


def test_parts_add_up_and_change_sign_with_the_order_of_runs() -> None:
    a, b = _run(spread=2.0, noise=0.5), _run(spread=1.5, noise=0.9, seed=1)
    there, back = margins_or_noise(a, b, resamples=50), margins_or_noise(b, a, resamples=50)
    margins, noise, difference = _values(there)
    assert margins + noise == pytest.approx(difference, abs=1e-12)
    assert difference == pytest.approx(there.rate_b.value - there.rate_a.value, abs=1e-12)
    assert _values(back) == pytest.approx([-value for value in _values(there)], abs=1e-12)
    assert margins > 0
    assert noise > 0


def test_equal_margins_leave_everything_to_noise() -> None:
    parts = margins_or_noise(_run(spread=2.0, noise=0.4), _run(spread=2.0, noise=0.8), resamples=50)
    assert parts.margins.value == 0
    assert parts.noise.value == parts.difference.value > 0.05


def test_equal_noise_leaves_almost_everything_to_margins() -> None:
    # The noise of both is drawn from one law, and estimated from 4,000 held-out images each.
    parts = margins_or_noise(_run(spread=1.0, noise=0.5), _run(spread=3.0, noise=0.5, seed=1), resamples=50)
    assert parts.difference.value < -0.1
    assert parts.noise.value == pytest.approx(0, abs=0.02 * abs(parts.difference.value))


def test_stretched_logits_with_stretched_noise_gain_and_lose_the_same() -> None:
    a = _run(spread=1.0, noise=0.5)
    assert a.quant_logits is not None
    held = (2 * a.held_out[0], 2 * a.held_out[1])
    b = QuantizedRun(2 * a.float_logits, held, 2 * a.quant_logits)
    parts = margins_or_noise(a, b, resamples=50)
    assert parts.difference.value == pytest.approx(0, abs=1e-6)
    assert parts.margins.value == pytest.approx(-parts.noise.value, abs=1e-6)
    assert parts.margins.value < -0.1


def test_a_constructed_split_is_recovered() -> None:
    """Two classes: rates are means of Phi(-margin / (noise sqrt 2)), so both parts have a closed form."""
    a = _run(spread=2.0, noise=0.5, classes=2, held_out=200_000)  # so many that the noise is as good as known
    b = _run(spread=1.2, noise=0.8, classes=2, held_out=200_000, seed=3)

    def rate(logits: Tensor, noise: float) -> float:
        margin = (logits[:, 0] - logits[:, 1]).abs().double()
        mean: Tensor = torch.special.ndtr(-margin / (noise * math.sqrt(2))).mean()
        return mean.item()

    aa, ab, ba, bb = (rate(run.float_logits, noise) for run in (a, b) for noise in (0.5, 0.8))
    parts = margins_or_noise(a, b)
    assert parts.rate_a_with_noise_of_b.value == pytest.approx(ab, rel=0.03)
    assert parts.rate_b_with_noise_of_a.value == pytest.approx(ba, rel=0.03)
    for found, expected in ((parts.margins, (ba - aa + bb - ab) / 2), (parts.noise, (ab - aa + bb - ba) / 2)):
        assert found.value == pytest.approx(expected, rel=0.1)
        assert found.bootstrap.low < expected < found.bootstrap.high


def test_measured_rates_stand_beside_the_forecast_ones() -> None:
    a, b = _run(spread=2.0, noise=0.5), _run(spread=2.0, noise=0.9, seed=1)
    parts = margins_or_noise(a, b)
    assert parts.measured_a is not None
    assert parts.measured_difference is not None
    assert a.quant_logits is not None
    swapped = (a.float_logits.argmax(dim=1) != a.quant_logits.argmax(dim=1)).double().mean().item()
    assert parts.measured_a.value == pytest.approx(swapped)
    assert parts.measured_a.bootstrap.low < parts.rate_a.value < parts.measured_a.bootstrap.high
    assert parts.measured_difference.bootstrap.low < parts.difference.value < parts.measured_difference.bootstrap.high


def test_without_quantized_logits_nothing_is_said_to_be_measured() -> None:
    a = replace(_run(spread=2.0, noise=0.5, rows=50), quant_logits=None)
    parts = margins_or_noise(a, _run(spread=2.0, noise=0.5, rows=50, seed=1), resamples=20)
    assert parts.measured_a is None
    assert parts.measured_b is not None
    assert parts.measured_difference is None
    assert json.dumps(asdict(parts), allow_nan=False)


@pytest.mark.slow
def test_intervals_cover_the_true_parts_as_often_as_they_say() -> None:
    """400 test sets from one population, whose noise is known; the truth is that of a very large set."""
    model = _run(spread=1.0, noise=0.5, classes=3)
    other = _run(spread=1.5, noise=0.9, classes=3, seed=1)
    generator = torch.Generator().manual_seed(5)

    def parts(rows: int, seed: int, resamples: int) -> MarginsOrNoise:
        logits = torch.randn(rows, 3, generator=generator)
        a, b = QuantizedRun(logits, model.held_out), QuantizedRun(1.5 * logits, other.held_out)
        return margins_or_noise(a, b, resamples=resamples, seed=seed)

    truth, held = parts(400_000, 0, 1), [0, 0]
    for repeat in range(400):
        found = parts(500, repeat, 1000)
        for place, (part, true) in enumerate(((found.margins, truth.margins), (found.noise, truth.noise))):
            held[place] += part.bootstrap.low <= true.value <= part.bootstrap.high
    assert all(0.93 <= count / 400 <= 0.97 for count in held), held


def test_runs_of_other_images_or_shapes_are_refused() -> None:
    a = _run(spread=1.0, noise=0.5, rows=50)
    with pytest.raises(ValueError, match="Both runs must be of the same images and classes"):
        margins_or_noise(a, _run(spread=1.0, noise=0.5, rows=40))
    with pytest.raises(ValueError, match=r"`b\.quant_logits` must have the shape of its float logits, \(50, 5\)"):
        margins_or_noise(a, replace(a, quant_logits=torch.zeros(50, 4)))
    with pytest.raises(ValueError, match="`held_out` must be logits of other images"):
        margins_or_noise(replace(a, held_out=(a.float_logits, a.float_logits)), a)
