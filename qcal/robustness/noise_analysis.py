"""One pass over float and quantized logits: the quantized predictions and the noise, from the same blocks in cache."""

import torch
from torch import Tensor

from qcal.functional.logit_noise import LogitNoise, NoiseMoments
from qcal.functional.prediction_summary import PredictionSummary, QuantizedRows, compare_rows, row_blocks
from qcal.functional.score_inputs import lift_half

__all__ = ["read_quantized"]


def read_quantized(
    float_logits: Tensor, quant_logits: Tensor, predictions: PredictionSummary
) -> tuple[QuantizedRows, LogitNoise]:
    """Read a setting's logits once, beside the float ones.

    Args:
        float_logits: `(N, C)` floating and finite.
        quant_logits: `(N, C)` floating, of the same images.
        predictions: The summary of `float_logits`.

    Returns:
        The quantized predictions with their confidence and ties, `(N,)` on the CPU; and the noise.

    Raises:
        ValueError: Quantized logits that are not finite (the number of rows is in the message).

    Example:
        >>> from qcal.functional.prediction_summary import summarise_predictions
        >>> before, after = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.5]])
        >>> rows, noise = read_quantized(before, after, summarise_predictions(before))
        >>> rows.prediction.tolist(), noise.margin_bias
        ([1], -1.5)
    """
    moments, parts = NoiseMoments(float_logits, quant_logits), []
    dtype = predictions.confidence.dtype
    scratch = torch.empty_like(float_logits[next(row_blocks(*float_logits.shape))], dtype=dtype)
    for block in row_blocks(*float_logits.shape):
        before, after = lift_half(float_logits[block].detach()), quant_logits[block].detach().to(dtype)
        top, runner_up = (
            classes[block].to(before.device) for classes in (predictions.prediction, predictions.runner_up)
        )
        table = scratch[: len(before)]
        moments.add(before, after, table, top, runner_up)
        parts.append(compare_rows(after, top, table))
    noise = moments.result()
    columns = ("prediction", "confidence", "tied", "float_class_on_top")
    return QuantizedRows(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in columns)), noise
