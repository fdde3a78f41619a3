"""The focal family against its definitions written out, near p = 1, and at the edges of its ranges."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.focal_losses import dual_focal_loss, flsd_loss, focal_loss, inverse_focal_loss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(60, 5, generator=generator, dtype=torch.float64)
    return logits, torch.randint(5, (60,), generator=generator)


def written_out(logits: Tensor, target: Tensor, weight: list[float]) -> float:
    """The mean of weight * -log p_t, one sample at a time."""
    log_p = [row[t] for row, t in zip(logits.log_softmax(1).tolist(), target.tolist(), strict=True)]
    return float(sum(w * -value for w, value in zip(weight, log_p, strict=True)) / len(log_p))


def true_probs(logits: Tensor, target: Tensor) -> list[float]:
    return [row[t] for row, t in zip(logits.softmax(1).tolist(), target.tolist(), strict=True)]


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.0])
def test_focal_is_its_definition(batch: tuple[Tensor, Tensor], gamma: float) -> None:
    expected = written_out(*batch, weight=[(1 - p) ** gamma for p in true_probs(*batch)])
    assert focal_loss(*batch, gamma=gamma).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 3.5])
def test_inverse_focal_is_its_definition(batch: tuple[Tensor, Tensor], gamma: float) -> None:
    expected = written_out(*batch, weight=[(1 + p) ** gamma for p in true_probs(*batch)])
    assert inverse_focal_loss(*batch, gamma=gamma).item() == pytest.approx(expected, rel=1e-12)


def test_flsd_is_its_definition_with_a_step_at_a_fifth_and_a_half(batch: tuple[Tensor, Tensor]) -> None:
    probs = true_probs(*batch)
    assert min(probs) < 0.2 < 0.5 < max(probs)
    exponent = [5.0 if p < 0.2 else 4.0 if p < 0.5 else 1.5 for p in probs]
    expected = written_out(*batch, weight=[(1 - p) ** g for p, g in zip(probs, exponent, strict=True)])
    value = flsd_loss(*batch, gamma=1.5, gamma_below_half=4.0, gamma_below_fifth=5.0)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_flsd_counts_a_probability_on_a_step_to_the_upper_side() -> None:
    logits = torch.tensor([[0.0, 0.0]])
    value = flsd_loss(logits, torch.tensor([0]), gamma=0.0, gamma_below_half=9.0, gamma_below_fifth=9.0)
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)


def test_flsd_s_gradient_is_the_focal_gradient_of_each_sample_s_exponent(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0].requires_grad_(), batch[1]
    (slope,) = torch.autograd.grad(flsd_loss(logits, target), logits)
    for i, p in enumerate(true_probs(*batch)):
        row = logits[i : i + 1].detach().requires_grad_()
        alone = focal_loss(row, target[i : i + 1], gamma=5.0 if p < 0.2 else 3.0)
        (expected,) = torch.autograd.grad(alone / len(target), row)
        torch.testing.assert_close(slope[i : i + 1], expected)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_dual_focal_is_its_definition(batch: tuple[Tensor, Tensor], gamma: float) -> None:
    weights = []
    for row, p in zip(batch[0].softmax(1).tolist(), true_probs(*batch), strict=True):
        runner_up = max((q for q in row if q < p), default=0.0)
        weights.append((1 - p + runner_up) ** gamma)
    expected = written_out(*batch, weight=weights)
    assert dual_focal_loss(*batch, gamma=gamma).item() == pytest.approx(expected, rel=1e-12)


def test_dual_focal_looks_below_the_true_class_and_not_at_the_largest_other() -> None:
    logits = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    value = dual_focal_loss(logits, torch.tensor([1]), gamma=2.0)
    assert value.item() == pytest.approx((1 - 0.3 + 0.1) ** 2 * -math.log(0.3), rel=1e-6)


def test_dual_focal_skips_a_tie_with_the_true_class() -> None:
    logits = torch.log(torch.tensor([[0.4, 0.4, 0.2]]))
    value = dual_focal_loss(logits, torch.tensor([0]), gamma=2.0)
    assert value.item() == pytest.approx((1 - 0.4 + 0.2) ** 2 * -math.log(0.4), rel=1e-6)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])
def test_dual_focal_without_a_class_below_is_focal(row: list[float]) -> None:
    logits, target = torch.tensor([row], requires_grad=True), torch.tensor([0])
    dual, focal = dual_focal_loss(logits, target, gamma=3.0), focal_loss(logits, target, gamma=3.0)
    torch.testing.assert_close(dual, focal)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (dual, focal)))


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("function", [focal_loss, dual_focal_loss])
def test_a_probability_of_exactly_one_has_no_loss_and_no_gradient(
    function: Callable[..., Tensor], gamma: float
) -> None:
    logits = torch.tensor([[500.0, 0.0, -1.0]], requires_grad=True)
    loss = function(logits, torch.tensor([0]), gamma=gamma)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0
    assert torch.equal(slope, torch.zeros_like(slope))


def test_a_distribution_weighs_the_loss_of_each_class(batch: tuple[Tensor, Tensor]) -> None:
    logits, first = batch
    second = first.roll(1)
    mixed = 0.3 * F.one_hot(first, 5) + 0.7 * F.one_hot(second, 5)
    for function in (focal_loss, inverse_focal_loss, flsd_loss):
        value = function(logits, mixed, gamma=2.0)
        expected = 0.3 * function(logits, first, gamma=2.0) + 0.7 * function(logits, second, gamma=2.0)
        torch.testing.assert_close(value, expected)


def inverse_focal_slopes(gamma: float) -> Tensor:
    """The loss's slope along the true class's logit, for probabilities of 0.001 to 0.999."""
    logits = torch.stack(
        (torch.logit(torch.linspace(0.001, 0.999, 999).double()), torch.zeros(999)), 1
    ).requires_grad_()
    log_p = logits.log_softmax(1)[:, 0]
    (slope,) = torch.autograd.grad((-log_p * (1 + log_p.exp()) ** gamma).sum(), logits)
    return slope[:, 0]


def test_inverse_focal_falls_with_the_true_probability_up_to_its_largest_gamma_and_not_beyond() -> None:
    assert (inverse_focal_slopes(3.59) < 0).all()
    assert (inverse_focal_slopes(3.6) > 0).any()
    with pytest.raises(ValueError, match=r"`gamma` must be a number in \[0, 3.59\], got 3.6. Beyond"):
        inverse_focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=3.6)
