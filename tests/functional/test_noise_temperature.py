import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls
from torch import Tensor

from qcal.functional import noise_temperature as module
from qcal.functional.noise_temperature import NoiseTemperatureFit, fit_noise_temperature
from qcal.functional.proper_scores import nll
from qcal.functional.temperature import fit_temperature

quick = settings(deadline=None, max_examples=12, derandomize=True)


def noisy_case(
    num: int = 2000, classes: int = 10, noise: float = 1.5, slope: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Overconfident logits (best temperature 2), the same with Gaussian noise, and targets from the true model."""
    generator = torch.Generator().manual_seed(seed)
    size = 1 + 4 * torch.rand(num, 1, generator=generator, dtype=torch.float64)
    logits = size * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(logits / 2, dim=1), 1, generator=generator).squeeze(1)
    width = (noise**2 + slope * logits.var(dim=1, keepdim=True)).sqrt()
    return logits, logits + width * torch.randn(num, classes, generator=generator, dtype=torch.float64), target


def scaled_nll(fit: NoiseTemperatureFit, logits: Tensor, target: Tensor) -> float:
    return nll(logits / fit.temperature(logits)[:, None], target).item()


@quick
@given(st.integers(0, 100), st.floats(0.1, 3), st.floats(0, 0.5))
def test_parts_are_the_optimum_that_scipy_finds(seed: int, noise: float, slope: float) -> None:
    logits, noisy, target = noisy_case(400, 6, noise, slope, seed)
    fit = fit_noise_temperature(logits, noisy, target)
    damping = (1 + math.pi / 4 * fit.forecast(noisy) / fit.float_temperature**2).rsqrt()

    def loss(parts: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
        return nll(noisy * (parts[0] + parts[1] * damping)[:, None], target).item()

    start = [0.3, 0.3]
    found = minimize(loss, start, bounds=[(0, None)] * 2, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10})
    assert fit.nll_after <= found.fun + 1e-9
    assert fit.nll_after == pytest.approx(loss(np.array([fit.constant, fit.noise])), abs=1e-12)
    assert min(fit.constant, fit.noise) >= 0


@quick
@given(st.integers(0, 100), st.floats(0.1, 3), st.floats(0, 0.5))
def test_the_forecast_is_the_least_squares_line_with_no_negative_part(seed: int, noise: float, slope: float) -> None:
    logits, noisy, target = noisy_case(300, 6, noise, slope, seed)
    fit = fit_noise_temperature(logits, noisy, target)
    columns = np.stack([np.ones(300), noisy.var(dim=1).numpy()], axis=1)
    expected, _ = nnls(columns, (noisy - logits).var(dim=1).numpy())
    assert [fit.noise_floor, fit.noise_slope] == pytest.approx(expected.tolist(), rel=1e-6, abs=1e-9)


def test_the_noise_that_was_added_is_forecast() -> None:
    logits, noisy, target = noisy_case(20_000, noise=1.5)
    fit = fit_noise_temperature(logits, noisy, target)
    assert fit.forecast(noisy).mean().item() == pytest.approx(1.5**2, rel=0.01)
    assert fit.float_temperature == pytest.approx(2, rel=0.03)


@quick
@given(st.integers(0, 100), st.floats(0.0, 3))
def test_it_is_never_worse_than_one_temperature_where_it_is_fitted(seed: int, noise: float) -> None:
    logits, noisy, target = noisy_case(300, 5, noise, 0.1, seed)
    fit = fit_noise_temperature(logits, noisy, target)
    one = fit_temperature(noisy, target)
    assert [fit.nll_before, fit.nll_one_temperature] == pytest.approx([one.nll_before, one.nll_after], abs=1e-12)
    assert fit.nll_after <= fit.nll_one_temperature
    assert scaled_nll(fit, noisy, target) == pytest.approx(fit.nll_after, abs=1e-12)


def test_without_noise_it_is_exactly_the_float_temperature() -> None:
    logits, _, target = noisy_case(300)
    fit = fit_noise_temperature(logits, logits.clone(), target)
    assert (fit.noise_floor, fit.noise_slope, fit.noise) == (0.0, 0.0, 0.0)
    assert set(fit.temperature(logits).tolist()) == {fit_temperature(logits, target).temperature}


def test_it_gains_on_new_images_where_noise_differs_between_images() -> None:
    """A third of the images get twelve times the noise of the others, and show it by the size of their logits."""

    def draw(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        logits, _, target = noisy_case(6000, noise=0.0, seed=seed)
        generator = torch.Generator().manual_seed(seed + 1)
        width = torch.where(torch.rand(6000, 1, generator=generator) < 1 / 3, 6.0, 0.5)
        return logits, logits + width * torch.randn(logits.shape, generator=generator), target

    fit = fit_noise_temperature(*draw(0))
    _, noisy, target = draw(10)
    one = nll(noisy / fit.one_temperature, target).item()
    assert scaled_nll(fit, noisy, target) < one - 0.02


def test_temperatures_are_positive_change_no_prediction_and_grow_with_the_forecast() -> None:
    logits, noisy, target = noisy_case(2000, noise=0.5, slope=0.5)
    fit = fit_noise_temperature(logits, noisy, target)
    temperature = fit.temperature(noisy)
    assert bool((temperature > 0).all())
    assert torch.equal((noisy / temperature[:, None]).argmax(dim=1), noisy.argmax(dim=1))
    order = fit.forecast(noisy).argsort()
    assert bool((temperature[order].diff() >= -1e-12).all())
    assert temperature.max() > temperature.min()


def test_slices_do_not_change_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = noisy_case(101, 5, slope=0.3)
    whole = fit_noise_temperature(*case)
    monkeypatch.setattr(module, "_SLICE_NUMBERS", 35)
    parts = fit_noise_temperature(*case)
    assert vars(parts) == pytest.approx(vars(whole), rel=1e-6, abs=1e-9)


def test_networks_without_a_best_temperature_are_refused() -> None:
    right = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match=r"`float_logits` must have a best temperature, got none: .*every prediction"):
        fit_noise_temperature(right, right, torch.tensor([0, 1]))
    mixed = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [3.0, 0.0], [2.0, 0.0]])
    target = torch.tensor([0, 1, 1, 0, 0])
    with pytest.raises(
        ValueError, match=r"`quant_logits` must have a best temperature, got none: .*at or below chance"
    ):
        fit_noise_temperature(mixed, -mixed, target)


def test_other_shapes_and_nan_are_refused() -> None:
    logits, noisy, target = noisy_case(50)
    with pytest.raises(ValueError, match=r"must have one shape, got \(50, 10\) and \(49, 10\)"):
        fit_noise_temperature(logits, noisy[1:], target)
    noisy[3, 3] = math.nan
    with pytest.raises(ValueError, match="must be finite, got 1 of 50"):
        fit_noise_temperature(logits, noisy, target)
    fit = fit_noise_temperature(logits, logits, target)
    with pytest.raises(ValueError, match="must be finite, got 1 of 50"):
        fit.temperature(noisy)
