import math

import numpy as np
import pytest
import torch
from scipy.stats import linregress
from torch import Tensor

from qcal.functional.logit_noise import LogitNoise, logit_noise


def _float_logits(rows: int = 3000, classes: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    spread = 1 + 4 * torch.rand(rows, 1, generator=generator)
    return spread * torch.randn(rows, classes, generator=generator)


def _noise(logits: Tensor, seed: int = 5) -> Tensor:
    return torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed))


def test_every_figure_is_that_of_float64_arrays() -> None:
    before = _float_logits()
    after = 0.9 * before + 0.3 * _noise(before) * torch.tensor([1.0, 2, 1, 1, 3, 1]) + torch.arange(6) / 5
    found = logit_noise(before, after)
    f, q = before.double().numpy(), after.double().numpy()
    e = q - f
    fc, qc = (table - table.mean(axis=1, keepdims=True) for table in (f, q))
    ec = qc - fc
    scale = (fc * qc).sum() / (fc**2).sum()
    np.testing.assert_allclose(found.bias, e.mean(axis=0), rtol=1e-6, atol=2e-7)
    np.testing.assert_allclose(found.std, e.std(axis=0), rtol=1e-6)
    assert found.rmse == pytest.approx(np.sqrt((e**2).mean()), rel=1e-7)
    assert found.sqnr_db == pytest.approx(10 * np.log10((f**2).sum() / (e**2).sum()), abs=1e-6)
    assert found.common_share == pytest.approx(6 * (e.mean(axis=1) ** 2).sum() / (e**2).sum(), rel=1e-6)
    assert found.scale == pytest.approx(scale, rel=1e-7)
    assert found.residual_rmse == pytest.approx(np.sqrt(((qc - scale * fc) ** 2).mean()), rel=1e-5)
    assert found.residual_share == pytest.approx(((qc - scale * fc) ** 2).sum() / (ec**2).sum(), rel=1e-5)
    covariance = np.cov(e.T, bias=True)  # its off-diagonal nearly cancels here
    off = covariance.sum() - np.trace(covariance)
    assert found.class_correlation == pytest.approx(off / 30 / (np.trace(covariance) / 6), abs=1e-6)
    fit = linregress(np.log(np.linalg.norm(fc, axis=1)), np.log(np.linalg.norm(ec, axis=1)))
    assert found.growth_exponent == pytest.approx(fit.slope, rel=1e-4)
    assert found.growth_correlation == pytest.approx(fit.rvalue, rel=1e-4)
    order = np.argsort(-f, axis=1)
    lead = np.take_along_axis(e, order[:, :2], axis=1)
    assert found.margin_bias == pytest.approx((lead[:, 0] - lead[:, 1]).mean(), rel=1e-5)
    assert found.margin_std == pytest.approx((lead[:, 0] - lead[:, 1]).std(), rel=1e-6)


def test_noise_made_with_known_figures_is_found_to_have_them() -> None:
    before = _float_logits(40_000)
    common = _noise(before[:, :1], seed=8)
    # Variance 0.04 of a class's own and 0.01 in common: a correlation of 0.2.
    found = logit_noise(before, before + 0.2 * _noise(before) + 0.1 * common)
    assert found.std == pytest.approx([math.sqrt(0.05)] * 6, rel=0.02)
    assert found.class_correlation == pytest.approx(0.2, abs=0.01)
    assert found.common_share == pytest.approx((0.01 + 0.04 / 6) / 0.05, abs=0.01)
    assert found.margin_std == pytest.approx(0.2 * math.sqrt(2), rel=0.02)
    assert found.growth_exponent == pytest.approx(0.0, abs=0.02)
    assert found.scale == pytest.approx(1.0, abs=1e-3)


def test_noise_in_proportion_to_the_logits_grows_with_exponent_one() -> None:
    before = _float_logits()
    norm = before.sub(before.mean(dim=1, keepdim=True)).norm(dim=1, keepdim=True)
    found = logit_noise(before, before + 0.05 * norm * _noise(before))
    assert found.growth_exponent == pytest.approx(1.0, abs=0.05)


def test_a_common_factor_leaves_nothing() -> None:
    before = _float_logits()
    found = logit_noise(before, 0.7 * before)
    assert found.scale == pytest.approx(0.7, rel=1e-6)
    assert found.residual_share == pytest.approx(0.0, abs=1e-6)
    assert found.growth_correlation == pytest.approx(1.0)


def test_a_large_constant_offset_does_not_drown_the_spread() -> None:
    before = _float_logits()
    noise = 1e-3 * _noise(before)
    found = logit_noise(before.double(), before.double() + 100 + noise.double())
    assert found.std == pytest.approx(noise.double().std(dim=0, correction=0).tolist(), rel=1e-6)
    assert found.bias == pytest.approx([100.0] * 6, abs=1e-3)
    assert found.common_share == pytest.approx(1.0)


def test_half_types_are_measured_in_float32() -> None:
    before = _float_logits().bfloat16()
    after = (before + 0.1 * _noise(before)).bfloat16()
    assert logit_noise(before, after) == logit_noise(before.float(), after.float())


def test_two_copies_have_no_noise_and_undefined_quotients() -> None:
    before = _float_logits()
    found = logit_noise(before, before.clone())
    assert (found.rmse, found.residual_rmse, found.margin_bias, found.margin_std) == (0, 0, 0, 0)
    assert found.bias == found.std == (0.0,) * 6
    assert (found.sqnr_db, found.common_share, found.residual_share, found.class_correlation) == (None,) * 4
    assert (found.growth_exponent, found.growth_correlation) == (None, None)
    assert found.scale == 1.0


def test_one_image_and_constant_logits_leave_figures_undefined() -> None:
    one = logit_noise(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.5]]))
    assert (one.std, one.class_correlation, one.growth_exponent) == ((0.0, 0.0), None, None)
    assert one.margin_bias == -0.5
    flat = logit_noise(torch.full((5, 3), 2.0), torch.full((5, 3), 2.0) + _noise(torch.zeros(5, 3)))
    assert (flat.scale, flat.growth_exponent) == (None, None)
    assert isinstance(flat, LogitNoise)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    before, broken = _float_logits(20), _float_logits(20)
    broken[3, 2] = bad
    with pytest.raises(ValueError, match="`quant_logits` must be finite, got 1 of 20 rows"):
        logit_noise(before, broken)
    with pytest.raises(ValueError, match="`float_logits` must be finite, got 1 of 20 rows"):
        logit_noise(broken, before)


def test_logits_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one shape, got \(20, 6\) and \(21, 6\)"):
        logit_noise(_float_logits(20), _float_logits(21))
