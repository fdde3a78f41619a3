"""What every metric of qcal has in common: how `preds` are read, what an empty epoch does, which type the state has.

`inputs="logits"` or `"probs"` says what `update` is given; it is never guessed from the values. States are float64
sums and int64 counts wherever the score allows it, so that memory does not grow with the data, two half batches equal
one, and processes are joined by adding. Updates replace the state instead of writing into it, because what
`torch.inference_mode` made may not be written to afterwards.

The state stays float64 under `.half()`, `.float()` and autocast. Devices without float64 (MPS) are therefore not
supported: keep the metric on the CPU and pass it CPU tensors there.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from qcal.functional.confidence import confidence_from_probs
from qcal.functional.score_inputs import check_class_target, check_probs, check_rows, lift_half, raise_if_bad_rows
from qcal.functional.top_label import confidence_and_correct

__all__ = ["Inputs", "SampleMetric", "ScoreMetric"]

Inputs = Literal["logits", "probs"]


class ScoreMetric(Metric):
    """Base of the metrics: reads `preds` `(N, C)` and `target` `(N,)` int64.

    Args:
        inputs: What `update` is given as `preds`: `"logits"` (default) or `"probs"`.
        validate_args: Whether `update` looks at the values (NaN, range of `target`) as well as at shapes and types;
            that waits for the device once a batch. Probabilities are always checked.
        kwargs: Of `torchmetrics.Metric`, for instance `sync_on_compute`.

    Raises:
        ValueError: an unknown `inputs`.
    """

    is_differentiable = False
    full_state_update = False

    def __init__(
        self, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(**kwargs)
        if inputs not in get_args(Inputs):
            raise ValueError(f"`inputs` must be one of {get_args(Inputs)}, got {inputs!r}. Say what `update` is given.")
        self.inputs = inputs
        self.validate_args = validate_args

    def set_dtype(self, dst_type: str | torch.dtype) -> "ScoreMetric":
        """Refused: the state is float64 sums and int64 counts, in which a half type would stop counting at 2048.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"{type(self).__name__} keeps float64 sums and int64 counts, got set_dtype({dst_type}). "
            "Leave the type as it is; convert the computed value instead."
        )

    def _top_label(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Confidence `(N,)` and correctness `(N,)` of a batch."""
        if self.inputs == "logits":
            return confidence_and_correct(preds, target, validate=self.validate_args)
        confidence, prediction = confidence_from_probs(preds)
        check_class_target(target, *preds.shape)
        return confidence, prediction == target

    def _probs(self, preds: Tensor, target: Tensor) -> Tensor:
        """Probabilities `(N, C)` of a batch whose target is in range."""
        if self.inputs == "probs":
            probs = check_probs(preds)
            check_class_target(target, *preds.shape)
        else:
            check_rows(preds, "logits")
            check_class_target(target, preds.shape[0])
            probs = torch.softmax(lift_half(preds), dim=1)
            # A NaN or infinity anywhere in a row makes all of its softmax NaN: one column tells.
            raise_if_bad_rows(probs[:, 0], target, preds.shape[1])
        return probs

    def _require_samples(self, count: Tensor) -> Tensor:
        """`count` in float64, if anything was counted.

        Raises:
            ValueError: an epoch without samples.
        """
        if not bool(count > 0):
            raise ValueError(
                f"{type(self).__name__} has seen no samples, and a score of nothing is not a number. "
                "Call `update` before `compute`, and check that the split is not empty."
            )
        return count.double()


class SampleMetric(ScoreMetric):
    """Base of the metrics that need every sample: keeps 8 bytes a sample (confidence and correctness, float32).

    Confidences in float64 are rounded to float32, 6e-8 of their value.
    """

    confidence: list[Tensor]
    correct: list[Tensor]

    def __init__(
        self, inputs: Inputs = "logits", validate_args: bool = True, **kwargs: Any
    ) -> None:  # Any: torchmetrics'
        super().__init__(inputs=inputs, validate_args=validate_args, **kwargs)
        # Both float32: a process without samples joins the gathering with an empty float32 tensor.
        self.add_state("confidence", default=[], dist_reduce_fx="cat")
        self.add_state("correct", default=[], dist_reduce_fx="cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Keep the confidence and correctness of a batch."""
        confidence, correct = self._top_label(preds, target)
        self.confidence.append(confidence.float())
        self.correct.append(correct.float())

    def _samples(self) -> tuple[Tensor, Tensor]:
        """Confidence `(N,)` and correctness `(N,)` bool of all samples of all processes."""
        confidence, correct = self._joined(self.confidence), self._joined(self.correct)
        self._require_samples(torch.tensor(len(confidence)))
        return confidence, correct.bool()

    def _joined(self, parts: list[Tensor] | Tensor) -> Tensor:
        if isinstance(parts, Tensor):  # what torchmetrics leaves after joining processes
            return parts
        return torch.cat(parts) if parts else torch.zeros(0, device=self.device)
