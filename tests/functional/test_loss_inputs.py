"""The door of the losses: ranges, shapes, types, and the two kinds of target."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.special import lambertw

from qcal.functional.loss_inputs import (
    STEEPEST,
    Interval,
    checked_logits,
    cross_entropy,
    target_distribution,
    target_log_probs,
)

GAMMA = Interval("gamma", low=0.0, high=5.0, open_high=True, advice="Use 0.")


@pytest.mark.parametrize("value", [0, 0.0, 4.999])
def test_a_value_in_the_interval_comes_back_as_a_float(value: float) -> None:
    checked = GAMMA.check(value)
    assert checked == value
    assert type(checked) is float


@pytest.mark.parametrize("value", [-1e-9, 5.0, math.nan, math.inf, -math.inf])
def test_a_value_outside_the_interval_is_refused_in_three_parts(value: float) -> None:
    with pytest.raises(ValueError, match=rf"`gamma` must be a number in \[0, 5\), got {value!r}\. Use 0\."):
        GAMMA.check(value)


@pytest.mark.parametrize("value", ["3", None, True, torch.tensor(1.0)])
def test_what_is_not_a_number_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="`gamma` must be a number"):
        GAMMA.check(value)  # type: ignore[arg-type]  # the wrong type is the point


def test_an_open_lower_end_is_excluded() -> None:
    with pytest.raises(ValueError, match=r"\(0, inf\), got 0\.0"):
        Interval("temperature", low=0.0, open_low=True).check(0.0)


def test_infinity_is_outside_an_unbounded_interval() -> None:
    with pytest.raises(ValueError, match=r"\(-inf, inf\)"):
        Interval("x").check(math.inf)


def test_the_steepest_bonus_is_just_under_its_closed_form() -> None:
    bound = 1 / lambertw(1 / math.e).real
    assert bound - 0.002 < STEEPEST < bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_lifted_to_float32(dtype: torch.dtype) -> None:
    assert checked_logits(torch.zeros(2, 3, dtype=dtype), torch.zeros(2, dtype=torch.int64)).dtype == torch.float32


def test_float64_stays_float64() -> None:
    assert checked_logits(torch.zeros(2, 3).double(), torch.zeros(2, dtype=torch.int64)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(4,), (0, 3), (4, 1), (4, 3, 2)])
def test_logits_that_are_no_table_of_classes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, C\).*got .*Pass one row"):
        checked_logits(torch.zeros(shape), torch.zeros(shape[:1], dtype=torch.int64))


def test_integer_logits_are_refused() -> None:
    with pytest.raises(
        TypeError, match=r"`logits` must be a floating tensor, got torch\.int64\. Pass the model's output"
    ):
        checked_logits(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
def test_class_indices_of_another_integer_type_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"`target` must be int64 class indices, got \(2,\) .*\.long\(\)"):
        checked_logits(torch.zeros(2, 3), torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 3), ()])
def test_class_indices_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`target` must have shape \(2,\), one class index per row"):
        checked_logits(torch.zeros(2, 3), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(2,), (2, 4), (3, 3)])
def test_distributions_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one distribution per sample, shape \(2, 3\), got .*\.long\(\)"):
        checked_logits(torch.zeros(2, 3), torch.zeros(shape))


def test_a_loss_for_class_indices_says_why_it_refuses_distributions() -> None:
    with pytest.raises(TypeError, match=r"got \(2, 3\) torch.float32. It counts errors; train without mixup"):
        checked_logits(torch.zeros(2, 3), torch.zeros(2, 3), hard_only="It counts errors")


@pytest.mark.parametrize("index", [-100, -1, 3])
def test_no_class_index_is_silently_ignored(index: int) -> None:
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, index]))


def test_cross_entropy_is_torchs() -> None:
    logits, target = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 5, torch.arange(50) % 7
    soft = torch.softmax(torch.randn(50, 7, generator=torch.Generator().manual_seed(1)), 1)
    torch.testing.assert_close(cross_entropy(logits, target), F.cross_entropy(logits, target), rtol=1e-6, atol=0)
    torch.testing.assert_close(cross_entropy(logits, soft), F.cross_entropy(logits, soft), rtol=1e-6, atol=0)


def test_one_hot_distributions_and_class_indices_are_the_same_target() -> None:
    log_probs, target = (
        torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1),
        torch.tensor([0, 3, 1, 2, 2]),
    )
    one_hot = F.one_hot(target, 4).double()
    log_p, mass = target_log_probs(log_probs, target)
    log_p_soft, mass_soft = target_log_probs(log_probs, one_hot)
    assert mass_soft.dtype == log_probs.dtype
    torch.testing.assert_close((log_p * mass).sum(1), (log_p_soft * mass_soft).sum(1))
    assert torch.equal(target_distribution(target, log_probs), target_distribution(one_hot, log_probs))
