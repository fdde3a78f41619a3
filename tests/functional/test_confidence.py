import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from qcal.functional.confidence import (
    accuracy,
    confidence_from_logits,
    confidence_from_probs,
    overconfidence,
    overconfidence_parts,
    top_k_accuracy,
    top_k_correct,
)
from tests.functional.score_cases import random_logits, top_label

quick = settings(deadline=None, max_examples=50, derandomize=True)


def test_confidence_is_the_largest_softmax_probability() -> None:
    logits, _ = random_logits()
    confidence, prediction = confidence_from_logits(logits)
    exact = torch.softmax(logits.double(), dim=1)
    torch.testing.assert_close(confidence.double(), exact.amax(dim=1), rtol=1e-6, atol=0)
    assert torch.equal(prediction, exact.argmax(dim=1))


def test_two_logits_give_the_logistic_function_of_their_difference() -> None:
    difference = torch.tensor([0.0, 1.0, 5.0, 40.0], dtype=torch.float64)
    confidence, _ = confidence_from_logits(torch.stack([difference, torch.zeros(4, dtype=torch.float64)], dim=1))
    torch.testing.assert_close(confidence, torch.sigmoid(difference), rtol=1e-14, atol=0)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_common_shift_of_extreme_logits_keeps_float32_confidence(shift: float) -> None:
    logits = torch.tensor([[0.0, 1.0, -2.0]])
    torch.testing.assert_close(confidence_from_logits(logits + shift), confidence_from_logits(logits))


def test_large_logits_lose_no_digits_in_float32() -> None:
    logits, _ = random_logits(2000, 100, scale=20.0)
    exact = torch.softmax(logits.double(), dim=1).amax(dim=1)
    error = (confidence_from_logits(logits)[0].double() / exact - 1).abs().amax()
    assert error < 1e-6  # exp(max - logsumexp) is 4e-6 off here


def test_ties_go_to_the_lowest_index() -> None:
    assert confidence_from_logits(torch.tensor([[1.0, 2.0, 2.0]]))[1].item() == 1
    assert confidence_from_probs(torch.tensor([[0.2, 0.4, 0.4]]))[1].item() == 1


def test_the_class_is_that_of_the_logits_where_softmax_rounds_two_together() -> None:
    logits = torch.tensor([[0.0, 1e-9]])
    assert torch.softmax(logits, dim=1).tolist() == [[0.5, 0.5]]
    assert confidence_from_logits(logits)[1].item() == 1


def test_a_class_at_minus_infinity_has_probability_zero() -> None:
    confidence, prediction = confidence_from_logits(torch.tensor([[float("-inf"), 0.0]]))
    assert (confidence.item(), prediction.item()) == (1.0, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_lifted_before_anything_is_computed(dtype: torch.dtype) -> None:
    logits = random_logits()[0].to(dtype)
    confidence, _ = confidence_from_logits(logits)
    assert confidence.dtype == torch.float32
    assert torch.equal(confidence, confidence_from_logits(logits.float())[0])


def test_confidence_has_a_gradient() -> None:
    logits = torch.tensor([[0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    confidence, _ = confidence_from_logits(logits)
    confidence.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    p = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.stack([-p * (1 - p), p * (1 - p)])[None])


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(3), r"`logits` must have shape \(N, C\) with N >= 1 samples and C >= 2 classes, got \(3,\)"),
        (torch.zeros(3, 1), r"C >= 2 classes, got \(3, 1\)"),
        (torch.zeros(0, 3), r"N >= 1 samples.*got \(0, 3\)"),
        (torch.zeros(2, 3, 4), r"got \(2, 3, 4\)"),
        (torch.full((2, 3), float("nan")), r"must be finite, got 2 of 2 rows with NaN"),
    ],
)
def test_logits_of_a_wrong_kind_are_refused(logits: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_from_logits(logits)


def test_integer_logits_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"`logits` must be a floating tensor, got torch.int64. Pass the model's output"
    ):
        confidence_from_logits(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0.5, 0.6], r"0 rows with NaN, 0 with negative entries and 1 that do not sum to 1, of 2"),
        ([1.2, -0.2], r"0 rows with NaN, 1 with negative entries and 0 that do not sum"),
        ([float("nan"), 0.5], r"1 rows with NaN, 0 with negative entries and 0 that do not sum"),
        ([3.0, -1.0], r"If these are logits, use the function or `inputs=` for logits"),
        ([float("inf"), 0.0], r"1 that do not sum to 1"),
    ],
)
def test_rows_that_are_no_distribution_are_refused_and_counted(row: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confidence_from_probs(torch.tensor([[0.5, 0.5], row]))


def test_probabilities_in_bfloat16_pass_with_their_rounding() -> None:
    probs = torch.softmax(random_logits(200, 50)[0], dim=1).bfloat16()
    confidence, _ = confidence_from_probs(probs)
    assert confidence.dtype == torch.float32


def test_a_confidence_rounded_above_one_is_one() -> None:
    assert confidence_from_probs(torch.tensor([[1.0 + 1e-6, 0.0]]))[0].item() == 1.0


def test_accuracy_counts_equal_classes() -> None:
    assert accuracy(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1])).item() == pytest.approx(2 / 3, abs=1e-15)


