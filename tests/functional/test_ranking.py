import math
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from qcal.functional.ranking import rank_scores, ranking_quality

SAMPLES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=80)


@given(SAMPLES.filter(lambda rows: 0 < sum(hit for _, hit in rows) < len(rows)))
def test_agrees_with_scikit_learn_also_where_scores_tie(rows: list[tuple[int, bool]]) -> None:
    score, positive = (torch.tensor(column) for column in zip(*rows, strict=True))
    quality = ranking_quality(score.double(), positive)
    assert quality.auroc == pytest.approx(roc_auc_score(positive.numpy(), score.numpy()), abs=1e-12)
    assert quality.average_precision == pytest.approx(
        average_precision_score(positive.numpy(), score.numpy()), abs=1e-12
    )
    assert quality.prevalence == pytest.approx(positive.double().mean().item())


@given(SAMPLES, st.randoms(use_true_random=False))
def test_neither_order_of_samples_nor_a_rising_map_of_scores_matters(
    rows: list[tuple[int, bool]], random: Random
) -> None:
    score, positive = (torch.tensor(column) for column in zip(*rows, strict=True))
    order = list(range(len(rows)))
    random.shuffle(order)
    assert ranking_quality(score.double(), positive) == ranking_quality(score[order].double().exp(), positive[order])


def test_a_large_set_of_distinct_scores_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    score, positive = torch.rand(50_000, generator=generator), torch.rand(50_000, generator=generator) < 0.02
    quality = ranking_quality(score + 0.3 * positive, positive)
    assert quality.auroc == pytest.approx(roc_auc_score(positive, score + 0.3 * positive), abs=1e-12)
    assert quality.average_precision == pytest.approx(
        average_precision_score(positive, score + 0.3 * positive), abs=1e-12
    )


def test_a_score_that_never_differs_knows_nothing() -> None:
    quality = ranking_quality(torch.zeros(10), torch.arange(10) < 3)
    assert (quality.auroc, quality.prevalence) == (0.5, 0.3)
    assert quality.average_precision == pytest.approx(0.3)


@pytest.mark.parametrize(("positive", "auroc", "precision"), [(False, None, None), (True, None, 1.0)])
def test_without_both_outcomes_the_figures_are_undefined(
    positive: bool, auroc: float | None, precision: float | None
) -> None:
    quality = ranking_quality(torch.tensor([0.1]), torch.tensor([positive]))
    assert (quality.auroc, quality.average_precision) == (auroc, precision)


def test_ranks_serve_many_outcomes() -> None:
    score = torch.tensor([0.3, 0.1, 0.3, math.inf])
    ranked = rank_scores(score)
    assert ranked.group.tolist() == [1, 2, 1, 0]
    for positive in (torch.tensor([True, False, False, True]), torch.tensor([False, True, False, False])):
        assert ranking_quality(ranked, positive) == ranking_quality(score, positive)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`scores` must have shape \(N,\) with N >= 1, got \(0,\)"):
        rank_scores(torch.zeros(0))
    with pytest.raises(ValueError, match="`scores` must not be NaN, got 1 of 2"):
        rank_scores(torch.tensor([math.nan, 1.0]))
    with pytest.raises(ValueError, match=r"`positive` must have shape \(2,\), one outcome a score, got \(3,\)"):
        ranking_quality(torch.zeros(2), torch.zeros(3).bool())
    with pytest.raises(TypeError, match=r"`positive` must be a bool tensor, got torch\.int64"):
        ranking_quality(torch.zeros(2), torch.zeros(2).long())
