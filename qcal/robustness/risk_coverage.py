"""Errors that remain when the least confident predictions are withheld, before and after quantization."""

import math
from dataclasses import dataclass

from qcal.functional.per_image_scores import RowScores
from qcal.functional.selective import augrc, aurc, risk_coverage_curve

__all__ = ["RiskCoverageChange", "risk_coverage_change"]

_COVERAGES = tuple(step / 50 for step in range(1, 51))


@dataclass(frozen=True)
class RiskCoverageChange:
    """Errors among the most confident predictions, before and after.

    Attributes:
        coverage: 0.02, 0.04, ... 1: shares of images kept, the most confident of each network.
        float_risk: Share of errors among them, of the float network.
        quant_risk: Likewise of the quantized network.
        float_aurc: Area under the risk-coverage curve, in [0, 1]; lower is better.
        quant_aurc: Likewise of the quantized network.
        float_augrc: Area under the generalised risk-coverage curve, in [0, 1/2].
        quant_augrc: Likewise of the quantized network.
    """

    coverage: tuple[float, ...]
    float_risk: tuple[float, ...]
    quant_risk: tuple[float, ...]
    float_aurc: float
    quant_aurc: float
    float_augrc: float
    quant_augrc: float


def risk_coverage_change(before: RowScores, after: RowScores) -> RiskCoverageChange:
    """The risk-coverage curves of the float network and of the quantized one, on the same images.

    Args:
        before: Scores of the float network's predictions.
        after: Scores of the quantized network's.

    Example:
        >>> import torch
        >>> from qcal.functional.per_image_scores import row_scores
        >>> logits, target = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
        >>> curves = risk_coverage_change(row_scores(logits, target), row_scores(-logits, target))
        >>> curves.float_risk[0], curves.quant_risk[0], curves.float_aurc
        (0.0, 1.0, 0.25)
    """
    num_images = len(before.correct)
    kept = [max(1, math.ceil(coverage * num_images - 1e-9 * num_images)) - 1 for coverage in _COVERAGES]
    float_risk, quant_risk = (risk_coverage_curve(rows.confidence, rows.correct).risk[kept] for rows in (before, after))
    return RiskCoverageChange(
        coverage=_COVERAGES,
        float_risk=tuple(float_risk.tolist()),
        quant_risk=tuple(quant_risk.tolist()),
        float_aurc=aurc(before.confidence, before.correct).item(),
        quant_aurc=aurc(after.confidence, after.correct).item(),
        float_augrc=augrc(before.confidence, before.correct).item(),
        quant_augrc=augrc(after.confidence, after.correct).item(),
    )
