import itertools
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcal.functional.selective import augrc, aurc, risk_at_coverage, risk_coverage_curve
from tests.functional.score_cases import top_label

quick = settings(deadline=None, max_examples=60, derandomize=True)


def _aurc_in_order(wrong: list[bool]) -> float:
    """AURC of predictions in a given order, most confident first, without any treatment of ties."""
    risk = [sum(wrong[:k]) / k for k in range(1, len(wrong) + 1)]
    if len(risk) == 1:
        return risk[0]
    return sum((low + high) / 2 for low, high in itertools.pairwise(risk)) / (len(risk) - 1)


def test_the_curve_without_ties_counts_errors_in_order() -> None:
    curve = risk_coverage_curve(torch.tensor([0.6, 0.9, 0.8]), torch.tensor([False, True, False]))
    assert curve.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 2 / 3])
    assert curve.joint_risk.tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_ties_give_the_mean_over_all_orders() -> None:
    confidence = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.5, 0.25])
    correct = torch.tensor([True, False, True, False, True, False])
    values = []
    for first in itertools.permutations([0, 1, 2]):
        for second in itertools.permutations([3, 4]):
            values.append(_aurc_in_order([not bool(correct[i]) for i in (*first, *second, 5)]))
    assert min(values) < max(values)
    assert aurc(confidence, correct).item() == pytest.approx(sum(values) / len(values), abs=1e-14)


@quick
@given(top_label(), st.randoms(use_true_random=False))
def test_order_does_not_matter(case: tuple[Tensor, Tensor], random: Random) -> None:
    confidence, correct = case
    order = list(range(len(confidence)))
    random.shuffle(order)
    for score in (aurc, augrc, risk_at_coverage):
        torch.testing.assert_close(
            score(confidence[order], correct[order]), score(confidence, correct), rtol=0, atol=1e-14
        )


@quick
@given(top_label())
def test_augrc_is_its_closed_form_in_auroc_and_accuracy(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    right, wrong = confidence[correct].double(), confidence[~correct].double()
    lost = (right[:, None] < wrong).double().sum() + 0.5 * (right[:, None] == wrong).double().sum()
    error = len(wrong) / len(confidence)
    expected = lost.item() / len(confidence) ** 2 + error**2 / 2
    assert augrc(confidence, correct).item() == pytest.approx(expected, abs=1e-12)


@quick
@given(top_label())
def test_only_the_order_of_confidences_counts(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    for score in (aurc, augrc):
        torch.testing.assert_close(score(confidence.double() ** 3 / 2, correct), score(confidence.double(), correct))


@quick
@given(top_label())
def test_scores_are_in_range_and_full_coverage_has_the_error(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    assert 0 <= aurc(confidence, correct) <= 1
    assert 0 <= augrc(confidence, correct) <= 0.5
    error = 1 - correct.double().mean()
    torch.testing.assert_close(risk_at_coverage(confidence, correct, coverage=1.0), error)


def test_a_perfect_ranking_beats_none_and_none_beats_the_reverse() -> None:
    confidence = torch.linspace(0.1, 1, 10)
    correct = confidence > 0.5
    none = torch.full((10,), 0.5)
    for score in (aurc, augrc):
        assert score(confidence, correct) < score(none, correct) < score(1.1 - confidence, correct)


def test_without_any_ranking_the_risk_is_the_error_everywhere() -> None:
    curve = risk_coverage_curve(torch.full((8,), 1.0), torch.tensor([True, False] * 4))
    assert curve.risk.tolist() == pytest.approx([0.5] * 8)


@pytest.mark.parametrize(("coverage", "kept"), [(0.55, 55), (0.551, 56), (1e-9, 1), (0.29, 29), (1.0, 100)])
def test_coverage_keeps_the_next_whole_number_of_samples(coverage: float, kept: int) -> None:
    confidence = torch.linspace(1, 0, 100, dtype=torch.float64)
    curve = risk_coverage_curve(confidence, torch.arange(100) % 3 > 0)
    value = risk_at_coverage(confidence, torch.arange(100) % 3 > 0, coverage=coverage)
    assert value.item() == curve.risk[kept - 1].item()


@pytest.mark.parametrize("coverage", [0.0, -0.5, 80.0, float("nan")])
def test_coverage_out_of_range_is_refused(coverage: float) -> None:
    with pytest.raises(
        ValueError, match=r"`coverage` must be in \(0, 1\], got .* Pass a share such as 0.8, not percent"
    ):
        risk_at_coverage(torch.tensor([0.5]), torch.tensor([True]), coverage=coverage)


def test_a_single_sample_has_its_own_error() -> None:
    assert aurc(torch.tensor([0.7]), torch.tensor([False])).item() == 1.0
    assert augrc(torch.tensor([0.7]), torch.tensor([False])).item() == 0.5


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N,\) with N >= 1"):
        aurc(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
