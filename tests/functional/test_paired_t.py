import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qcal.functional.paired_t import holm, mean_test, t_probability_within, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 29, 100])
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 20.0])
def test_the_probability_is_scipys(t: float, freedom: int) -> None:
    assert t_probability_within(t, freedom) == pytest.approx(1 - 2 * stats.t.sf(t, freedom), abs=1e-13)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8, 99])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_the_quantile_is_scipys(level: float, freedom: int) -> None:
    assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-9)


def test_mean_interval_and_p_value_are_scipys() -> None:
    before, after = [0.1, 0.3, 0.2, 0.5], [0.2, 0.35, 0.4, 0.55]
    result = mean_test([b - a for a, b in zip(before, after, strict=True)])
    expected = stats.ttest_rel(after, before)
    interval = expected.confidence_interval(0.95)
    assert result.interval is not None
    assert (result.interval.low, result.interval.high) == pytest.approx((interval.low, interval.high))
    assert result.p_value == pytest.approx(expected.pvalue)
    assert result.number == 4


def test_two_values_and_equal_values_have_no_interval() -> None:
    assert mean_test([1.0, 2.0]).interval is None
    assert mean_test([0.25] * 5).p_value is None
    assert mean_test([0.0] * 5).mean == 0


def test_holm_is_done_step_by_step() -> None:
    # 0.01 * 4; 0.02 * 3; 0.022 * 2 = 0.044, but not below the one before; 0.9.
    assert holm([0.022, 0.9, 0.01, 0.02]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_raises_every_value_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(p <= q <= min(1, p * len(p_values)) + 1e-12 for p, q in zip(p_values, corrected, strict=True))
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert [corrected[place] for place in order] == sorted(corrected)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one finite number"):
        mean_test([])
    with pytest.raises(ValueError, match="`t` must be >= 0"):
        t_probability_within(-1.0, 3)
    with pytest.raises(ValueError, match="`level` must be between 0 and 1"):
        t_quantile(1.0, 3)
    with pytest.raises(ValueError, match=r"`p_values` must lie in \[0, 1\]"):
        holm([1.1])