def test_accuracy_refuses_scores_one_hot_rows_and_nothing() -> None:
    with pytest.raises(TypeError, match=r"`prediction` must hold int64 class indices, got torch.float32"):
        accuracy(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"`target` must have shape \(3,\).*got \(3, 2\)"):
        accuracy(torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"N >= 1, got \(0,\)"):
        accuracy(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def test_top_one_is_accuracy_and_top_all_is_one() -> None:
    logits, target = random_logits()
    plain = accuracy(logits.argmax(dim=1), target)
    assert torch.equal(top_k_accuracy(logits, target, k=1), plain)
    assert top_k_accuracy(logits, target, k=10).item() == 1.0


def test_top_k_agrees_with_topk_where_nothing_ties() -> None:
    logits, target = random_logits()
    expected = (logits.topk(3, dim=1).indices == target[:, None]).any(dim=1)
    assert torch.equal(top_k_correct(logits, target, k=3), expected)


def test_top_k_ranks_ties_by_index() -> None:
    logits = torch.zeros(4, 4)
    assert top_k_correct(logits, torch.arange(4), k=2).tolist() == [True, True, False, False]


def test_top_k_refuses_more_than_the_classes() -> None:
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 3\], the number of classes, got 5"):
        top_k_accuracy(torch.zeros(2, 3), torch.tensor([0, 1]))


@quick
@given(top_label())
def test_overconfidence_is_the_sum_of_its_parts(case: tuple[Tensor, Tensor]) -> None:
    parts = overconfidence_parts(*case)
    torch.testing.assert_close(parts.total, overconfidence(*case), rtol=0, atol=1e-15)
    torch.testing.assert_close(parts.total, parts.on_correct + parts.on_wrong, rtol=0, atol=0)
    assert -1 <= parts.on_correct <= 0 <= parts.on_wrong <= 1


@quick
@given(top_label())
def test_overconfidence_turns_its_sign_with_confidence_and_correctness(case: tuple[Tensor, Tensor]) -> None:
    confidence, correct = case
    torch.testing.assert_close(
        overconfidence(1 - confidence.double(), ~correct), -overconfidence(confidence, correct), rtol=0, atol=1e-12
    )


def test_mean_confidences_of_an_empty_part_are_nan() -> None:
    parts = overconfidence_parts(torch.tensor([0.5]), torch.tensor([True]))
    assert parts.confidence_correct.item() == 0.5
    assert parts.confidence_wrong.isnan()


@pytest.mark.parametrize("shift", [-0.125, 0.0, 0.125])
def test_a_shift_of_the_confidence_is_recovered_with_its_sign(shift: float) -> None:
    correct = torch.tensor([True, False] * 50)
    assert overconfidence(torch.full((100,), 0.5 + shift), correct).item() == shift


@pytest.mark.parametrize(
    ("confidence", "correct", "error", "message"),
    [
        (torch.tensor([0.5, 1.5]), torch.tensor([True, True]), ValueError, r"got 1 of 2 values outside or NaN"),
        (
            torch.tensor([0.5, float("nan")]),
            torch.tensor([True, True]),
            ValueError,
            r"got 1 of 2 values outside or NaN",
        ),
        (torch.tensor([-0.1, -0.2]), torch.tensor([True, True]), ValueError, r"got 2 of 2 values outside or NaN"),
        (torch.tensor([0.5]), torch.tensor([1]), TypeError, r"`correct` must be a bool tensor, got torch.int64"),
        (torch.tensor([1]), torch.tensor([True]), TypeError, r"`confidence` must be a floating tensor"),
        (torch.zeros(2), torch.tensor([True]), ValueError, r"shape \(N,\) with N >= 1, got \(2,\) and \(1,\)"),
        (torch.zeros(0), torch.zeros(0, dtype=torch.bool), ValueError, r"got \(0,\) and \(0,\)"),
    ],
)
def test_confidence_and_correctness_of_a_wrong_kind_are_refused(
    confidence: Tensor, correct: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        overconfidence(confidence, correct)
