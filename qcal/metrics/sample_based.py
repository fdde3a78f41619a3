"""Metrics that need every sample: they keep 8 bytes for each, and processes are joined by gathering.

Each is the function of `qcal.functional` that its docstring names, on all samples at the end of the epoch.
"""

from typing import Any

from torch import Tensor

from qcal.functional.brier_decomposition import top_label_brier_decomposition
from qcal.functional.calibration import check_binning
from qcal.functional.equal_count import adaptive_ece, debiased_l2
from qcal.functional.ks_error import ks_calibration_error
from qcal.functional.selective import augrc, aurc, check_coverage, risk_at_coverage
from qcal.functional.smooth_calibration import smooth_ece
from qcal.metrics.base import Inputs, SampleMetric

__all__ = [
    "AUGRC",
    "AURC",
    "AdaptiveECE",
    "DebiasedL2CalibrationError",
    "KSCalibrationError",
    "RiskAtCoverage",
    "SmoothECE",
    "TopLabelBrierDecomposition",
]


class _EqualCount(SampleMetric):
    """Base of the two over equal-count bins."""

    higher_is_better = False

    def __init__(
        self, num_bins: int = 15, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        check_binning(num_bins, "qcal")
        self.num_bins = num_bins


class AdaptiveECE(_EqualCount):
    """ECE over equal-count bins; `qcal.functional.equal_count.adaptive_ece`. Keeps every sample (8 bytes).

    Args:
        num_bins: Number of bins.
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: `num_bins` < 1; in `update`: wrong shapes or values; in `compute`: no samples.

    Example:
        >>> import torch
        >>> metric = AdaptiveECE(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """The score of all samples."""
        return adaptive_ece(*self._samples(), num_bins=self.num_bins)


class DebiasedL2CalibrationError(_EqualCount):
    """L2 calibration error without its sampling bias; `qcal.functional.equal_count.debiased_l2`. Keeps every sample.

    Arguments as `AdaptiveECE`; a bin with a single sample is an error in `compute`.

    Example:
        >>> import torch
        >>> metric = DebiasedL2CalibrationError(num_bins=1, inputs="probs")
        >>> metric.update(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    def compute(self) -> Tensor:
        """The score of all samples."""
        return debiased_l2(*self._samples(), num_bins=self.num_bins)


class KSCalibrationError(SampleMetric):
    """Kolmogorov-Smirnov calibration error; `qcal.functional.ks_error.ks_calibration_error`. Keeps every sample.

    Example:
        >>> import torch
        >>> metric = KSCalibrationError(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The score of all samples."""
        return ks_calibration_error(*self._samples())


class SmoothECE(SampleMetric):
    """Smooth ECE, its kernel of mass 1; `qcal.functional.smooth_calibration.smooth_ece`. Keeps every sample (8 bytes).

    Example:
        >>> import torch
        >>> metric = SmoothECE(inputs="probs")
        >>> metric.update(torch.tensor([[0.75, 0.25], [1.0, 0.0]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(0.8750, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The score of all samples."""
        return smooth_ece(*self._samples())


class TopLabelBrierDecomposition(SampleMetric):
    """CORP decomposition of the top-label Brier score; `qcal.functional.brier_decomposition`. Keeps every sample.

    `compute` gives a dict, so that a logger names the parts: `top_label_brier`, `miscalibration`, `discrimination` and
    `uncertainty`, each 0-dim float64.

    Example:
        >>> import torch
        >>> metric = TopLabelBrierDecomposition(inputs="probs")
        >>> metric.update(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([1, 0]))
        >>> metric.compute()["discrimination"]
        tensor(0.2500, dtype=torch.float64)
    """

    def compute(self) -> dict[str, Tensor]:
        """The four numbers of all samples."""
        parts = top_label_brier_decomposition(*self._samples())
        return {
            "top_label_brier": parts.score,
            "miscalibration": parts.miscalibration,
            "discrimination": parts.discrimination,
            "uncertainty": parts.uncertainty,
        }


class AURC(SampleMetric):
    """Area under the risk-coverage curve, ties averaged; `qcal.functional.selective.aurc`. Keeps every sample.

    Example:
        >>> import torch
        >>> metric = AURC(inputs="probs")
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The score of all samples."""
        return aurc(*self._samples())


class AUGRC(SampleMetric):
    """Area under the generalised risk-coverage curve; `qcal.functional.selective.augrc`. Keeps every sample.

    Example:
        >>> import torch
        >>> metric = AUGRC(inputs="probs")
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.1250, dtype=torch.float64)
    """

    higher_is_better = False

    def compute(self) -> Tensor:
        """The score of all samples."""
        return augrc(*self._samples())


class RiskAtCoverage(SampleMetric):
    """Error among the most confident share; `qcal.functional.selective.risk_at_coverage`. Keeps every sample.

    Args:
        coverage: Share to keep, in (0, 1].
        inputs: `"logits"` or `"probs"`.
        validate_args: Whether to look at values; see `ScoreMetric`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: `coverage` outside (0, 1]; in `update`: wrong shapes or values; in `compute`: no samples.

    Example:
        >>> import torch
        >>> metric = RiskAtCoverage(coverage=0.5, inputs="probs")
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.5, 0.5]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    higher_is_better = False

    def __init__(
        self, coverage: float = 0.8, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        check_coverage(coverage)
        self.coverage = coverage

    def compute(self) -> Tensor:
        """The score of all samples."""
        return risk_at_coverage(*self._samples(), coverage=self.coverage)
