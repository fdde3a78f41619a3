import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from qcal.functional.proper_scores import nll
from qcal.functional.temperature import fit_temperature
from qcal.functional.vector_scaling import fit_vector_scaling
from tests.functional.score_cases import random_logits


def test_distorted_logits_are_put_right_again() -> None:
    # Logits at their optimum are distorted class by class; the optimum is the inverse distortion.
    logits, target = random_logits(3000, 5)
    logits = logits.double()
    best = fit_vector_scaling(logits, target)
    honest = logits * best.scale + best.bias
    scale = torch.tensor([2.0, 0.5, 1.0, 4.0, 3.0], dtype=torch.float64)
    bias = torch.tensor([1.0, -1.0, 0.0, 2.0, -2.0], dtype=torch.float64)
    fit = fit_vector_scaling(honest * scale + bias, target)
    assert fit.converged
    torch.testing.assert_close(fit.scale, 1 / scale, rtol=1e-8, atol=0)
    torch.testing.assert_close(fit.bias, -bias / scale - (-bias / scale).mean(), rtol=0, atol=1e-8)
    assert fit.nll_after == pytest.approx(best.nll_after, rel=1e-12)


def test_it_is_the_minimum_that_another_solver_finds() -> None:
    logits, target = random_logits(400, 4)
    z, y = logits.double().numpy(), target.numpy()

    def loss(parameters: np.ndarray) -> float:
        scores = z * parameters[:4] + parameters[4:]
        top = scores.max(axis=1)
        return float(np.mean(top + np.log(np.exp(scores - top[:, None]).sum(axis=1)) - scores[np.arange(len(z)), y]))

    other = minimize(loss, np.r_[np.ones(4), np.zeros(4)], method="BFGS", options={"gtol": 1e-7})
    fit = fit_vector_scaling(logits, target)
    assert fit.nll_after == pytest.approx(other.fun, abs=1e-9)
    assert fit.scale.tolist() == pytest.approx(other.x[:4], abs=1e-4)
    assert fit.bias.tolist() == pytest.approx(other.x[4:] - other.x[4:].mean(), abs=1e-4)


def test_it_is_never_worse_than_one_temperature() -> None:
    for seed in range(5):
        logits, target = random_logits(seed=seed)
        fit = fit_vector_scaling(logits, target)
        assert fit.converged
        assert fit.nll_after <= fit_temperature(logits, target).nll_after + 1e-12
        assert fit.nll_before == nll(logits.double(), target).item()


def test_scaling_the_logits_scales_the_scale_back() -> None:
    logits, target = random_logits()
    one, other = fit_vector_scaling(logits.double(), target), fit_vector_scaling(logits.double() * 1e3, target)
    torch.testing.assert_close(other.scale * 1e3, one.scale, rtol=1e-9, atol=0)
    torch.testing.assert_close(other.bias, one.bias, rtol=0, atol=1e-9)


def test_the_bias_has_mean_zero_and_everything_is_float64() -> None:
    fit = fit_vector_scaling(*random_logits())
    assert fit.scale.dtype == fit.bias.dtype == torch.float64
    assert abs(fit.bias.mean().item()) < 1e-14
    assert fit.message.startswith("vector scaling converged: NLL ")


def test_a_class_without_samples_is_reported() -> None:
    logits, target = random_logits()
    kept = target != 3
    fit = fit_vector_scaling(logits[kept], target[kept])
    assert fit.unseen_classes == 1
    assert not fit.converged
    assert "1 classes have no sample" in fit.message


def test_separable_classes_are_reported() -> None:
    logits, _ = random_logits()
    fit = fit_vector_scaling(logits, logits.argmax(dim=1))
    assert not fit.converged
    assert "the classes may be separable" in fit.message


def test_classes_that_only_offsets_separate_are_reported() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    fit = fit_vector_scaling(logits, torch.tensor([0, 0, 1, 1]))
    assert fit_temperature(logits, torch.tensor([0, 0, 1, 1])).at_bound != "lower"
    assert not fit.converged
    assert fit.gain_left > 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 1 of 2 rows"):
        fit_vector_scaling(torch.tensor([[0.0, 1.0], [float("nan"), 0.0]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"must differ between classes"):
        fit_vector_scaling(torch.zeros(3, 2), torch.tensor([0, 1, 1]))
