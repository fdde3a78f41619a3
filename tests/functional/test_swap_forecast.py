import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm
from torch import Tensor

from qcal.functional.prediction_summary import summarise_predictions
from qcal.functional.ranking import ranking_quality
from qcal.functional.swap_forecast import NoiseModel, estimate_noise, swap_probability
from qcal.functional.swaps import lowest_argmax


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _logits(rows: int, classes: int, seed: int = 1) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=_generator(seed))


def _covariance(classes: int, seed: int = 3) -> Tensor:
    root = torch.randn(classes, classes, generator=_generator(seed), dtype=torch.float64) / math.sqrt(classes)
    return root @ root.T + 0.2 * torch.eye(classes, dtype=torch.float64)


def _disturb(logits: Tensor, noise: NoiseModel, seed: int) -> Tensor:
    root: Tensor = torch.linalg.cholesky(noise.covariance).float()
    drawn = torch.randn(logits.shape, generator=_generator(seed))
    disturbed: Tensor = noise.scale * logits + noise.bias.float() + drawn @ root.T
    return disturbed


def _model(classes: int, *, scale: float = 0.9, bias: float = 0.3) -> NoiseModel:
    offsets = bias * torch.randn(classes, generator=_generator(7), dtype=torch.float64)
    return NoiseModel(scale, offsets, _covariance(classes), 1000)


def test_the_noise_that_was_made_is_estimated() -> None:
    model = _model(4)
    logits = _logits(60_000, 4)
    found = estimate_noise(logits, _disturb(logits, model, seed=2))
    assert found.scale == pytest.approx(0.9, abs=0.005)
    torch.testing.assert_close(found.lead_variance, model.lead_variance, rtol=0.03, atol=0.01)
    lead = found.bias[:, None] - found.bias
    torch.testing.assert_close(lead, model.bias[:, None] - model.bias, rtol=0, atol=0.02)
    assert found.num_images == 60_000


def test_the_covariance_is_that_of_numpy() -> None:
    logits = _logits(500, 5).double()
    after = _disturb(logits.float(), _model(5), seed=2).double()
    found = estimate_noise(logits, after)
    rest = (after - found.scale * logits - found.bias).numpy()
    np.testing.assert_allclose(found.covariance, np.cov(rest.T), rtol=1e-5, atol=1e-7)


def test_two_classes_are_exact() -> None:
    model = _model(2)
    logits = _logits(200, 2)
    found = swap_probability(logits, model).swap
    lead = model.scale * (logits[:, 0] - logits[:, 1]).double() + model.bias[0] - model.bias[1]
    lead = torch.where(logits[:, 0] >= logits[:, 1], lead, -lead)
    expected = norm.cdf(-(lead / model.lead_variance[0, 1].sqrt()).numpy())
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_three_classes_are_the_bivariate_normal_integral() -> None:
    model = _model(3)
    logits = _logits(40, 3)
    found = swap_probability(logits, model).swap
    for row, chance in zip(logits.double().numpy(), found.tolist(), strict=True):
        top = int(row.argmax())
        rivals = [k for k in range(3) if k != top]
        contrast = np.zeros((2, 3))
        contrast[:, top] = 1
        contrast[[0, 1], rivals] = -1
        lead = contrast @ (model.scale * row + model.bias.numpy())
        shared = contrast @ model.covariance.numpy() @ contrast.T
        assert shared[0, 1] > 0  # the form is exact where leads are not negatively correlated
        stays = multivariate_normal(mean=-lead, cov=shared).cdf(np.zeros(2))
        assert chance == pytest.approx(1 - stays, abs=2e-4)


def test_independent_noise_of_one_size_is_exact_for_many_classes() -> None:
    classes, rows = 30, 60
    model = NoiseModel(1.0, torch.zeros(classes).double(), 0.49 * torch.eye(classes).double(), 1000)
    logits = 0.5 * _logits(rows, classes)
    found = swap_probability(logits, model).swap
    # P(no swap) = E_u[prod_j Phi((m_j + s u) / s)] over the noise u of the predicted class, by a fine sum.
    u = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weight = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi) * (u[1] - u[0])
    for row, chance in zip(logits.double(), found.tolist(), strict=True):
        lead = (row.amax() - row) / 0.7
        rivals = lead[lead > 0]
        stays = (torch.special.log_ndtr(rivals[:, None] + u).sum(dim=0).exp() * weight).sum().item()
        assert chance == pytest.approx(1 - stays, abs=5e-4)


