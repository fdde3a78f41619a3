"""What quantization did to the probabilities: every score before and after, and what repairs it; from logits alone.

A score that got worse has two possible reasons. The ranking suffered: right and wrong predictions are no longer told
apart as well, which nothing done afterwards can mend. Or only the probabilities did: they are off in a way that
recalibration takes away. Two decompositions tell them apart:

- the top-label Brier score by isotonic regression (CORP): `miscalibration - discrimination + uncertainty`;
- NLL and Brier score over all classes by temperature: what a score is at the network's own best temperature, found on
  held-out images, is refinement, the rest is miscalibration. Without held-out images this is left out.

ECE, smooth ECE and overconfidence are miscalibration as a whole.

References:
    Dimitriadis, Gneiting, Jordan: Stable Reliability Diagrams for Probabilistic Classifiers, PNAS 118 (8), 2021.
    Berta, Holzmueller, Jordan, Bach: Rethinking Early Stopping: Refine, Then Calibrate, 2025 (arXiv 2501.19195):
    refinement as the score that is left after temperature scaling.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from qcal.robustness.paired_change import (
    FEWEST_IMAGES,
    RESAMPLES,
    Change,
    ResampledScore,
    change_between,
    resample_columns,
)
from qcal.robustness.repair import (
    FittedRepairs,
    ProbabilityRepair,
    Recalibration,
    RepairMethod,
    fit_repairs,
    score_repairs,
    summarise_repairs,
)
from qcal.robustness.risk_coverage import RiskCoverageChange, risk_coverage_change
from qcal.robustness.scored_network import MeanScore, ScoredNetwork, score_network
from qcal.robustness.selective_fallback import (
    TOLERANCE,
    FallbackRule,
    SelectiveFallback,
    choose_fallback,
    joint_correct,
    summarise_fallback,
)

__all__ = ["ProbabilityAnalysis", "analyse_probabilities"]

NO_RECALIBRATION = "no held-out images were given to fit on (`recalibration`)"

_JOINT = "joint_correct"


@dataclass(frozen=True)
class ProbabilityAnalysis:
    """The probabilities of one quantized network beside those of its float self; plain values throughout.

    What they say of ranking and probabilities, in a sentence: `qcal.robustness.probability_words.what_was_hurt`.

    Every `Change` is float against quantized, with a 95 % paired bootstrap interval.

    Attributes:
        num_images: Images compared.
        interval_missing: Why changes have no interval; None if they have.
        accuracy: Share of predictions that are right.
        mean_confidence: Mean top-class probability.
        overconfidence: Mean confidence - accuracy.
        ece: Expected calibration error, 15 equal-width bins `(lo, hi]`, L1.
        smooth_ece: Smooth calibration error; resampled at the bandwidths of the images as they are.
        nll: Mean negative log-likelihood in nats.
        brier: Brier score over all classes, in [0, 2].
        top_label_brier: Brier score of the confidence, `miscalibration - discrimination + uncertainty`.
        miscalibration: What isotonic recalibration of the confidences would take off that score.
        discrimination: What ranking right above wrong earns in it.
        uncertainty: What there is to earn, `accuracy * (1 - accuracy)`.
        discrimination_share: `discrimination / uncertainty`, the ranking whatever the accuracy; None where a network is
            always right or always wrong.
        recalibrated_discrimination_share: The same, each network at its own best temperature: with more than two
            classes a temperature changes which of two images is the more confident, so that a network that is only too
            sharp has a worse ranking, too, which a temperature mends. None without recalibration.
        nll_refinement: NLL of each network at its own best temperature; None without recalibration.
        nll_miscalibration: The rest of the NLL, likewise; slightly negative where a fitted temperature does not help.
        brier_refinement: As `nll_refinement`, of the Brier score over all classes.
        brier_miscalibration: The rest.
        risk_coverage: Errors among the most confident, before and after.
        repair: What recalibration repairs; None without it.
        repair_missing: Why `repair` is None.
        fallback: What handing the least confident images to the float network restores.
    """

    num_images: int
    interval_missing: str | None
    accuracy: Change
    mean_confidence: Change
    overconfidence: Change
    ece: Change
    smooth_ece: Change
    nll: Change
    brier: Change
    top_label_brier: Change
    miscalibration: Change
    discrimination: Change
    uncertainty: Change
    discrimination_share: Change | None
    recalibrated_discrimination_share: Change | None
    nll_refinement: Change | None
    nll_miscalibration: Change | None
    brier_refinement: Change | None
    brier_miscalibration: Change | None
    risk_coverage: RiskCoverageChange
    repair: ProbabilityRepair | None
    repair_missing: str | None
    fallback: SelectiveFallback


def analyse_probabilities(
    float_logits: Tensor,
    quant_logits: Tensor,
    target: Tensor,
    *,
    recalibration: Recalibration | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    tolerance: float = TOLERANCE,
) -> ProbabilityAnalysis:
    """Compare the probabilities of a quantized network with those of its float self, and try what repairs them.

    Nothing that is applied to the compared images is fitted on them.

    Args:
        float_logits: `(N, C)` floating, finite.
        quant_logits: `(N, C)` of the quantized network, same images in the same order.
        target: `(N,)` int64 class indices.
        recalibration: Logits of both networks on other images, held out from training, to fit temperatures and the
            share of `fallback` on; None leaves these out.
        seed: Of the bootstrap.
        resamples: Draws of the bootstrap.
        tolerance: Accuracy that may be missing when the share handed over is chosen, as a fraction.

    Returns:
        The analysis; `dataclasses.asdict` makes JSON of it.

    Raises:
        TypeError: wrong types.
        ValueError: wrong or different shapes; NaN or infinite logits; targets out of range; recalibration images of
            another number of classes, or the compared images themselves.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 4 * torch.randn(400, 10, generator=generator)
        >>> target = torch.multinomial(torch.softmax(logits / 2, dim=1), 1, generator=generator).squeeze(1)
        >>> noisy = logits + torch.randn(400, 10, generator=generator)
        >>> held_out = Recalibration(logits[:200], noisy[:200], target[:200])
        >>> result = analyse_probabilities(logits[200:], noisy[200:], target[200:], recalibration=held_out)
        >>> result.nll.direction, result.repair.outcome("refitted_temperature").nll.direction
        ('rose', 'fell')
    """
    _check_pair(float_logits, quant_logits)
    if torch.equal(float_logits, quant_logits):
        quant_logits = float_logits  # one place in memory: how sums are rounded depends on it
    fitted, rule = _fit(recalibration, quant_logits), _choose(recalibration, tolerance)
    scored = {
        "float": score_network("float", float_logits, target, with_parts=True, with_smooth_ece=True),
        "none": score_network("none", quant_logits, target, with_parts=True, with_smooth_ece=True),
    }
    temperatures: dict[RepairMethod, Tensor] = {}
    if isinstance(fitted, FittedRepairs):
        temperatures, repaired = score_repairs(fitted, float_logits, quant_logits, target)
        scored |= repaired
    sums = _resample(scored, rule, resamples=resamples, seed=seed)
    return _assemble(
        scored,
        sums,
        repair=summarise_repairs(fitted, temperatures, scored, sums) if isinstance(fitted, FittedRepairs) else None,
        repair_missing=fitted if isinstance(fitted, str) else None,
        fallback=_fallback(scored, rule, sums),
    )


def _resample(
    scored: dict[str, ScoredNetwork], rule: FallbackRule | str, *, resamples: int, seed: int
) -> dict[str, Tensor] | None:
    """Sums of every column of every network over the same resampled images."""
    columns = {name: column for network in scored.values() for name, column in network.columns().items()}
    if isinstance(rule, FallbackRule):
        columns[_JOINT] = joint_correct(scored["none"].rows, scored["float"].rows.correct, rule)
    return resample_columns(columns, resamples=resamples, seed=seed)


def _assemble(
    scored: dict[str, ScoredNetwork],
    sums: dict[str, Tensor] | None,
    *,
    repair: ProbabilityRepair | None,
    repair_missing: str | None,
    fallback: SelectiveFallback,
) -> ProbabilityAnalysis:
    before, after = scored["float"], scored["none"]

    def change(score: MeanScore) -> Change:
        return change_between(before.mean(score, sums), after.mean(score, sums))

    num_images = len(after.rows.correct)
    nll_refinement, nll_rest = _split(scored, "nll", sums)
    brier_refinement, brier_rest = _split(scored, "brier", sums)
    return ProbabilityAnalysis(
        num_images=num_images,
        interval_missing=None if sums is not None else f"{num_images} images; at least {FEWEST_IMAGES} are needed",
        accuracy=change("accuracy"),
        mean_confidence=change("mean_confidence"),
        overconfidence=change("overconfidence"),
        ece=change_between(before.ece(sums), after.ece(sums)),
        smooth_ece=change_between(before.smooth_ece(sums), after.smooth_ece(sums)),
        nll=change("nll"),
        brier=change("brier"),
        top_label_brier=change("top_label_brier"),
        miscalibration=change("miscalibration"),
        discrimination=change("discrimination"),
        uncertainty=change("uncertainty"),
        discrimination_share=_ranking(before, after, sums),
        recalibrated_discrimination_share=None
        if repair is None
        else _ranking(scored["float_recalibrated"], scored["refitted_temperature"], sums),
        nll_refinement=nll_refinement,
        nll_miscalibration=nll_rest,
        brier_refinement=brier_refinement,
        brier_miscalibration=brier_rest,
        risk_coverage=risk_coverage_change(before.rows, after.rows),
        repair=repair,
        repair_missing=repair_missing,
        fallback=fallback,
    )


def _fallback(
    scored: dict[str, ScoredNetwork], rule: FallbackRule | str, sums: dict[str, Tensor] | None
) -> SelectiveFallback:
    before, after = scored["float"], scored["none"]
    joint = torch.empty(0) if sums is None or _JOINT not in sums else sums[_JOINT] / len(after.rows.correct)
    return summarise_fallback(
        after.rows,
        before.rows.correct,
        rule,
        float_samples=before.mean("accuracy", sums).samples,
        joint_samples=joint,
    )


def _check_pair(float_logits: Tensor, quant_logits: Tensor) -> None:
    if float_logits.shape != quant_logits.shape:
        raise ValueError(
            f"`float_logits` and `quant_logits` must have one shape, got {tuple(float_logits.shape)} and "
            f"{tuple(quant_logits.shape)}. Run both networks on the same images."
        )


def _fit(recalibration: Recalibration | None, quant_logits: Tensor) -> FittedRepairs | str:
    if recalibration is None:
        return NO_RECALIBRATION
    held_out = recalibration.quant_logits
    if held_out.ndim == 2 and held_out.shape[1:] != quant_logits.shape[1:]:
        raise ValueError(
            f"`recalibration` must have the {quant_logits.shape[-1]} classes of the compared logits, got "
            f"{held_out.shape[1]}. Pass logits of the same networks."
        )
    if held_out.shape == quant_logits.shape and torch.equal(held_out, quant_logits):
        raise ValueError(
            "`recalibration` must hold other images than those compared, got the same logits. What is fitted on the "
            "images it is judged on looks better than it is: hold some out."
        )
    return fit_repairs(recalibration)


def _choose(recalibration: Recalibration | None, tolerance: float) -> FallbackRule | str:
    if recalibration is None:
        return NO_RECALIBRATION
    quant = score_network("quant", recalibration.quant_logits, recalibration.target)
    float_correct = score_network("float", recalibration.float_logits, recalibration.target).rows.correct
    return choose_fallback(quant.rows, float_correct, tolerance=tolerance)


def _ranking(before: ScoredNetwork, after: ScoredNetwork, sums: dict[str, Tensor] | None) -> Change | None:
    shares = before.discrimination_share(sums), after.discrimination_share(sums)
    return None if shares[0] is None or shares[1] is None else change_between(shares[0], shares[1])


def _split(
    scored: dict[str, ScoredNetwork], score: MeanScore, sums: dict[str, Tensor] | None
) -> tuple[Change | None, Change | None]:
    """Changes of refinement and of miscalibration of a score over all classes, by each network's own temperature."""
    if "float_recalibrated" not in scored:
        return None, None
    plain = [scored[name].mean(score, sums) for name in ("float", "none")]
    refined = [scored[name].mean(score, sums) for name in ("float_recalibrated", "refitted_temperature")]
    rest = [
        ResampledScore(whole.value - part.value, whole.samples - part.samples)
        for whole, part in zip(plain, refined, strict=True)
    ]
    return change_between(*refined), change_between(*rest)
