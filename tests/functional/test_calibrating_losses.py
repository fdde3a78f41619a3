"""The calibrating losses against their definitions written out and cases whose error is known."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.calibrating_losses import brier_loss, dca_loss, mdca_loss, mmce_loss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(11)
    logits = 2 * torch.randn(25, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(4, (25,), generator=generator)


@pytest.fixture
def calibrated() -> tuple[Tensor, Tensor]:
    """Twenty samples of one prediction, whose classes occur exactly as often as predicted."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)).expand(20, 3)
    return logits, torch.tensor([0] * 10 + [1] * 6 + [2] * 4)


def gaps(logits: Tensor, target: Tensor) -> list[tuple[float, float]]:
    """Confidence, and confidence minus correctness, of each sample."""
    found = []
    for row, t in zip(logits.softmax(1).tolist(), target.tolist(), strict=True):
        confidence = max(row)
        found.append((confidence, confidence - (row.index(confidence) == t)))
    return found


@pytest.mark.parametrize(("penalty_weight", "width"), [(1.0, 0.4), (3.0, 0.1)])
def test_mmce_is_its_definition(batch: tuple[Tensor, Tensor], penalty_weight: float, width: float) -> None:
    pairs = [(a, b) for a in gaps(*batch) for b in gaps(*batch)]
    squared = sum(ga * gb * math.exp(-abs(ca - cb) / width) for (ca, ga), (cb, gb) in pairs) / len(pairs)
    expected = F.cross_entropy(*batch).item() + penalty_weight * math.sqrt(squared)
    assert mmce_loss(*batch, penalty_weight=penalty_weight, width=width).item() == pytest.approx(expected, rel=1e-12)


def test_dca_is_its_definition(batch: tuple[Tensor, Tensor]) -> None:
    expected = F.cross_entropy(*batch).item() + 3.0 * abs(sum(gap for _, gap in gaps(*batch)) / 25)
    assert dca_loss(*batch, penalty_weight=3.0).item() == pytest.approx(expected, rel=1e-12)


def test_mdca_is_its_definition(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    mean_probs, labels = logits.softmax(1).mean(0).tolist(), target.tolist()
    distance = sum(abs(mean_probs[k] - labels.count(k) / 25) for k in range(4)) / 4
    expected = F.cross_entropy(logits, target).item() + 2.0 * distance
    assert mdca_loss(logits, target, penalty_weight=2.0).item() == pytest.approx(expected, rel=1e-12)


def test_brier_is_its_definition(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    squares = [
        (p - (k == t)) ** 2
        for row, t in zip(logits.softmax(1).tolist(), target.tolist(), strict=True)
        for k, p in enumerate(row)
    ]
    assert brier_loss(logits, target).item() == pytest.approx(sum(squares) / 25, rel=1e-12)
    half = 0.5 * sum(squares) / 25 + 0.5 * F.cross_entropy(logits, target).item()
    assert brier_loss(logits, target, mix=0.5).item() == pytest.approx(half, rel=1e-12)


@pytest.mark.parametrize("function", [mmce_loss, dca_loss, mdca_loss])
def test_a_calibrated_batch_has_no_calibration_error(
    function: Callable[..., Tensor], calibrated: tuple[Tensor, Tensor]
) -> None:
    value = function(*calibrated, penalty_weight=100.0)
    torch.testing.assert_close(value, F.cross_entropy(*calibrated), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.5, 2.0])
@pytest.mark.parametrize("function", [mmce_loss, dca_loss, mdca_loss])
def test_the_added_error_pushes_confidence_back(
    function: Callable[..., Tensor], calibrated: tuple[Tensor, Tensor], scale: float
) -> None:
    temperature = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    logits, target = calibrated[0] * temperature, calibrated[1]
    with_error = function(logits, target, penalty_weight=1.0)
    (slope,) = torch.autograd.grad(with_error - F.cross_entropy(logits, target), temperature)
    assert slope * (scale - 1) > 0.01


def test_mmce_sees_what_cancels_in_dca() -> None:
    # Half of the samples are sure and wrong half the time, the other half unsure and always right.
    probs = torch.tensor([[0.95, 0.05]] * 4 + [[0.55, 0.45]] * 4, dtype=torch.float64)
    target = torch.tensor([0, 0, 1, 1, 0, 0, 0, 0])
    plain = F.cross_entropy(probs.log(), target)
    assert (dca_loss(probs.log(), target, penalty_weight=1.0) - plain).item() == pytest.approx(0.0, abs=1e-12)
    assert (mmce_loss(probs.log(), target, penalty_weight=1.0) - plain).item() > 0.2


@pytest.mark.parametrize("function", [mmce_loss, dca_loss, mdca_loss])
def test_a_batch_without_error_has_a_gradient_of_zero(function: Callable[..., Tensor]) -> None:
    logits = torch.tensor([[500.0, 0.0], [0.0, 500.0]], requires_grad=True)
    loss = function(logits, torch.tensor([0, 1]), penalty_weight=2.0)
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert torch.equal(slope, torch.zeros_like(slope))


def test_mdca_and_brier_take_distributions(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    one_hot = F.one_hot(target, 4).float()
    for function in (lambda *b: mdca_loss(*b, penalty_weight=1.0), brier_loss):
        torch.testing.assert_close(function(logits, one_hot), function(logits, target))


def test_the_posterior_is_the_brier_score_s_best_prediction() -> None:
    posterior = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    logits = posterior.log().requires_grad_()
    (slope,) = torch.autograd.grad(brier_loss(logits, posterior), logits)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-15)


@pytest.mark.parametrize("function", [mmce_loss, dca_loss])
def test_losses_that_count_errors_refuse_distributions(function: Callable[..., Tensor]) -> None:
    with pytest.raises(TypeError, match=r"`target` must hold class indices.*got \(3, 4\).*asks whether.*without mixup"):
        function(torch.zeros(3, 4), torch.zeros(3, 4), penalty_weight=1.0)