def test_correlated_noise_of_many_classes_is_close_to_sampling() -> None:
    model, logits = _model(20), _logits(2000, 20)
    forecast, top, draws = swap_probability(logits, model), lowest_argmax(logits), 400
    seen = sum((lowest_argmax(_disturb(logits, model, seed)) != top).double() for seed in range(draws)) / draws
    assert isinstance(seen, Tensor)
    assert forecast.swap.mean().item() == pytest.approx(seen.mean().item(), abs=0.01)
    chance_error = (seen * (1 - seen) / draws).mean().sqrt().item()
    assert (forecast.swap - seen).square().mean().sqrt().item() < 0.02 + chance_error


def test_a_known_noise_forecasts_the_rate_within_its_interval() -> None:
    model, logits = _model(10), _logits(20_000, 10)
    after = _disturb(logits, model, seed=11)
    forecast = swap_probability(logits, model)
    swapped = lowest_argmax(logits) != lowest_argmax(after)
    spread = (forecast.swap * (1 - forecast.swap)).sum().sqrt().item() / 20_000
    assert swapped.double().mean().item() == pytest.approx(forecast.swap.mean().item(), abs=3 * spread + 0.005)
    margin = logits.topk(2, dim=1).values.diff(dim=1).squeeze(1)  # negative: a narrow one is likely to fall
    ours, plain = (ranking_quality(score, swapped).auroc for score in (forecast.swap, margin))
    assert ours is not None
    assert plain is not None
    assert ours > plain + 0.01


def test_what_a_swap_does_is_weighed_by_float_probabilities() -> None:
    model = NoiseModel(1.0, torch.zeros(3).double(), torch.eye(3).double(), 100)
    probs = torch.tensor([[0.5, 0.3, 0.2]])
    forecast = swap_probability(probs.log(), model)
    weight = torch.special.ndtr(-(probs.log()[0, 0] - probs.log()[0, 1:]) / math.sqrt(2))
    after = (weight * probs[0, 1:]).sum() / weight.sum()
    assert forecast.right_before.item() == pytest.approx(0.5)
    assert forecast.right_after_swap.item() == pytest.approx(after.item(), rel=1e-5)
    torch.testing.assert_close(forecast.harmful, forecast.swap * 0.5)
    torch.testing.assert_close(forecast.beneficial, forecast.swap * forecast.right_after_swap)


def test_a_number_added_to_all_logits_of_an_image_changes_nothing() -> None:
    model, logits = _model(8), _logits(300, 8)
    moved = logits + torch.randn(300, 1, generator=_generator(5))
    torch.testing.assert_close(
        swap_probability(moved, model).swap, swap_probability(logits, model).swap, rtol=1e-4, atol=1e-5
    )


def test_common_noise_swaps_nothing_and_more_noise_swaps_more() -> None:
    logits = _logits(300, 6)
    common = NoiseModel(1.0, torch.zeros(6).double(), torch.ones(6, 6).double(), 100)
    assert swap_probability(logits, common).swap.amax().item() == 0
    model = _model(6, bias=0)
    rates = [
        swap_probability(logits, replace(model, covariance=size * model.covariance)).swap.mean().item()
        for size in (0.01, 0.1, 1.0, 10.0)
    ]
    assert rates == sorted(rates)
    assert rates[0] < 0.1 < 0.4 < rates[-1]


