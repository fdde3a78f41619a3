import copy

import pytest
import torch
from torch import nn

from qcal.functional.temperature import fit_temperature
from qcal.models.scalers import TemperatureScaler, VectorScaler
from tests.functional.score_cases import random_logits


def test_before_the_fit_logits_pass_unchanged() -> None:
    logits, _ = random_logits()
    assert torch.equal(TemperatureScaler()(logits), logits)
    assert torch.equal(VectorScaler(10)(logits), logits)


def test_a_fitted_temperature_divides_the_logits_and_keeps_the_predictions() -> None:
    logits, target = random_logits()
    scaler = TemperatureScaler()
    fit = scaler.fit(logits, target)
    assert scaler.temperature.item() == pytest.approx(fit_temperature(logits, target).temperature, rel=1e-7)
    scaled = scaler(logits)
    torch.testing.assert_close(scaled, logits / fit.temperature)
    assert torch.equal(scaled.argmax(dim=1), logits.argmax(dim=1))
    assert str(scaler) == f"TemperatureScaler(temperature={fit.temperature:.6g})"


def test_a_fitted_vector_scaler_applies_its_fit() -> None:
    logits, target = random_logits()
    scaler = VectorScaler(10)
    fit = scaler.fit(logits, target)
    torch.testing.assert_close(scaler(logits), (logits.double() * fit.scale + fit.bias).float(), rtol=1e-5, atol=1e-5)
    assert scaler(logits.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("make", [TemperatureScaler, lambda: VectorScaler(10)])
def test_the_state_dict_carries_the_fit(make: type[TemperatureScaler]) -> None:
    logits, target = random_logits()
    model = nn.Sequential(nn.Linear(4, 10), make())
    scaler = model[1]
    assert isinstance(scaler, TemperatureScaler | VectorScaler)
    scaler.fit(logits, target)
    other = nn.Sequential(nn.Linear(4, 10), make())
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other[1](logits), scaler(logits))
    assert not list(scaler.parameters())


def test_a_fit_without_optimum_warns_and_changes_nothing() -> None:
    logits, _ = random_logits()
    scaler = TemperatureScaler()
    with pytest.warns(UserWarning, match=r"TemperatureScaler keeps its temperature 1: .*lower end"):
        fit = scaler.fit(logits, logits.argmax(dim=1))
    assert fit.at_bound == "lower"
    assert scaler.temperature.item() == 1.0
    vector = VectorScaler(10)
    with pytest.warns(UserWarning, match=r"VectorScaler keeps its scale and bias: .*separable"):
        vector.fit(logits, logits.argmax(dim=1))
    assert torch.equal(vector.scale, torch.ones(10))


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_classes` must be at least 2, got 1"):
        VectorScaler(1)
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, 3\), got \(5, 4\)"):
        VectorScaler(3)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, 3\), got \(5, 4\)"):
        VectorScaler(3).fit(torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64))
