"""Every figure that the paper's authors' logits gave another program, from our analysis.

The file fixes these conventions. Ties go to the lowest class. Confidence, margin (of probabilities) and top logit are
ranked in float32, ties shared. The median is the lower of two middle values. Deciles of confidence have equal counts.
SQNR is of the logits as they are. McNemar's test is the exact one. Stored values are rounded to eight digits.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qcal.functional.confidence import top_k_accuracy
from qcal.robustness import SwapAnalysis, analyse_swaps, compare, float_reference
from qcal.robustness.comparison import Comparison

SETTINGS = ("w8a8", "w7a8", "w6a8", "w5a8", "w4a8")
# Their top 5 leaves the order of tied logits to the device; ours, the lowest class first, lies between the extremes.
TIED_TOP5 = "top5_error_pct"
# Computed in float32 where they were made (33.49 % is stored as 33.490002), or hanging on the last digit of single
# float32 softmaxes: one of them is the median, and which of them round together decides ties of the rank.
IN_FLOAT32 = ("top1_error_pct", "ece15_pct", "nll", "median_fp_conf_swapped", "auroc_low_fp_conf_predicts_swap")


@pytest.fixture(scope="module")
def logits(reference_dir: Path) -> dict[str, Tensor]:
    with np.load(reference_dir / "xia2021_resnet20_logits.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
# Any: a nesting of plain JSON values.
def stored(reference_dir: Path) -> dict[str, dict[str, Any]]:
    text = (reference_dir / "xia2021_resnet20_cifar100.json").read_text()
    settings: dict[str, dict[str, Any]] = json.loads(text)["settings"]
    return settings


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def case(logits: dict[str, Tensor], setting: str) -> tuple[SwapAnalysis, Comparison]:
    target = logits["target"]
    reference = float_reference(logits["float"], target)
    analysis = analyse_swaps(logits["float"], logits[setting], target, reference=reference)
    return analysis, compare(logits["float"], logits[setting], target)


def _figures(analysis: SwapAnalysis, comparison: Comparison) -> dict[str, object]:
    """The stored figures by their names, percentages and all."""
    shares, noise = analysis.shares, analysis.noise
    swapped, others = analysis.swapped_confidence, analysis.unswapped_confidence
    assert shares.damage_per_swap is not None
    assert swapped.deciles is not None
    assert swapped.float_accuracy is not None
    assert others.float_accuracy is not None
    width, count = analysis.curves["confidence"]
    percent = [None if rate is None else 100 * rate for rate in width.swap_rate]
    return {
        "top1_error_pct": 100 * (1 - comparison.accuracy),
        "top1_error_argmax_pct": 100 * (1 - shares.quant_accuracy.share),
        "acc_pct": 100 * shares.quant_accuracy.share,
        "ece15_pct": 100 * comparison.ece,
        "nll": comparison.nll,
        "mean_conf_pct": 100 * comparison.mean_confidence,
        "signed_gap_pct": 100 * comparison.overconfidence,
        "n_top1_ties": shares.tied.count,
        "n_swapped": shares.swapped.count,
        "n_swapped_theirs": shares.swapped.count,
        "swapped_pct": 100 * shares.swapped.share,
        "delta_error_pp": 100 * shares.error_change.value,
        "delta_check_pp": 100 * (shares.harmful.share - shares.beneficial.share),
        "ratio_derr_over_swapped": shares.damage_per_swap.value,
        "correct_to_wrong": shares.harmful.count,
        "wrong_to_correct": shares.beneficial.count,
        "wrong_to_wrong": shares.neutral.count,
        "mean_fp_conf_swapped": swapped.mean,
        "median_fp_conf_swapped": swapped.deciles[5],
        "mean_fp_conf_unswapped": others.mean,
        "fp_acc_on_swapped_pct": 100 * swapped.float_accuracy,
        "fp_acc_on_unswapped_pct": 100 * others.float_accuracy,
        "auroc_low_fp_conf_predicts_swap": analysis.foresight["confidence"].auroc,
        "auroc_low_fp_margin_predicts_swap": analysis.foresight["margin"].auroc,
        "auroc_low_fp_maxlogit_predicts_swap": analysis.foresight["top_logit"].auroc,
        "swap_rate_pct_by_fp_conf_decile": [100 * (rate or 0) for rate in count.swap_rate],
        "fp_conf_decile_mean": list(count.mean_score),
        "fp_acc_pct_by_decile": [100 * (rate or 0) for rate in count.float_accuracy],
        "q_acc_pct_by_decile": [100 * (rate or 0) for rate in count.quant_accuracy],
        "equal_width10": [{"n": n, "swap_pct": rate} for n, rate in zip(width.count, percent, strict=True)],
        "mcnemar_p": shares.mcnemar_p,
        "logit_rmse": noise.rmse,
        "logit_sqnr_db": noise.sqnr_db,
        "mean_abs_conf_change": analysis.confidence_migration.mean_absolute_change,
    }


def _same(found: object, stored: object, name: str) -> None:
    if isinstance(stored, list):
        assert isinstance(found, list)
        assert len(found) == len(stored)
        for one, other in zip(found, stored, strict=True):
            _same(one, other, name)
    elif isinstance(stored, dict):
        assert isinstance(found, dict)
        assert found.keys() == stored.keys()
        for key, value in stored.items():
            _same(found[key], value, f"{name}.{key}")
    elif isinstance(stored, float):
        tolerance = 5e-7 if name.split()[-1] in IN_FLOAT32 else 1.2e-7  # one unit in float32's last place
        assert found == pytest.approx(stored, rel=tolerance, abs=1e-9), name
    else:
        assert found == stored, name


def test_every_stored_figure_is_reproduced(
    case: tuple[SwapAnalysis, Comparison], setting: str, stored: dict[str, dict[str, Any]]
) -> None:
    found, expected = _figures(*case), stored[setting.upper()]
    assert found.keys() == expected.keys() - {TIED_TOP5}
    for name, value in found.items():
        _same(value, expected[name], f"{setting} {name}")


def test_the_stored_top5_error_lies_between_its_tie_orders(
    logits: dict[str, Tensor], setting: str, stored: dict[str, dict[str, Any]]
) -> None:
    quant, target = logits[setting], logits["target"]
    own = quant.gather(1, target[:, None])
    lowest = 1 - ((quant >= own).sum(dim=1) <= 5).double().mean().item()  # every equal counts against the target
    highest = 1 - ((quant > own).sum(dim=1) < 5).double().mean().item()
    assert highest <= stored[setting.upper()][TIED_TOP5] / 100 + 1e-9
    assert stored[setting.upper()][TIED_TOP5] / 100 <= lowest + 1e-9
    assert highest <= 1 - top_k_accuracy(quant, target, k=5).item() <= lowest


def test_foresight_fades_as_the_bits_go(logits: dict[str, Tensor]) -> None:
    target = logits["target"]
    reference = float_reference(logits["float"], target)
    fine, coarse = (
        analyse_swaps(logits["float"], logits[name], target, reference=reference).foresight for name in ("w8a8", "w4a8")
    )
    assert (fine["confidence"].auroc, coarse["confidence"].auroc) == pytest.approx((0.934, 0.833), abs=5e-4)
    assert (fine["margin"].auroc, coarse["margin"].auroc) == pytest.approx((0.957, 0.826), abs=5e-4)


def test_swaps_are_forecast_better_than_by_any_score_of_the_float_network_alone(
    logits: dict[str, Tensor], setting: str
) -> None:
    held, seen = slice(0, 5000), slice(5000, None)
    analysis = analyse_swaps(
        logits["float"][seen],
        logits[setting][seen],
        logits["target"][seen],
        held_out=(logits["float"][held], logits[setting][held]),
    )
    forecast = analysis.forecast
    assert forecast is not None
    assert forecast.auroc is not None
    assert forecast.auroc > max(score.auroc or 0 for score in analysis.foresight.values())
    assert forecast.brier < min(score.reading.brier for score in analysis.foresight.values() if score.reading)
    assert forecast.miscalibration < 0.01
    # The noise's tails are heavier than a normal's: the forecast is low by up to a fifth, never high.
    assert 0 < forecast.swap_rate.error < forecast.swap_rate.measured / 5
