"""Label smoothing and its relatives against torch, closed forms and the definition written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qcal.functional.smoothing_losses import (
    confidence_penalty_loss,
    label_smoothing_loss,
    margin_label_smoothing_loss,
    max_sup_loss,
)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return 4 * torch.randn(40, 6, generator=generator), torch.randint(6, (40,), generator=generator)


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.9])
def test_label_smoothing_is_torchs(batch: tuple[Tensor, Tensor], epsilon: float) -> None:
    expected = F.cross_entropy(*batch, label_smoothing=epsilon)
    torch.testing.assert_close(label_smoothing_loss(*batch, epsilon=epsilon), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("epsilon", [0.3, -0.3])
def test_label_smoothing_is_torchs_for_distributions_and_either_sign(
    batch: tuple[Tensor, Tensor], epsilon: float
) -> None:
    logits, target = batch
    soft = torch.softmax(logits.roll(1, 0), 1)
    smoothed = (1 - epsilon) * soft + epsilon / 6
    expected = -(smoothed * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(label_smoothing_loss(logits, soft, epsilon=epsilon), expected)
    hard = (1 - epsilon) * F.one_hot(target, 6) + epsilon / 6
    torch.testing.assert_close(
        label_smoothing_loss(logits, target, epsilon=epsilon), -(hard * logits.log_softmax(1)).sum(1).mean()
    )


@pytest.mark.parametrize("epsilon", [0.2, -0.2])
def test_label_smoothing_pulls_the_true_logit_to_the_mean_logit(batch: tuple[Tensor, Tensor], epsilon: float) -> None:
    logits, target = batch
    pull = (logits.gather(1, target[:, None])[:, 0] - logits.mean(1)).mean()
    loss = label_smoothing_loss(logits, target, epsilon=epsilon)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target) + epsilon * pull)


def test_max_sup_is_label_smoothing_where_every_prediction_is_right(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch[0], batch[0].argmax(1)
    smoothed = label_smoothing_loss(logits, target, epsilon=0.15)
    torch.testing.assert_close(max_sup_loss(logits, target, penalty_weight=0.15), smoothed)


def test_max_sup_never_pushes_a_wrong_sample_s_true_class_down() -> None:
    logits = torch.tensor([[6.0, 0.0, -3.0]], requires_grad=True)
    target = torch.tensor([2])
    (max_sup,) = torch.autograd.grad(max_sup_loss(logits, target, penalty_weight=1.0), logits)
    (plain,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    assert max_sup[0, 2] < plain[0, 2] < 0
    assert max_sup[0, 0] > plain[0, 0]


@pytest.mark.parametrize(("margin", "penalty_weight"), [(0.0, 0.1), (3.0, 0.5), (6.0, 1.0)])
def test_margin_smoothing_is_its_definition(batch: tuple[Tensor, Tensor], margin: float, penalty_weight: float) -> None:
    logits, target = batch
    excess = [max(0.0, max(row) - value - margin) for row in logits.tolist() for value in row]
    expected = F.cross_entropy(logits, target).item() + penalty_weight * sum(excess) / len(excess)
    loss = margin_label_smoothing_loss(logits, target, margin=margin, penalty_weight=penalty_weight)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_margin_smoothing_leaves_logits_within_the_margin_alone(batch: tuple[Tensor, Tensor]) -> None:
    logits, target = batch
    span = (logits.amax(1) - logits.amin(1)).max().item()
    loss = margin_label_smoothing_loss(logits, target, margin=span + 0.1, penalty_weight=10.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target), rtol=1e-6, atol=0)


@pytest.mark.parametrize("penalty_weight", [0.7, -0.7])
def test_the_confidence_penalty_is_its_definition(batch: tuple[Tensor, Tensor], penalty_weight: float) -> None:
    logits, target = batch
    entropy = -torch.xlogy(logits.softmax(1), logits.softmax(1)).sum(1).mean()
    expected = F.cross_entropy(logits, target) + penalty_weight * (math.log(6) - entropy)
    torch.testing.assert_close(confidence_penalty_loss(logits, target, penalty_weight=penalty_weight), expected)


def test_the_confidence_penalty_is_zero_at_the_uniform_prediction() -> None:
    loss = confidence_penalty_loss(torch.zeros(3, 5), torch.tensor([0, 1, 4]), penalty_weight=9.0)
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6)


def test_the_confidence_bonus_never_pushes_the_true_class_down() -> None:
    # Two classes are the worst case: with more, the entropy at the same probability is larger.
    logits = torch.stack((torch.linspace(-9, 9, 2001), torch.zeros(2001)), 1).double().requires_grad_()
    target = torch.zeros(2001, dtype=torch.int64)
    (slope,) = torch.autograd.grad(confidence_penalty_loss(logits, target, penalty_weight=-3.59), logits)
    assert (slope[:, 0] < 0).all()


def test_negative_smoothing_has_no_lower_bound_as_its_docstring_warns() -> None:
    direction = torch.tensor([[1.0, 0.0, 0.0]])
    values = [label_smoothing_loss(s * direction, torch.tensor([0]), epsilon=-0.1).item() for s in (10.0, 100.0, 1e3)]
    assert values[0] > values[1] > values[2]
    assert values[2] < -50
