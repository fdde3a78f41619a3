"""Every loss that an independent package computed on the reference case, reproduced."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qcal.losses import BrierLoss, ConfidencePenaltyLoss, FLSDLoss, FocalLoss, LabelSmoothingLoss, RegimeLoss
from tests.functional.test_golden_metrics import LOSSES

CASES = {
    "nll": FocalLoss(gamma=0.0),
    "cross_entropy_label_smoothing_0.05": LabelSmoothingLoss(epsilon=0.05),
    "cross_entropy_label_smoothing_0.1": LabelSmoothingLoss(epsilon=0.1),
    "focal_gamma_2": FocalLoss(gamma=2.0),
    "focal_gamma_3": FocalLoss(gamma=3.0),
    "flsd_53": FLSDLoss(),
    "confidence_penalty_0.1_as_ce_plus_w_logK_minus_H": ConfidencePenaltyLoss(penalty_weight=0.1),
    "brier_score": BrierLoss(),
}


def test_no_loss_of_the_reference_case_is_left_out(reference_dir: Path) -> None:
    stored = json.loads((reference_dir / "golden_metrics.json").read_text())["random_case"]
    of_losses = {key for key in stored if key.startswith(LOSSES)}
    assert of_losses == {key for key in CASES if key not in ("nll", "brier_score")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("key", "loss"), CASES.items(), ids=CASES.keys())
def test_the_reference_case_has_the_golden_value(
    reference_dir: Path, key: str, loss: RegimeLoss, dtype: torch.dtype
) -> None:
    case = np.load(reference_dir / "random_case.npz")
    golden = json.loads((reference_dir / "golden_metrics.json").read_text())["random_case"][key]
    value = loss(torch.from_numpy(case["logits"]).to(dtype), torch.from_numpy(case["target"]))
    assert value.item() == pytest.approx(golden, abs=1e-6)
