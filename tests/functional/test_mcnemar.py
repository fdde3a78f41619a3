import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from qcal.functional.mcnemar import mcnemar_exact


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_agrees_with_scipys_binomial_test(harmful: int, beneficial: int) -> None:
    expected = binomtest(harmful, harmful + beneficial).pvalue if harmful + beneficial else 1.0
    # Below 1e-250 scipy's tail ends early.
    assert mcnemar_exact(harmful, beneficial) == pytest.approx(expected, rel=1e-9, abs=1e-250)


@given(st.integers(0, 500), st.integers(0, 500))
def test_which_way_was_rarer_does_not_matter(harmful: int, beneficial: int) -> None:
    assert mcnemar_exact(harmful, beneficial) == mcnemar_exact(beneficial, harmful)


def test_one_sided_changes_have_the_closed_form() -> None:
    assert mcnemar_exact(10, 0) == 2 / 2**10
    assert mcnemar_exact(1, 0) == 1.0


def test_no_change_is_no_evidence() -> None:
    assert mcnemar_exact(0, 0) == 1.0


def test_counts_of_a_large_test_set_neither_overflow_nor_lose_the_tail() -> None:
    # Of 50,000 the normal approximation is good to a percent near the middle, and its tail says where 0 begins.
    z = (25_500 - 0.5 - 25_000) / math.sqrt(50_000 / 4)
    assert mcnemar_exact(25_500, 24_500) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-3)
    assert mcnemar_exact(50_000, 0) == 0.0
    assert 0 < mcnemar_exact(1000, 1) < 1e-290


@pytest.mark.parametrize(("harmful", "beneficial", "name"), [(-1, 2, "harmful"), (2, 0.5, "beneficial")])
def test_shares_and_negative_counts_are_refused(harmful: int, beneficial: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must be a whole number >= 0, got .* Pass counts"):
        mcnemar_exact(harmful, beneficial)
