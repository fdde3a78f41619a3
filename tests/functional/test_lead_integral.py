import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr
from scipy.stats import multivariate_normal
from torch import Tensor

from qcal.functional.lead_integral import RivalLists, any_lead_falls, rival_tables, upper_tail

TOLERANCE = 4e-5  # as the module states


def _fine(z: np.ndarray, shared: float) -> np.ndarray:
    """The integral by 6,001 nodes over 9 standard deviations each way, `(width, n)` -> `(n,)`."""
    node = np.linspace(-9, 9, 6001)
    weight = np.exp(-node * node / 2) / math.sqrt(2 * math.pi) * (node[1] - node[0])
    own, common = 1 / math.sqrt(1 - shared), math.sqrt(shared / (1 - shared))
    found: np.ndarray = np.array(
        [-np.expm1(log_ndtr(column[:, None] * own + common * node).sum(axis=0)) @ weight for column in z.T]
    )
    return found


@pytest.mark.oracle
@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 5, 32, 300, 1000])
@pytest.mark.parametrize("shared", [0.0, 0.1, 0.3, 0.45, 0.6, 0.75, 0.85, 0.94, 0.98])
def test_the_rule_is_within_its_tolerance_of_a_fine_sum(width: int, shared: float) -> None:
    generator = torch.Generator().manual_seed(width)
    spread_out = 6 * torch.rand(width, 12, generator=generator) - 1
    close = 4.5 * torch.rand(1, 12, generator=generator) + 0.3 * torch.randn(width, 12, generator=generator)
    z = torch.cat([spread_out, close], dim=1)
    found = any_lead_falls(z, torch.full((24,), shared)).double().numpy()
    np.testing.assert_allclose(found, _fine(z.double().numpy(), shared), rtol=0, atol=TOLERANCE)


@pytest.mark.oracle
@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-2, 5), min_size=2, max_size=2), st.floats(0, 0.98))
def test_two_leads_are_the_bivariate_normal(z: list[float], shared: float) -> None:
    stay = multivariate_normal(mean=[0, 0], cov=[[1, shared], [shared, 1]]).cdf(z)
    found = any_lead_falls(torch.tensor(z)[:, None], torch.tensor([shared]))
    assert found.item() == pytest.approx(1 - stay, abs=TOLERANCE + 1e-5)


def test_equally_likely_classes_keep_the_first_one_time_in_n() -> None:
    for width in (1, 2, 3, 9, 99):
        found = any_lead_falls(torch.zeros(width, 1), torch.tensor([0.5]))
        assert found.item() == pytest.approx(width / (width + 1), abs=TOLERANCE)


def test_small_probabilities_keep_their_relative_precision() -> None:
    z = torch.tensor([[4.8], [4.9]])
    assert any_lead_falls(z, torch.tensor([0.0])).item() == pytest.approx(upper_tail(z).sum().item(), rel=1e-4)
    both: Tensor = any_lead_falls(z, torch.tensor([0.5]))
    assert upper_tail(z).amax().item() < both.item() < upper_tail(z).sum().item()


def test_sure_outcomes_need_no_noise() -> None:
    z = torch.tensor([[math.inf, -math.inf, 1.0], [math.inf, 2.0, math.inf]])
    found = any_lead_falls(z, torch.tensor([0.0, 0.3, 0.0]))
    assert found[:2].tolist() == pytest.approx([0, 1], abs=1e-6)
    assert found[2].item() == pytest.approx(upper_tail(torch.tensor(1.0)).item(), abs=1e-6)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20))
def test_tables_hold_every_list_once(counts: list[int]) -> None:
    count = torch.tensor(counts)
    values = torch.arange(float(count.sum()))
    lists = RivalLists(count.cumsum(0) - count, count)
    seen: dict[int, list[float]] = {}
    for table in rival_tables(lists):
        columns = table.fill(values, -1.0).T.tolist()
        assert len(columns[0]) < 2 * int(count[table.image].amin())
        for image, column in zip(table.image.tolist(), columns, strict=True):
            assert image not in seen
            seen[image] = [value for value in column if value >= 0]
    expected = torch.split(values, counts)
    assert seen == {image: part.tolist() for image, part in enumerate(expected)}


def test_no_lists_make_no_tables() -> None:
    none = torch.empty(0, dtype=torch.long)
    assert rival_tables(RivalLists(none, none)) == []


def test_a_correlation_out_of_range_is_refused() -> None:
    for shared in (-0.1, 0.99, math.nan):
        with pytest.raises(ValueError, match=r"`shared` must lie in \[0, 0.985\]"):
            any_lead_falls(torch.zeros(2, 1), torch.tensor([shared]))
