"""One network's logits, scored image by image at some temperature, in the form that resampling images wants."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qcal.functional.brier_decomposition import isotonic_recalibration
from qcal.functional.calibration import ece
from qcal.functional.calibration_terms import error_from_sums, residuals_by_bin, residuals_by_kernel
from qcal.functional.per_image_scores import RowScores, row_scores
from qcal.functional.smooth_calibration import smooth_ece_at_bandwidth, smooth_ece_bandwidth
from qcal.robustness.paired_change import ResampledScore

__all__ = ["MeanScore", "ScoredNetwork", "score_network"]

MeanScore = Literal[
    "accuracy",
    "mean_confidence",
    "overconfidence",
    "nll",
    "brier",
    "top_label_brier",
    "miscalibration",
    "discrimination",
    "uncertainty",
]

_NO_SAMPLES = torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class ScoredNetwork:
    """The scores of one network at one temperature, as columns over images.

    Attributes:
        name: Under which its columns are kept among others.
        rows: The scores of each image.
        means: Score to its column `(N,)`, of which it is the mean.
        by_bin: `(N, 15)`, residuals for the ECE.
        by_kernel: `(N, J)`, residuals for the smooth ECE; None where it was not asked for.
        bandwidth: Of that kernel.
    """

    name: str
    rows: RowScores
    means: dict[MeanScore, Tensor]
    by_bin: Tensor
    by_kernel: Tensor | None
    bandwidth: float | None

    def columns(self) -> dict[str, Tensor]:
        """Everything to resample, by a name of its own."""
        columns = {f"{self.name}.{score}": column for score, column in self.means.items()}
        columns[f"{self.name}.ece"] = self.by_bin
        if self.by_kernel is not None:
            columns[f"{self.name}.smooth_ece"] = self.by_kernel
        return columns

    def mean(self, score: MeanScore, sums: dict[str, Tensor] | None) -> ResampledScore:
        """A score that is a mean over images."""
        value = self.means[score].mean().item()
        return ResampledScore(value, self._sums(score, sums) / len(self.by_bin))

    def ece(self, sums: dict[str, Tensor] | None) -> ResampledScore:
        """Expected calibration error, 15 equal-width bins."""
        value = ece(self.rows.confidence, self.rows.correct).item()
        return self._error("ece", value, self.by_bin, sums)

    def smooth_ece(self, sums: dict[str, Tensor] | None) -> ResampledScore:
        """Smooth calibration error; resamples are smoothed at the bandwidth of the images as they are."""
        if self.by_kernel is None or self.bandwidth is None:
            raise ValueError(
                f"{self.name!r} was scored without smooth ECE. Pass `with_smooth_ece=True` to `score_network`."
            )
        value = smooth_ece_at_bandwidth(self.rows.confidence, self.rows.correct, bandwidth=self.bandwidth).item()
        return self._error("smooth_ece", value, self.by_kernel, sums)

    def discrimination_share(self, sums: dict[str, Tensor] | None) -> ResampledScore | None:
        """Discrimination over uncertainty, in [0, 1]; None where all predictions are right, or all wrong."""
        discrimination, uncertainty = self.mean("discrimination", sums), self.mean("uncertainty", sums)
        if uncertainty.value == 0:
            return None
        value = discrimination.value / uncertainty.value
        return ResampledScore(value, discrimination.samples / uncertainty.samples)

    def _error(self, name: str, value: float, table: Tensor, sums: dict[str, Tensor] | None) -> ResampledScore:
        num_images = len(table)
        samples = self._sums(name, sums)
        resampled = error_from_sums(samples, num_images) if samples.numel() else samples
        return ResampledScore(value, resampled, is_error=True)

    def _sums(self, name: str, sums: dict[str, Tensor] | None) -> Tensor:
        return _NO_SAMPLES if sums is None else sums[f"{self.name}.{name}"]


def score_network(
    name: str,
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    with_parts: bool = False,
    with_smooth_ece: bool = False,
) -> ScoredNetwork:
    """Score one network's logits at a temperature.

    Args:
        name: Under which its columns are kept.
        logits: `(N, C)` floating, finite.
        target: `(N,)` int64 class indices.
        temperature: One number, or `(N,)`, one an image.
        with_parts: Whether the parts of the top-label Brier score are wanted.
        with_smooth_ece: Whether the smooth ECE is wanted.

    Raises:
        TypeError: wrong types.
        ValueError: as `qcal.functional.per_image_scores.row_scores`.

    Example:
        >>> network = score_network("float", torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0]))
        >>> network.mean("accuracy", None).value, round(network.ece(None).value, 3)
        (1.0, 0.31)
    """
    rows = row_scores(logits, target, temperature=temperature)
    confidence, hit = rows.confidence, rows.correct.double()
    means: dict[MeanScore, Tensor] = {
        "accuracy": hit,
        "mean_confidence": confidence,
        "overconfidence": confidence - hit,
        "nll": rows.nll,
        "brier": rows.brier,
    }
    by_kernel, bandwidth = None, None
    if with_parts:
        means |= _brier_parts(rows)
    if with_smooth_ece:
        bandwidth = smooth_ece_bandwidth(confidence, rows.correct)
        by_kernel = residuals_by_kernel(confidence, rows.correct, bandwidth=bandwidth)
    return ScoredNetwork(name, rows, means, residuals_by_bin(confidence, rows.correct), by_kernel, bandwidth)


def _brier_parts(rows: RowScores) -> dict[MeanScore, Tensor]:
    """Columns whose means are the parts of `top_label_brier_decomposition`.

    The isotonic fit `f` and the accuracy `a` are those of all images, also in a resample. Both minimise a Brier score,
    so that what they would move in a resample is of second order; refitting 2,000 times would take minutes, and, as a
    resample repeats images, would overfit more than the fit itself does.
    """
    hit = rows.correct.double()
    score = (rows.confidence - hit).square()
    recalibrated = (isotonic_recalibration(rows.confidence, rows.correct) - hit).square()
    uncertainty = (hit.mean() - hit).square()
    return {
        "top_label_brier": score,
        "miscalibration": score - recalibrated,
        "discrimination": uncertainty - recalibrated,
        "uncertainty": uncertainty,
    }
