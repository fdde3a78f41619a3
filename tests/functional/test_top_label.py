import pytest
import torch
from torch import Tensor

from qcal.functional import top_label
from qcal.functional.confidence import confidence_from_logits
from qcal.functional.top_label import confidence_and_correct
from tests.functional.score_cases import random_logits


def _hard_logits(dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
    """Logits with exact ties and near ties; targets that are the winner, the runner-up, or random."""
    logits, target = random_logits(2000, 30, scale)
    logits = logits.to(dtype)
    logits[:400] = torch.randint(0, 2, (400, 30)).to(dtype) * scale
    target[::2] = logits.argmax(dim=1)[::2]
    target[1::4] = logits.float().topk(2, dim=1).indices[1::4, 1]
    return logits, target


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 30.0])
def test_correctness_is_that_of_argmax_through_ties_and_near_ties(dtype: torch.dtype, scale: float) -> None:
    logits, target = _hard_logits(dtype, scale)
    confidence, correct = confidence_and_correct(logits, target)
    assert torch.equal(correct, logits.argmax(dim=1) == target)
    torch.testing.assert_close(confidence, confidence_from_logits(logits)[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_confidence_is_that_of_the_plain_function_to_the_last_bit(dtype: torch.dtype) -> None:
    logits, target = random_logits(2000, 30)
    logits = logits.to(dtype)
    assert torch.equal(confidence_and_correct(logits, target)[0], confidence_from_logits(logits)[0])


def test_a_class_at_minus_infinity_can_be_the_target() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 0.0], [float("-inf"), 2.0, float("-inf")]])
    confidence, correct = confidence_and_correct(logits, torch.tensor([1, 1]))
    assert confidence.tolist() == [0.5, 1.0]
    assert correct.tolist() == [False, True]


def test_slices_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target = random_logits(101, 7)
    whole = confidence_and_correct(logits, target)
    monkeypatch.setattr(top_label, "_SLICE_NUMBERS", 7 * 10)
    sliced = confidence_and_correct(logits, target)
    assert torch.equal(whole[0], sliced[0])
    assert torch.equal(whole[1], sliced[1])


def test_the_way_for_other_devices_agrees_with_the_way_for_the_cpu() -> None:
    logits, target = _hard_logits(torch.float32, 3.0)
    confidence, correct = confidence_and_correct(logits, target)
    other_confidence, other_correct = top_label._score_by_argmax(logits, target)
    torch.testing.assert_close(confidence, other_confidence, rtol=1e-6, atol=0)
    assert torch.equal(correct, other_correct)


def test_logits_are_left_as_they_are() -> None:
    logits, target = random_logits()
    before = logits.clone()
    confidence_and_correct(logits, target)
    assert torch.equal(logits, before)


def test_logits_that_are_not_contiguous_are_read_right() -> None:
    logits, target = random_logits(64, 8)
    strided = logits.T.contiguous().T
    assert torch.equal(confidence_and_correct(strided, target)[0], confidence_and_correct(logits, target)[0])


def test_autocast_and_gradients_do_not_interfere() -> None:
    logits, target = random_logits(64, 8)
    plain = confidence_and_correct(logits, target)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = confidence_and_correct(logits.clone().requires_grad_(), target)[0]
    assert cast.dtype == torch.float32
    assert not cast.requires_grad
    assert torch.equal(plain, cast)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("num_classes", [2, 3, 40])
def test_nan_anywhere_in_a_row_is_an_error_with_the_number_of_rows(bad: float, num_classes: int) -> None:
    logits, target = torch.zeros(5, num_classes), torch.zeros(5, dtype=torch.int64)
    logits[1, -1] = logits[3, 0] = bad
    with pytest.raises(ValueError, match=r"`logits` must be finite, got 2 of 5 rows"):
        confidence_and_correct(logits, target)


def test_targets_out_of_range_are_an_error_with_their_number() -> None:
    with pytest.raises(ValueError, match=r"`target` must lie in \[0, 2\].*got 2 of 4 outside \(for instance 3\)"):
        confidence_and_correct(torch.zeros(4, 3), torch.tensor([0, 3, 2, -1]))


def test_without_validation_bad_values_never_count_as_right() -> None:
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [float("nan"), 0.0]])
    confidence, correct = confidence_and_correct(logits, torch.tensor([2, -1, 0]), validate=False)
    assert correct.tolist() == [False, False, False]
    assert confidence.isnan().tolist() == [False, False, True]
