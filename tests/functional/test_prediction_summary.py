import math

import pytest
import torch
from torch import Tensor

from qcal.functional.confidence import confidence_from_logits
from qcal.functional.prediction_summary import compare_rows, row_blocks, summarise_predictions
from qcal.functional.swaps import lowest_argmax, top_is_tied


def _logits(rows: int, classes: int, *, step: float | None = None, scale: float = 3.0) -> Tensor:
    logits = scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(2))
    return logits if step is None else (logits / step).round() * step  # ties, as quantized logits have them


@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (37, 3), (3000, 400)])
def test_summary_agrees_with_float64_row_by_row(rows: int, classes: int) -> None:
    logits = _logits(rows, classes)
    summary = summarise_predictions(logits)
    probs = torch.softmax(logits.double(), dim=1)
    top = probs.topk(2, dim=1)
    entropy = torch.special.entr(probs).sum(dim=1)
    assert torch.equal(summary.prediction, top.indices[:, 0])
    assert torch.equal(summary.runner_up, top.indices[:, 1])
    assert torch.equal(summary.confidence, confidence_from_logits(logits)[0])
    torch.testing.assert_close(summary.margin.double(), top.values[:, 0] - top.values[:, 1], rtol=0, atol=1e-6)
    torch.testing.assert_close(summary.entropy.double(), entropy, rtol=2e-5, atol=1e-6)
    assert torch.equal(summary.logit_margin, logits.topk(2, dim=1).values.diff(dim=1).neg().squeeze(1))


def test_of_tied_classes_the_lowest_is_first_and_the_next_lowest_second() -> None:
    summary = summarise_predictions(torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0]]))
    assert summary.prediction.tolist() == [1, 0]
    assert summary.runner_up.tolist() == [3, 1]
    assert summary.logit_margin.tolist() == summary.margin.tolist() == [0, 0]
    assert summary.entropy[1].item() == pytest.approx(math.log(5))


def test_probabilities_that_underflow_leave_margins_of_logits() -> None:
    summary = summarise_predictions(torch.tensor([[500.0, 100.0, 300.0]]))
    assert (summary.runner_up.item(), summary.logit_margin.item(), summary.entropy.item()) == (2, 200.0, 0.0)


def test_half_types_are_read_in_float32_and_float64_stays() -> None:
    logits = _logits(20, 5)
    assert summarise_predictions(logits.bfloat16()).confidence.dtype == torch.float32
    torch.testing.assert_close(
        summarise_predictions(logits.bfloat16()).entropy, summarise_predictions(logits.bfloat16().float()).entropy
    )
    assert summarise_predictions(logits.double()).confidence.dtype == torch.float64


@pytest.mark.parametrize("step", [None, 0.5, 2.0])
def test_quantized_rows_are_those_of_a_full_search(step: float | None) -> None:
    before, after = _logits(2000, 30), _logits(2000, 30, step=step) + 0.0
    after[::3] = before[::3] if step is None else (before[::3] / step).round() * step
    prediction = lowest_argmax(before)
    found = compare_rows(after, prediction, torch.empty_like(after))
    assert torch.equal(found.prediction, lowest_argmax(after))
    assert torch.equal(found.confidence, confidence_from_logits(after)[0])
    assert torch.equal(found.tied, top_is_tied(after))
    assert torch.equal(found.float_class_on_top, after.gather(1, prediction[:, None]).squeeze(1) == after.amax(dim=1))
    assert bool(found.tied.any()) == (step is not None)


def test_blocks_cover_every_row_once() -> None:
    for rows, classes in [(1, 10), (1000, 1_000_000), (100_000, 3)]:
        blocks = list(row_blocks(rows, classes))
        assert [block.start for block in blocks] == [0, *(block.stop for block in blocks[:-1])]
        assert blocks[-1].stop == rows


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(bad: float) -> None:
    logits = _logits(10, 3)
    logits[4, 1] = bad
    with pytest.raises(ValueError, match="`logits` must be finite, got 1 of 10 rows with NaN or infinite"):
        summarise_predictions(logits)


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`float_logits` must have shape \(N, C\) .* C >= 2 classes, got \(3, 1\)"):
        summarise_predictions(torch.zeros(3, 1), name="float_logits")
