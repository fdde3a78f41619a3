"""Recalibration after quantization: what three temperatures repair, and whether the dilemma is left behind.

Xia et al. 2021 found that overconfident networks, which are badly calibrated, keep more of their accuracy when
quantized. A temperature costs no prediction. So: train overconfident, quantize, then recalibrate; does that leave
probabilities as good as those of the recalibrated float network? The three temperatures, all from held-out images:

- the float network's own, reused: nothing is fitted to the quantized network;
- one refitted to the quantized network;
- one for each image, from the quantization noise forecast for it (`qcal.functional.noise_temperature`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qcal.functional.noise_temperature import NoiseTemperatureFit, fit_noise_temperature
from qcal.functional.score_inputs import check_class_target, check_rows, raise_if_bad_rows
from qcal.functional.temperature import TemperatureFit, fit_temperature
from qcal.robustness.paired_change import Change, change_between
from qcal.robustness.scored_network import ScoredNetwork, score_network

__all__ = [
    "FittedRepairs",
    "ProbabilityRepair",
    "Recalibration",
    "RepairMethod",
    "RepairOutcome",
    "fit_repairs",
    "score_repairs",
    "summarise_repairs",
]

RepairMethod = Literal["none", "float_temperature", "refitted_temperature", "noise_temperature"]
METHODS: tuple[RepairMethod, ...] = get_args(RepairMethod)

_FLOAT_RECALIBRATED = "float_recalibrated"


@dataclass(frozen=True)
class Recalibration:
    """Images to fit repairs on: held out from training, and none of those that are compared.

    Attributes:
        float_logits: `(M, C)` of the float network.
        quant_logits: `(M, C)` of the quantized network, same images in the same order.
        target: `(M,)` int64 class indices.
    """

    float_logits: Tensor
    quant_logits: Tensor
    target: Tensor


@dataclass(frozen=True)
class FittedRepairs:
    """The temperatures, before they are tried on other images.

    Attributes:
        num_images: Images they were fitted on.
        float_fit: Of the float network.
        quant_fit: Of the quantized network.
        noise_fit: Of the quantized network, one an image.
    """

    num_images: int
    float_fit: TemperatureFit
    quant_fit: TemperatureFit
    noise_fit: NoiseTemperatureFit


@dataclass(frozen=True)
class RepairOutcome:
    """What one repair did to the quantized network's probabilities on the compared images.

    Attributes:
        method: `none`, `float_temperature`, `refitted_temperature` or `noise_temperature`.
        mean_temperature: What the logits were divided by, averaged over images.
        lowest_temperature: Over the images; equal to the mean where there is one temperature.
        highest_temperature: Likewise.
        overconfidence: Mean confidence - accuracy, after the repair.
        ece: As quantized against repaired.
        nll: Likewise, in nats.
        ece_gap: The float network at its own temperature against the quantized network repaired.
        nll_gap: Likewise, in nats.
    """

    method: RepairMethod
    mean_temperature: float
    lowest_temperature: float
    highest_temperature: float
    overconfidence: float
    ece: Change
    nll: Change
    ece_gap: Change
    nll_gap: Change


@dataclass(frozen=True)
class ProbabilityRepair:
    """What recalibration repairs; the answer in words is `qcal.robustness.repair_words.repair_answer`.

    Attributes:
        num_recalibration_images: Images the temperatures were fitted on.
        float_temperature: The float network's.
        refitted_temperature: The quantized network's.
        noise: How the temperature of an image follows from the noise forecast for it.
        float_ece: Of the float network as it is, on the compared images.
        float_nll: Likewise, in nats.
        recalibrated_float_ece: Of the float network at its own temperature.
        recalibrated_float_nll: Likewise, in nats.
        outcomes: One a method, `none` first.
        noise_gain: NLL with the refitted temperature against that with the images' own: what forecasting noise adds.
    """

    num_recalibration_images: int
    float_temperature: float
    refitted_temperature: float
    noise: NoiseTemperatureFit
    float_ece: float
    float_nll: float
    recalibrated_float_ece: float
    recalibrated_float_nll: float
    outcomes: tuple[RepairOutcome, ...]
    noise_gain: Change

    def outcome(self, method: RepairMethod) -> RepairOutcome:
        """The outcome of one method."""
        return next(outcome for outcome in self.outcomes if outcome.method == method)


def fit_repairs(recalibration: Recalibration) -> FittedRepairs | str:
    """Fit the temperatures, or say in words why there are none.

    Raises:
        TypeError: wrong types.
        ValueError: wrong or different shapes; NaN or infinite logits; targets out of range.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 4)
        >>> fitted = fit_repairs(Recalibration(logits, 3 * logits, torch.tensor([0, 0, 0, 1])))
        >>> round(fitted.quant_fit.temperature / fitted.float_fit.temperature, 6)
        3.0
        >>> fit_repairs(Recalibration(logits, 3 * logits, torch.tensor([0, 0, 0, 0])))[:60]
        'the float network: temperature ran to the lower end of [1.41'
    """
    check_recalibration(recalibration)
    float_logits, quant_logits, target = recalibration.float_logits, recalibration.quant_logits, recalibration.target
    if torch.equal(float_logits, quant_logits):
        quant_logits = float_logits  # one place in memory: how sums are rounded depends on it
    fits = {}
    for name, logits in (("float", float_logits), ("quantized", quant_logits)):
        if bool((logits == logits[:, :1]).all()):
            return f"the {name} network's logits are equal within every row, so that every temperature is as good"
        fits[name] = fit_temperature(logits, target)
        if fits[name].at_bound is not None:
            return f"the {name} network: {fits[name].message}"
    noise = fit_noise_temperature(
        float_logits,
        quant_logits,
        target,
        float_fit=fits["float"],
        quant_fit=fits["quantized"],
    )
    return FittedRepairs(len(target), fits["float"], fits["quantized"], noise)


def check_recalibration(recalibration: Recalibration) -> None:
    """Check shapes, types and values.

    Raises:
        TypeError: wrong types.
        ValueError: wrong or different shapes; NaN or infinite logits; targets out of range.
    """
    before, after, target = recalibration.float_logits, recalibration.quant_logits, recalibration.target
    for name, logits in (("recalibration.float_logits", before), ("recalibration.quant_logits", after)):
        check_rows(logits, name)
        check_class_target(target, len(logits))
        # Infinity in a row makes its extremes infinite, NaN makes them NaN.
        raise_if_bad_rows(logits.amax(dim=1) - logits.amin(dim=1), target, logits.shape[1])
    if before.shape != after.shape:
        raise ValueError(
            f"`recalibration` must hold float and quantized logits of one shape, got {tuple(before.shape)} and "
            f"{tuple(after.shape)}. Run both networks on the same images."
        )


def score_repairs(
    fitted: FittedRepairs, float_logits: Tensor, quant_logits: Tensor, target: Tensor
) -> tuple[dict[RepairMethod, Tensor], dict[str, ScoredNetwork]]:
    """Apply the temperatures to the compared images; `none` is left to the caller, who has it.

    Returns:
        Each method's temperatures `(N,)`, and the scored networks: the methods', and the float network at its own
        temperature under `float_recalibrated`.
    """
    whole = torch.ones(len(target), dtype=torch.float64, device=quant_logits.device)
    temperatures: dict[RepairMethod, Tensor] = {
        "none": whole,
        "float_temperature": whole * fitted.float_fit.temperature,
        "refitted_temperature": whole * fitted.quant_fit.temperature,
        "noise_temperature": fitted.noise_fit.temperature(quant_logits),
    }
    scored: dict[str, ScoredNetwork] = {
        method: score_network(
            method, quant_logits, target, temperature=temperature, with_parts=method == "refitted_temperature"
        )
        for method, temperature in temperatures.items()
        if method != "none"
    }
    scored[_FLOAT_RECALIBRATED] = score_network(
        _FLOAT_RECALIBRATED, float_logits, target, temperature=temperatures["float_temperature"], with_parts=True
    )
    return temperatures, scored


def summarise_repairs(
    fitted: FittedRepairs,
    temperatures: Mapping[RepairMethod, Tensor],
    scored: Mapping[str, ScoredNetwork],
    sums: dict[str, Tensor] | None,
) -> ProbabilityRepair:
    """Figures from scored networks: those of `score_repairs`, with `float` and `none` (as quantized) among them."""
    goal = scored[_FLOAT_RECALIBRATED]

    def outcome(method: RepairMethod) -> RepairOutcome:
        plain, repaired, temperature = scored["none"], scored[method], temperatures[method]
        return RepairOutcome(
            method=method,
            mean_temperature=temperature.mean().item(),
            lowest_temperature=temperature.amin().item(),
            highest_temperature=temperature.amax().item(),
            overconfidence=repaired.mean("overconfidence", None).value,
            ece=change_between(plain.ece(sums), repaired.ece(sums)),
            nll=change_between(plain.mean("nll", sums), repaired.mean("nll", sums)),
            ece_gap=change_between(goal.ece(sums), repaired.ece(sums)),
            nll_gap=change_between(goal.mean("nll", sums), repaired.mean("nll", sums)),
        )

    refitted, by_noise = scored["refitted_temperature"], scored["noise_temperature"]
    return ProbabilityRepair(
        num_recalibration_images=fitted.num_images,
        float_temperature=fitted.float_fit.temperature,
        refitted_temperature=fitted.quant_fit.temperature,
        noise=fitted.noise_fit,
        float_ece=scored["float"].ece(None).value,
        float_nll=scored["float"].mean("nll", None).value,
        recalibrated_float_ece=goal.ece(None).value,
        recalibrated_float_nll=goal.mean("nll", None).value,
        outcomes=tuple(outcome(method) for method in METHODS),
        noise_gain=change_between(refitted.mean("nll", sums), by_noise.mean("nll", sums)),
    )