def test_without_noise_a_bias_decides_and_equals_do_not_swap() -> None:
    still = torch.zeros(3, 3).double()
    logits = torch.tensor([[1.0, 0.5, 0.0], [2.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    nothing = NoiseModel(1.0, torch.zeros(3).double(), still, 100)
    assert swap_probability(logits, nothing).swap.tolist() == [0, 0, 0]
    pushed = NoiseModel(1.0, torch.tensor([0.0, 1.0, 0.0]).double(), still, 100)
    assert swap_probability(logits, pushed).swap.tolist() == pytest.approx([1, 0, 1], abs=1e-12)


def test_identical_held_out_logits_have_no_noise() -> None:
    logits = _logits(50, 4)
    found = estimate_noise(logits, logits.clone())
    assert found.scale == pytest.approx(1.0)
    assert found.covariance.abs().amax().item() < 1e-12
    assert swap_probability(_logits(100, 4, seed=9), found).swap.amax().item() < 1e-6


def _plain(logits: Tensor, noise: NoiseModel) -> tuple[Tensor, Tensor]:
    """P(swap) and P(right | swapped) by the formulas of the module: every rival, 2,001 nodes, in float64."""
    node = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    weight = torch.exp(-node.square() / 2) / math.sqrt(2 * math.pi) * (node[1] - node[0])
    s, swaps, rights = noise.covariance, [], []
    for row in logits.double():
        p = int(row.argmax())
        q = noise.scale * row + noise.bias
        z = (q[p] - q) / noise.lead_variance[p].sqrt()
        z[p] = math.inf
        first, second = z.argsort()[:2].tolist()
        shared = (s[p, p] - s[p, first] - s[p, second] + s[first, second]) / (
            noise.lead_variance[p, first] * noise.lead_variance[p, second]
        ).sqrt()
        rho = shared.clamp(0, 0.98)
        at = (z[:, None] + rho.sqrt() * node) / (1 - rho).sqrt()
        swaps.append(-torch.expm1(torch.special.log_ndtr(at).sum(dim=0)) @ weight)
        alone = torch.special.ndtr(-z)
        rights.append((alone * row.softmax(0)).sum() / alone.sum().clamp(min=1e-300))
    return torch.stack(swaps), torch.stack(rights)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(3, 40),
    st.integers(0, 10_000),
    st.floats(0.02, 2),
    st.floats(0.2, 1.2) | st.floats(-0.5, -0.2),
    st.booleans(),
    st.booleans(),
)
def test_lists_of_near_rivals_give_the_integral_over_all(
    classes: int, seed: int, size: float, scale: float, biased: bool, double: bool
) -> None:
    logits = _logits(25, classes, seed)
    bias = biased * torch.randn(classes, generator=_generator(seed), dtype=torch.float64)
    noise = NoiseModel(scale, bias, size**2 * _covariance(classes, seed), 1000)
    found = swap_probability(logits.double() if double else logits, noise)
    swap, right = _plain(logits, noise)
    torch.testing.assert_close(found.swap, swap, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.swap * found.right_after_swap, swap * right, rtol=0, atol=2e-4)
    torch.testing.assert_close(found.right_before, logits.double().softmax(1).amax(1), rtol=1e-5, atol=1e-6)


def test_more_rivals_than_are_kept_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, logits = _model(30), _logits(3000, 30)
    whole = swap_probability(logits, model)
    monkeypatch.setattr("qcal.functional.swap_forecast._MOST_RIVALS", 100)
    monkeypatch.setattr("qcal.functional.prediction_summary._BLOCK_NUMBERS", 3000)
    parts = swap_probability(logits, model)
    torch.testing.assert_close(parts.swap, whole.swap, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(parts.right_after_swap, whole.right_after_swap, rtol=1e-5, atol=1e-7)


def test_a_summary_made_before_gives_the_same_and_another_is_refused() -> None:
    model, logits = _model(5), _logits(200, 5)
    made = swap_probability(logits, model, predictions=summarise_predictions(logits))
    assert torch.equal(made.swap, swap_probability(logits, model).swap)
    with pytest.raises(ValueError, match=r"`predictions` must be of the logits \(200, 5\), got a summary of 9 images"):
        swap_probability(logits, model, predictions=summarise_predictions(logits[:9]))


def test_half_logits_are_forecast_as_their_float32_values() -> None:
    model, logits = _model(5), _logits(200, 5).to(torch.bfloat16)
    assert torch.equal(swap_probability(logits, model).swap, swap_probability(logits.float(), model).swap)


def test_offsets_of_images_and_classes_do_not_blur_the_estimate() -> None:
    logits = _logits(3000, 4)
    after = _disturb(logits, _model(4), seed=2)
    plain = estimate_noise(logits, after)
    offset = 50 * torch.randn(3000, 1, generator=_generator(4))
    far = torch.tensor([0.0, 300.0, -300.0, 100.0])
    moved = estimate_noise(logits + offset + far, after + plain.scale * (offset + far))
    assert moved.scale == pytest.approx(plain.scale, abs=1e-4)
    torch.testing.assert_close(moved.lead_variance, plain.lead_variance, rtol=1e-3, atol=1e-3)


def test_strips_and_portions_of_the_covariance_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = _logits(700, 10)
    after = _disturb(logits, _model(10), seed=2)
    whole = estimate_noise(logits, after)
    monkeypatch.setattr("qcal.functional.noise_model._STRIP", 3)
    monkeypatch.setattr("qcal.functional.noise_model._GRAM_ROWS", 128)
    parts = estimate_noise(logits, after)
    torch.testing.assert_close(parts.covariance, whole.covariance, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(parts.covariance, parts.covariance.T, rtol=1e-5, atol=1e-7)


def test_bad_input_is_refused() -> None:
    logits = _logits(10, 3)
    with pytest.raises(ValueError, match=r"two tables of one shape \(M, C\) with M >= 2, got \(10, 3\) and \(9, 3\)"):
        estimate_noise(logits, logits[:9])
    with pytest.raises(ValueError, match="with M >= 2"):
        estimate_noise(logits[:1], logits[:1])
    broken = logits.clone()
    broken[2, 1] = math.nan
    with pytest.raises(ValueError, match="must be finite, got 1 of 10 rows"):
        estimate_noise(logits, broken)
    with pytest.raises(ValueError, match="must be finite, got 1 of 10 rows"):
        swap_probability(broken, _model(3))
    with pytest.raises(ValueError, match="`noise` must be of 3 classes as the logits, got 4"):
        swap_probability(logits, _model(4))
