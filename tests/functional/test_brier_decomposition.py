from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.brier_decomposition import isotonic_recalibration, top_label_brier_decomposition
from qcal.functional.proper_scores import top_label_brier
from tests.functional.score_cases import calibrated, top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)


@quick
@given(top_label())
def test_the_parts_add_up_and_none_is_negative(case: tuple[Tensor, Tensor]) -> None:
    parts = top_label_brier_decomposition(*case)
    total = parts.miscalibration - parts.discrimination + parts.uncertainty
    torch.testing.assert_close(total, parts.score, rtol=0, atol=1e-14)
    assert parts.miscalibration >= -1e-14
    assert parts.discrimination >= -1e-14
    assert 0 <= parts.uncertainty <= 0.25


@quick
@given(top_label(), st.randoms(use_true_random=False))
def test_order_does_not_matter_even_among_ties(case: tuple[Tensor, Tensor], random: Random) -> None:
    confidence, correct = case
    order = list(range(len(confidence)))
    random.shuffle(order)
    first = top_label_brier_decomposition(confidence, correct)
    second = top_label_brier_decomposition(confidence[order], correct[order])
    torch.testing.assert_close(second.miscalibration, first.miscalibration, rtol=0, atol=1e-14)
    torch.testing.assert_close(second.discrimination, first.discrimination, rtol=0, atol=1e-14)


@quick
@given(top_label())
def test_recalibrated_confidences_are_monotone_idempotent_and_have_no_miscalibration(
    case: tuple[Tensor, Tensor],
) -> None:
    confidence, correct = case
    fitted = isotonic_recalibration(confidence, correct)
    assert bool((fitted[confidence.argsort()].diff() >= -1e-14).all())
    torch.testing.assert_close(isotonic_recalibration(fitted.clamp(0, 1), correct), fitted, rtol=0, atol=1e-12)
    assert abs(top_label_brier_decomposition(fitted.clamp(0, 1), correct).miscalibration.item()) < 1e-12


def test_pooling_of_violators_worked_by_hand() -> None:
    confidence = torch.tensor([0.2, 0.4, 0.6, 0.8])
    correct = torch.tensor([False, True, False, True])
    assert isotonic_recalibration(confidence, correct).tolist() == [0.0, 0.5, 0.5, 1.0]
    assert top_label_brier_decomposition(confidence, correct).discrimination.item() == 0.25 - 0.125


def test_equal_confidences_get_one_value() -> None:
    for correct in ([True, False, True], [False, True, True], [True, True, False]):
        fitted = isotonic_recalibration(torch.full((3,), 0.9), torch.tensor(correct))
        assert fitted.tolist() == pytest.approx([2 / 3] * 3)


def test_calibrated_confidences_have_little_miscalibration_and_a_shift_adds_its_square() -> None:
    confidence, correct = calibrated(20_000)
    inside = confidence <= 0.8
    before = top_label_brier_decomposition(confidence[inside], correct[inside])
    after = top_label_brier_decomposition(confidence[inside] + 0.2, correct[inside])
    assert before.miscalibration < 0.002
    # E (p + s - c)^2 = E (p - c)^2 + s^2 + 2 s * (mean p - mean c), the last term sampling noise.
    assert (after.miscalibration - before.miscalibration).item() == pytest.approx(0.04, abs=0.003)
    torch.testing.assert_close(after.discrimination, before.discrimination, rtol=0, atol=1e-12)


def test_the_score_is_the_top_label_brier_score() -> None:
    confidence, correct = calibrated(100)
    torch.testing.assert_close(
        top_label_brier_decomposition(confidence, correct).score, top_label_brier(confidence, correct)
    )


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N,\) with N >= 1"):
        isotonic_recalibration(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
