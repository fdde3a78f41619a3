import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from qcal.functional import per_image_scores as module
from qcal.functional.confidence import confidence_from_logits
from qcal.functional.per_image_scores import RowScores, row_scores
from qcal.functional.proper_scores import brier_score, nll
from tests.functional.score_cases import random_logits

quick = settings(deadline=None, max_examples=40, derandomize=True)


def test_means_are_the_scores_of_the_whole() -> None:
    logits, target = random_logits(300, 7)
    rows = row_scores(logits, target, temperature=1.7)
    scaled = logits.double() / 1.7
    confidence, prediction = confidence_from_logits(scaled)
    torch.testing.assert_close(rows.confidence, confidence, rtol=0, atol=1e-6)
    assert torch.equal(rows.correct, prediction == target)
    assert rows.nll.mean().item() == pytest.approx(nll(scaled, target).item(), abs=1e-6)
    assert rows.brier.mean().item() == pytest.approx(brier_score(torch.softmax(scaled, 1), target).item(), abs=1e-6)


def test_nll_is_that_of_scikit_learn() -> None:
    logits, target = random_logits(300, 7)
    probs = torch.softmax(logits.double() / 2.5, dim=1)
    expected = log_loss(target.numpy(), probs.numpy(), labels=list(range(7)))
    assert row_scores(logits.double(), target, temperature=2.5).nll.mean().item() == pytest.approx(expected, rel=1e-12)


def test_uniform_rows_have_closed_form() -> None:
    rows = row_scores(torch.zeros(2, 4), torch.tensor([0, 3]))
    assert rows.nll.tolist() == pytest.approx([math.log(4)] * 2)
    assert rows.brier.tolist() == pytest.approx([9 / 16 + 3 / 16] * 2)
    assert rows.correct.tolist() == [True, False]  # of tied classes the lowest


@quick
@given(st.integers(0, 1000), st.floats(0.05, 50))
def test_a_temperature_changes_no_prediction_and_each_row_has_its_own(seed: int, temperature: float) -> None:
    logits, target = random_logits(20, 4, seed=seed)
    plain, scaled = row_scores(logits, target), row_scores(logits, target, temperature=temperature)
    assert torch.equal(plain.correct, scaled.correct)
    each = torch.where(torch.arange(20) < 10, 1.0, temperature).double()
    mixed = row_scores(logits, target, temperature=each)
    assert torch.equal(mixed.nll[:10], plain.nll[:10])
    assert torch.equal(mixed.nll[10:], scaled.nll[10:])


def test_a_temperature_that_rounds_two_logits_together_still_changes_no_prediction() -> None:
    steps = torch.arange(16)
    logits = 1.75 + torch.finfo(torch.float32).eps * torch.stack([steps, steps + 1], dim=1)
    rounded = logits / 1.5
    assert bool((rounded[:, 0] == rounded[:, 1]).any())
    assert bool(row_scores(logits, torch.ones(16, dtype=torch.int64), temperature=1.5).correct.all())


def test_slices_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = random_logits(101, 5)
    temperature = torch.linspace(0.5, 3, 101, dtype=torch.float64)
    whole = row_scores(logits, target, temperature=temperature)
    monkeypatch.setattr(module, "_SLICE_NUMBERS", 35)
    parts = row_scores(logits, target, temperature=temperature)
    for name in vars(whole):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_float64_whatever_the_logits_are(dtype: torch.dtype) -> None:
    logits, target = random_logits(10, 3)
    rows: RowScores = row_scores(logits.to(dtype), target)
    assert [rows.confidence.dtype, rows.nll.dtype, rows.brier.dtype] == [torch.float64] * 3


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"`temperature` must be positive and finite, got 1 of 1 .* changes nothing"):
        row_scores(torch.zeros(2, 3), torch.tensor([0, 1]), temperature=temperature)


@pytest.mark.parametrize("shape", [(3,), (2, 1)])
def test_temperatures_of_other_rows_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`temperature` must be one number or \(2,\), one for each row"):
        row_scores(torch.zeros(2, 3), torch.tensor([0, 1]), temperature=torch.ones(shape))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 1 of"):
        row_scores(torch.tensor([[0.0, 1.0], [bad, 0.0]]), torch.tensor([0, 0]))
