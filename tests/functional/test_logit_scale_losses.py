"""Training temperature, logit normalization and the dial against their definitions and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.logit_scale_losses import confidence_dial_loss, logit_norm_loss, training_temperature_loss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(30, 6, generator=generator, dtype=torch.float64)
    return logits, torch.randint(6, (30,), generator=generator)


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 4.0])
def test_training_temperature_is_scaled_cross_entropy_of_scaled_logits(
    batch: tuple[Tensor, Tensor], temperature: float
) -> None:
    logits, target = batch
    expected = temperature * F.cross_entropy(logits / temperature, target)
    torch.testing.assert_close(training_temperature_loss(logits, target, temperature=temperature), expected)


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_training_temperature_s_gradient_is_softmax_minus_target(
    batch: tuple[Tensor, Tensor], temperature: float
) -> None:
    logits, target = batch[0].requires_grad_(), batch[1]
    (slope,) = torch.autograd.grad(training_temperature_loss(logits, target, temperature=temperature), logits)
    expected = (torch.softmax(logits.detach() / temperature, 1) - F.one_hot(target, 6)) / 30
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 4.0])
def test_the_best_raw_softmax_is_the_posterior_to_the_power_of_the_temperature(temperature: float) -> None:
    posterior = torch.tensor([[0.7, 0.15, 0.1, 0.05]], dtype=torch.float64)
    best = (temperature * posterior.log()).requires_grad_()
    (slope,) = torch.autograd.grad(training_temperature_loss(best, posterior, temperature=temperature), best)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)
    powered = posterior**temperature
    torch.testing.assert_close(best.detach().softmax(1), powered / powered.sum())


@pytest.mark.parametrize(("strength", "temperature"), [(-1.0, 0.25), (-0.5, 0.5), (0.0, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_the_dial_is_a_training_temperature_of_four_to_its_strength(
    batch: tuple[Tensor, Tensor], strength: float, temperature: float
) -> None:
    torch.testing.assert_close(
        confidence_dial_loss(*batch, strength=strength), training_temperature_loss(*batch, temperature=temperature)
    )


def test_logit_norm_is_cross_entropy_of_logits_of_length_one_over_tau(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    scaled = torch.stack([row / row.square().sum().sqrt() / 0.2 for row in logits])
    torch.testing.assert_close(logit_norm_loss(logits, target, tau=0.2), F.cross_entropy(scaled, target))


def test_logit_norm_does_not_see_the_length_of_the_logits(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    torch.testing.assert_close(logit_norm_loss(logits, target, tau=0.1), logit_norm_loss(50 * logits, target, tau=0.1))
    short = (logits / 10).requires_grad_()
    (slope,) = torch.autograd.grad(logit_norm_loss(short, target, tau=0.1), short)
    assert slope.abs().max() > 1e-4
    torch.testing.assert_close((slope * short).sum(1), torch.zeros(30).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1.0, 5.0])
def test_where_logit_norm_is_best_the_raw_softmax_is_a_power_of_the_posterior(length: float) -> None:
    tau = 0.1
    posterior = torch.tensor([[0.7, 0.15, 0.1, 0.05]], dtype=torch.float64)
    # Adding a constant to the logits keeps their softmax and lets them have the length 1 / tau.
    centred = posterior.log() - posterior.log().mean()
    scaled = centred + ((1 / tau**2 - centred.square().sum()) / 4).sqrt()
    raw = (length * tau * scaled).requires_grad_()
    (slope,) = torch.autograd.grad(logit_norm_loss(raw, posterior, tau=tau), raw)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)
    powered = posterior ** (tau * length)
    torch.testing.assert_close(raw.detach().softmax(1), powered / powered.sum())
    assert raw.softmax(1).max() < posterior.max()


def test_the_mixture_is_linear_in_its_share(batch: tuple[Tensor, Tensor]) -> None:
    whole, half = (logit_norm_loss(*batch, tau=0.1, mix=mix) for mix in (1.0, 0.5))
    torch.testing.assert_close(half, 0.5 * whole + 0.5 * F.cross_entropy(*batch))


def test_logits_of_zero_have_a_finite_gradient() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(logit_norm_loss(logits, torch.tensor([0, 2]), tau=0.04), logits)
    assert slope.isfinite().all()
