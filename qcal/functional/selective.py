"""Selective prediction: the error that remains when the least confident predictions are withheld.

Where confidences are equal (a quarter of a confident network's are exactly 1 in float32), which of them is withheld
first is chance. Everything here is the expected value over that chance, and so does not depend on the sample order.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.functional.score_inputs import check_confidence

__all__ = ["RiskCoverage", "augrc", "aurc", "risk_at_coverage", "risk_coverage_curve"]


@dataclass(frozen=True)
class RiskCoverage:
    """Errors among the k most confident predictions, for k = 1..N.

    Attributes:
        coverage: `(N,)` float64, `k / N`, increasing to 1.
        risk: `(N,)` float64 in [0, 1], expected share of errors among those k.
        joint_risk: `(N,)` float64 in [0, 1], expected errors among those k as a share of all N: `risk * coverage`.
    """

    coverage: Tensor
    risk: Tensor
    joint_risk: Tensor


def risk_coverage_curve(confidence: Tensor, correct: Tensor) -> RiskCoverage:
    """Risk at every coverage.

    With `E_k` the expected number of errors among the k most confident predictions: inside a group of equal confidence
    it grows evenly, by the group's share of errors with each sample.

    Args:
        confidence: `(N,)` floating in [0, 1] (only their order matters).
        correct: `(N,)` bool.

    Raises:
        TypeError: wrong types.
        ValueError: wrong shapes, values outside [0, 1] or NaN.

    Example:
        >>> curve = risk_coverage_curve(torch.tensor([0.9, 0.5, 0.5]), torch.tensor([True, True, False]))
        >>> curve.risk.tolist()
        [0.0, 0.25, 0.3333333333333333]
    """
    check_confidence(confidence, correct)
    _, group, size = torch.unique(confidence, return_inverse=True, return_counts=True)
    wrong = torch.zeros_like(size).index_add_(0, group, (~correct).long())
    size, wrong = size.flip(0), wrong.flip(0)  # most confident first
    member = torch.repeat_interleave(torch.arange(len(size), device=size.device), size)
    rank = torch.arange(1, len(member) + 1, device=size.device)
    inside = (rank - (size.cumsum(0) - size)[member]).double()
    errors = (wrong.cumsum(0) - wrong)[member] + inside * (wrong.double() / size)[member]
    num_samples = len(member)
    return RiskCoverage(coverage=rank.double() / num_samples, risk=errors / rank, joint_risk=errors / num_samples)


def aurc(confidence: Tensor, correct: Tensor) -> Tensor:
    """Area under the risk-coverage curve: the mean risk over coverages from 1/N to 1.

    `1 / (N - 1) * sum_{k=1}^{N-1} (risk_k + risk_{k+1}) / 2`, the trapezoidal rule divided by the width of its range.
    (A plain mean of the N risks, as Geifman et al. have it, differs by less than 1 / N.)

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Returns:
        0-dim float64 in [0, 1]; lower is better. For N = 1 it is the error.

    Raises:
        TypeError: wrong types.
        ValueError: as `risk_coverage_curve`.

    Example:
        >>> aurc(torch.tensor([0.9, 0.5]), torch.tensor([True, False])).item()
        0.25

    References:
        Geifman, Uziel, El-Yaniv: Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.
    """
    risk = risk_coverage_curve(confidence, correct).risk
    if len(risk) == 1:
        return risk[0]
    return (risk[1:] + risk[:-1]).mean() / 2


def augrc(confidence: Tensor, correct: Tensor) -> Tensor:
    """Area under the generalised risk-coverage curve: expected errors among the accepted, averaged over coverage 0..1.

    The trapezoidal rule on `joint_risk` with 0 at coverage 0, which is exactly
    `(1 - AUROC) * accuracy * error + error^2 / 2`, AUROC being that of confidence for "the prediction is right".

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.

    Returns:
        0-dim float64 in [0, 1/2]; lower is better.

    Raises:
        TypeError: wrong types.
        ValueError: as `risk_coverage_curve`.

    Example:
        >>> augrc(torch.tensor([0.9, 0.5]), torch.tensor([True, False])).item()
        0.125

    References:
        Traub et al.: Overcoming Common Flaws in the Evaluation of Selective Classification Systems, NeurIPS 2024,
        equations 6 and 7.
    """
    joint = risk_coverage_curve(confidence, correct).joint_risk
    return (joint.sum() - joint[-1] / 2) / len(joint)


def risk_at_coverage(confidence: Tensor, correct: Tensor, *, coverage: float = 0.8) -> Tensor:
    """Expected share of errors among the `coverage` most confident predictions; `ceil(coverage * N)` of them.

    Args:
        confidence: `(N,)` floating in [0, 1].
        correct: `(N,)` bool.
        coverage: Share to keep, in (0, 1].

    Returns:
        0-dim float64 in [0, 1].

    Raises:
        TypeError: wrong types.
        ValueError: as `risk_coverage_curve`; `coverage` outside (0, 1].

    Example:
        >>> risk_at_coverage(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, True, False, False]), coverage=0.5)
        tensor(0., dtype=torch.float64)
    """
    check_coverage(coverage)
    risk = risk_coverage_curve(confidence, correct).risk
    exact = coverage * len(risk)
    nearest = round(exact)  # 0.55 * 100 is 55.000000000000007, which means 55
    kept = nearest if abs(exact - nearest) < 1e-9 * len(risk) and nearest > 0 else int(exact) + 1
    return risk[kept - 1]


def check_coverage(coverage: float) -> None:
    """Check that a coverage is in (0, 1].

    Raises:
        ValueError: it is not.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"`coverage` must be in (0, 1], got {coverage}. Pass a share such as 0.8, not percent.")
