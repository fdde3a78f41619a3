import pytest
import torch

from qcal.functional.score_inputs import (
    SUM_TOLERANCE,
    check_class_target,
    check_probs,
    check_rows,
    lift_half,
    raise_if_bad_rows,
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_only_half_types_are_lifted(given: torch.dtype, expected: torch.dtype) -> None:
    scores = torch.zeros(2, dtype=given)
    assert lift_half(scores).dtype == expected
    assert (lift_half(scores) is scores) == (given == expected)


def test_the_name_of_the_argument_is_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"`quantized_logits` must have shape \(N, C\)"):
        check_rows(torch.zeros(3), "quantized_logits")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_probabilities_may_be_off_by_the_tolerance_and_no_more(dtype: torch.dtype) -> None:
    row = torch.tensor([[0.5, 0.5]], dtype=dtype)
    assert check_probs(row * (1 + 0.9 * SUM_TOLERANCE)).dtype == dtype
    for factor in (1 + 1.1 * SUM_TOLERANCE, 1 - 1.1 * SUM_TOLERANCE):
        with pytest.raises(ValueError, match=r"sum to 1 \(within 0.001\).*1 that do not sum to 1, of 1"):
            check_probs(row * factor)


def test_each_bad_row_is_counted_once_under_its_own_heading() -> None:
    rows = torch.tensor([[0.5, 0.5], [float("nan"), 0.5], [1.5, -0.5], [0.9, 0.9], [-1.0, 0.0]])
    with pytest.raises(ValueError, match=r"1 rows with NaN, 2 with negative entries and 1 that do not sum to 1, of 5"):
        check_probs(rows)


def test_the_range_of_a_target_is_checked_only_when_the_classes_are_known() -> None:
    check_class_target(torch.tensor([99]), 1)
    with pytest.raises(
        ValueError, match=r"\[0, 9\], the 10 classes of the scores, got 1 of 1 outside \(for instance 99\)"
    ):
        check_class_target(torch.tensor([99]), 1, 10)


def test_good_rows_raise_nothing_and_bad_rows_come_before_bad_targets() -> None:
    good, bad = torch.zeros(2), torch.tensor([0.0, float("inf")])
    raise_if_bad_rows(good)
    raise_if_bad_rows(good, torch.tensor([0, 1]), 2)
    with pytest.raises(ValueError, match=r"got 1 of 2 rows with NaN or infinite values"):
        raise_if_bad_rows(bad, torch.tensor([0, 5]), 2)
    with pytest.raises(ValueError, match=r"`target` must lie in"):
        raise_if_bad_rows(good, torch.tensor([0, 5]), 2)
