import json
import math
import warnings
from dataclasses import asdict, fields, is_dataclass

import pytest
import torch
from torch import Tensor

from qcal.robustness import analyse_swaps, compare, float_reference
from qcal.robustness.swap_analysis import SwapAnalysis


def _case(rows: int = 1500, classes: int = 7, noise: float = 0.7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = 2 * torch.randn(rows, classes, generator=generator)
    after = 0.9 * before + noise * torch.randn(rows, classes, generator=generator)
    target = torch.where(torch.rand(rows, generator=generator) < 0.7, before.argmax(dim=1), 0)
    return before, after, target


def _numbers(value: object) -> list[float]:
    if is_dataclass(value):
        return [number for f in fields(value) for number in _numbers(getattr(value, f.name))]
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [float(value)] if isinstance(value, (int, float)) else []


def _analyse(before: Tensor, after: Tensor, target: Tensor, **options: int) -> SwapAnalysis:
    return analyse_swaps(before, after, target, resamples=options.get("resamples", 50))


def test_counts_agree_with_the_comparison() -> None:
    before, after, target = _case()
    after = (after * 2).round() / 2  # ties
    analysis, comparison = _analyse(before, after, target), compare(before, after, target)
    shares = analysis.shares
    for name, share in {
        "swap_rate": shares.swapped,
        "harmful": shares.harmful,
        "beneficial": shares.beneficial,
        "neutral": shares.neutral,
        "ties": shares.tied,
        "swaps_by_tie": shares.swapped_by_tie,
        "accuracy": shares.quant_accuracy,
    }.items():
        assert share.share == getattr(comparison, name), name
    assert shares.tied.count > 0
    assert analysis.swapped_confidence.mean == pytest.approx(comparison.float_confidence_of_swapped, abs=1e-12)
    assert sum(flow.count for flow in analysis.class_migration.largest_flows) <= shares.swapped.count
    assert sum(analysis.class_migration.left) == sum(analysis.class_migration.arrived) == shares.swapped.count
    assert sum(map(sum, analysis.confidence_migration.swapped)) == shares.swapped.count
    assert sum(analysis.swapped_confidence.histogram) == shares.swapped.count


def test_the_analysis_is_plain_json() -> None:
    before, after, target = _case()
    text = json.dumps(
        asdict(analyse_swaps(before[500:], after[500:], target[500:], held_out=(before[:500], after[:500])))
    )
    assert json.loads(text)["forecast"]["num_held_out"] == 500


def test_a_reference_made_once_gives_the_same() -> None:
    before, after, target = _case()
    reference = float_reference(before, target)
    assert analyse_swaps(before, after, target, reference=reference) == analyse_swaps(before, after, target)


def test_the_order_of_images_does_not_matter() -> None:
    before, after, target = _case()
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    one, other = _analyse(before, after, target), _analyse(before[order], after[order], target[order])
    assert one.shares == other.shares
    assert one.curves["confidence"][0].swap_rate == other.curves["confidence"][0].swap_rate
    assert one.foresight["entropy"].auroc == other.foresight["entropy"].auroc
    assert _numbers(one) == pytest.approx(_numbers(other), rel=1e-4, abs=1e-6)


def test_the_global_generator_and_the_logits_are_untouched() -> None:
    before, after, target = _case()
    copies, state = [t.clone() for t in (before, after, target)], torch.get_rng_state()
    analyse_swaps(before[500:], after[500:], target[500:], held_out=(before[:500], after[:500]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one, other) for one, other in zip(copies, (before, after, target), strict=True))


def test_without_held_out_logits_there_is_no_forecast_and_a_reason() -> None:
    analysis = _analyse(*_case())
    assert analysis.forecast is None
    assert analysis.forecast_missing is not None
    assert "other images" in analysis.forecast_missing


def test_two_float_copies_swap_nothing_and_leave_quotients_undefined() -> None:
    before, _, target = _case()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analysis = analyse_swaps(
            before[500:], before[500:].clone(), target[500:], held_out=(before[:500], before[:500].clone())
        )
    assert analysis.shares.swapped.count == 0
    assert analysis.shares.damage_per_swap is None
    assert analysis.shares.mcnemar_p == 1.0
    assert analysis.noise.sqnr_db is None
    assert all(score.auroc is None for score in analysis.foresight.values())
    assert (analysis.swapped_confidence.count, analysis.swapped_confidence.deciles) == (0, None)
    assert analysis.confidence_migration.same_bin == 1.0
    assert analysis.class_migration.largest_flows == ()
    assert analysis.forecast is not None
    assert analysis.forecast.swap_rate.predicted == pytest.approx(0.0, abs=1e-6)
    assert (analysis.forecast.auroc, analysis.forecast.swap_rate.measured) == (None, 0.0)
    assert not any(math.isnan(number) for number in _numbers(analysis))


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("wrong", [False, True])
def test_few_images_all_right_or_all_wrong_give_no_nan(rows: int, wrong: bool) -> None:
    before = torch.tensor([[2.0, 0.0, 1.0]]).repeat(rows, 1)
    after = torch.tensor([[0.0, 2.0, 1.0]]).repeat(rows, 1)
    held_out = (torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(9, 3))
    target = torch.full((rows,), 2 if wrong else 0)
    analysis = analyse_swaps(before, after, target, held_out=held_out)
    assert analysis.shares.swapped.share == 1.0
    assert analysis.shares.harmful.share == (0.0 if wrong else 1.0)
    assert analysis.unswapped_confidence.mean is None
    assert analysis.foresight["confidence"].auroc is None
    assert not any(math.isnan(number) for number in _numbers(analysis))
    assert json.dumps(asdict(analysis), allow_nan=False)


def test_half_precision_logits_are_analysed_in_float32() -> None:
    before, after, target = _case(300)
    before, after = before.bfloat16(), after.bfloat16()
    assert _analyse(before, after, target) == _analyse(before.float(), after.float(), target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"after": torch.zeros(4, 2)}, r"must have one shape, got \(4, 3\) and \(4, 2\)"),
        ({"before": torch.zeros(4, 1), "after": torch.zeros(4, 1)}, r"`float_logits` must have shape .* C >= 2"),
        ({"before": torch.zeros(0, 3), "after": torch.zeros(0, 3)}, r"`float_logits` must have shape .* N >= 1"),
        ({"before": torch.full((4, 3), math.nan)}, "must be finite, got 4 of 4 rows with NaN"),
        ({"after": torch.full((4, 3), math.nan)}, "`quant_logits` must be finite, got 4 of 4 rows with NaN"),
        ({"target": torch.tensor([0, 1, 2, 3])}, r"`target` must lie in \[0, 2\]"),
        ({"target": torch.tensor([0, 1])}, r"`target` must have shape \(4,\)"),
    ],
)
def test_input_that_cannot_be_analysed_is_refused(change: dict[str, Tensor], message: str) -> None:
    inputs = {"before": torch.eye(4, 3), "after": torch.eye(4, 3), "target": torch.tensor([0, 1, 2, 0]), **change}
    with pytest.raises(ValueError, match=message):
        analyse_swaps(inputs["before"], inputs["after"], inputs["target"])


def test_a_reference_of_other_logits_is_refused() -> None:
    before, after, target = _case(50)
    for logits, labels in ((before[:20], target[:20]), (after, target), (before, (target + 1) % 7)):
        with pytest.raises(ValueError, match="`reference` must be made of the same logits and target"):
            analyse_swaps(before, after, target, reference=float_reference(logits, labels))


def test_held_out_logits_that_are_the_compared_ones_are_refused() -> None:
    before, after, target = _case(50)
    with pytest.raises(ValueError, match="`held_out` must be logits of other images, got the 50 compared ones"):
        analyse_swaps(before, after, target, held_out=(before.clone(), after))
    with pytest.raises(ValueError, match="Held-out logits must have 7 classes as the compared ones, got"):
        analyse_swaps(before, after, target, held_out=(before[:, :3], after[:, :3]))
