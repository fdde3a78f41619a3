"""Did quantization hurt the ranking of the predictions, or only their probabilities? In one sentence."""

from qcal.robustness.change_words import change_with_interval, in_nats, in_percent
from qcal.robustness.probabilities import ProbabilityAnalysis

__all__ = ["what_was_hurt"]

_FOUND = {
    (True, True): "both the ranking of the predictions and their calibration",
    (True, False): "the ranking of the predictions, not their calibration",
    (False, True): "the calibration of the predictions, not their ranking",
    (False, False): "neither the ranking of the predictions nor their calibration, as far as can be told",
}


def what_was_hurt(analysis: ProbabilityAnalysis, *, setting: str = "quantization") -> str:
    """What a setting hurt: accuracy, the ranking of right above wrong predictions, or only their calibration.

    The ranking counts as hurt when the interval of the change of `discrimination_share` is below 0 (with recalibration,
    each network at its own temperature), calibration when that of `miscalibration` is above 0.

    Args:
        analysis: The figures.
        setting: What to call what was done to the network.

    Example:
        >>> import torch
        >>> from qcal.robustness.probabilities import analyse_probabilities
        >>> logits, target = torch.eye(4).repeat(10, 1), torch.arange(40) % 4
        >>> what_was_hurt(analyse_probabilities(logits, logits.clone(), target))
        'A network that is always right, or always wrong, has no ranking to hurt.'
    """
    off = analysis.miscalibration
    share, where = analysis.recalibrated_discrimination_share, ", each network at its own temperature,"
    if share is None:
        share, where = analysis.discrimination_share, ""
    if share is None:
        return "A network that is always right, or always wrong, has no ranking to hurt."
    if share.low is None or off.low is None:
        return f"Too few images ({analysis.num_images}) to tell what {setting} hurt."
    found = _FOUND[share.direction == "fell", off.direction == "rose"]
    sentence = (
        f"Accuracy changed by {change_with_interval(analysis.accuracy, in_percent)} points; beside it, {setting} hurt "
        f"{found}: confidence{where} explains {in_percent(share.after)} % of the variance of being right, "
        f"{change_with_interval(share, in_percent)} points, and the miscalibration of the top-label Brier score is "
        f"{in_nats(off.after)}, {change_with_interval(off, in_nats)}"
    )
    nll, refinement, rest = analysis.nll, analysis.nll_refinement, analysis.nll_miscalibration
    if refinement is None or rest is None:
        return f"{sentence}."
    return (
        f"{sentence}; of the NLL's change of {change_with_interval(nll, in_nats)} nats, "
        f"{change_with_interval(refinement, in_nats)} is refinement and {change_with_interval(rest, in_nats)} "
        "miscalibration, which a temperature takes away."
    )
