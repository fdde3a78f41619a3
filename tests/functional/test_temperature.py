import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from torch import Tensor

from qcal.functional.proper_scores import nll
from qcal.functional.temperature import fit_temperature, scale_logits
from tests.functional.score_cases import random_logits

quick = settings(deadline=None, max_examples=30, derandomize=True)


def _two_classes(logit: float, right: int, wrong: int) -> tuple[Tensor, Tensor]:
    """Rows `(logit, 0)` of which `right` belong to class 0; the best T is `logit / log(right / wrong)`."""
    return torch.tensor([[logit, 0.0]] * (right + wrong), dtype=torch.float64), torch.tensor([0] * right + [1] * wrong)


def _root_by_scipy(logits: Tensor, target: Tensor) -> float:
    """Temperature from the derivative of the NLL, written in numpy and solved by Brent's method."""
    z = logits.double().numpy()
    own = z[np.arange(len(z)), target.numpy()]

    def slope(log_inverse: float) -> float:
        scaled = z * math.exp(log_inverse)
        weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return float(np.mean((weight * z).sum(axis=1) / weight.sum(axis=1) - own))

    return math.exp(-brentq(slope, -20, 20, xtol=1e-14, rtol=1e-14))


@pytest.mark.parametrize(("right", "wrong"), [(3, 1), (99, 1), (501, 499), (9999, 1)])
@pytest.mark.parametrize("logit", [1e-3, 2.0, 500.0])
def test_two_classes_have_a_closed_form(logit: float, right: int, wrong: int) -> None:
    fit = fit_temperature(*_two_classes(logit, right, wrong))
    assert fit.at_bound is None
    assert fit.temperature == pytest.approx(logit / math.log(right / wrong), rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_root_that_another_solver_finds(seed: int) -> None:
    logits, target = random_logits(seed=seed)
    assert fit_temperature(logits, target).temperature == pytest.approx(_root_by_scipy(logits, target), rel=1e-8)


@pytest.mark.parametrize("factor", [1e-3, 0.1, 10.0, 1e3])
def test_scaling_the_logits_scales_the_temperature(factor: float) -> None:
    logits, target = random_logits()
    logits = logits.double()
    one, scaled = fit_temperature(logits, target), fit_temperature(logits * factor, target)
    assert scaled.temperature == pytest.approx(one.temperature * factor, rel=1e-12)
    assert scaled.nll_after == pytest.approx(one.nll_after, rel=1e-12)
    assert scaled.search_range == pytest.approx([factor * end for end in one.search_range], rel=1e-12)


def test_a_shift_of_each_row_changes_nothing() -> None:
    logits, target = random_logits()
    shift = 100 * torch.randn(len(logits), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first, second = fit_temperature(logits.double(), target), fit_temperature(logits.double() + shift, target)
    assert second.temperature == pytest.approx(first.temperature, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fitted_network_has_temperature_one(dtype: torch.dtype) -> None:
    logits, target = random_logits()
    fit = fit_temperature(logits.double(), target)
    again = fit_temperature((logits.double() / fit.temperature).to(dtype), target)
    assert again.temperature == pytest.approx(1.0, rel=2e-8 if dtype == torch.float64 else 1e-6)


@quick
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_no_temperature_near_by_is_better_and_the_bracket_holds_it(seed: int, scale: float) -> None:
    logits, target = random_logits(60, 4, scale, seed)
    fit = fit_temperature(logits, target)
    assert fit.bracket[0] <= fit.temperature <= fit.bracket[1]
    assert fit.bracket[1] / fit.bracket[0] - 1 <= 1e-8
    assert fit.nll_after <= fit.nll_before + 1e-12
    for nudge in (0.999, 1.001):
        assert fit.nll_after <= nll(logits.double() / (fit.temperature * nudge), target).item() + 1e-12


def test_overconfident_logits_have_a_temperature_above_one() -> None:
    logits, target = random_logits()
    honest = logits / fit_temperature(logits, target).temperature
    assert fit_temperature(honest * 2.5, target).temperature == pytest.approx(2.5, rel=1e-5)
    assert fit_temperature(honest / 2.5, target).temperature == pytest.approx(0.4, rel=1e-5)


def test_when_every_prediction_is_right_the_temperature_runs_to_the_lower_end_and_says_so() -> None:
    logits, _ = random_logits()
    fit = fit_temperature(logits, logits.argmax(dim=1))
    assert fit.at_bound == "lower"
    assert fit.temperature == fit.search_range[0] == fit.bracket[0] == fit.bracket[1]
    assert "every prediction is right" in fit.message
    assert "Do not use" in fit.message


def test_at_chance_the_temperature_runs_to_the_upper_end_and_says_so() -> None:
    logits, _ = random_logits()
    fit = fit_temperature(logits, logits.argmin(dim=1))
    assert fit.at_bound == "upper"
    assert fit.temperature == fit.search_range[1]
    assert fit.nll_after == pytest.approx(math.log(10), rel=1e-5)
    assert "at or below chance" in fit.message


def test_the_message_of_a_good_fit_names_the_temperature_and_both_losses() -> None:
    fit = fit_temperature(*_two_classes(2.0, 3, 1))
    assert fit.message == "temperature 1.82047845 is optimal: NLL 0.626928 -> 0.562335."


def test_half_types_give_the_temperature_of_their_values() -> None:
    logits, target = random_logits()
    half = logits.bfloat16()
    assert fit_temperature(half, target).temperature == fit_temperature(half.double(), target).temperature


def test_the_fit_leaves_no_trace() -> None:
    logits, target = random_logits()
    before = logits.clone()
    fit_temperature(logits.requires_grad_(), target)
    assert torch.equal(logits, before)
    assert logits.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_refused_with_their_number(bad: float) -> None:
    logits, target = random_logits(10, 3)
    logits[4, 1] = logits[7, 2] = bad
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 2 of 10 rows with NaN or infinite values"):
        fit_temperature(logits, target)


def test_logits_that_never_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must differ between classes, got 3 rows of equal values"):
        fit_temperature(torch.full((3, 2), 5.0), torch.tensor([0, 1, 0]))


def test_targets_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 1\].*got 1 of 2 outside"):
        fit_temperature(torch.randn(2, 2), torch.tensor([0, 2]))


def test_scaled_logits_keep_their_type_and_a_temperature_must_be_positive() -> None:
    logits = torch.tensor([[2.0, -4.0]])
    assert scale_logits(logits, 2.0).tolist() == [[1.0, -2.0]]
    assert scale_logits(logits.bfloat16(), torch.tensor(2.0)).dtype == torch.bfloat16
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"`temperature` must be positive and finite, got"):
            scale_logits(logits, bad)
