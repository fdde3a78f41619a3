"""How well a score ranks what happened above what did not: AUROC and average precision, with ties shared.

Both depend on the order of the scores alone. Samples of equal score form one group, whose order inside is never used,
so that the result does not depend on the order of the samples. The groups are formed once and serve any number of
outcomes: `rank_scores` sorts, `ranking_quality` counts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RankedScores", "Ranking", "rank_scores", "ranking_quality"]


@dataclass(frozen=True)
class RankedScores:
    """Samples in groups of equal score, highest first; see `rank_scores`.

    Attributes:
        group: `(N,)` int64 in [0, G), the group of each sample; 0 has the highest score.
        size: `(G,)` int64, samples in each group.
    """

    group: Tensor
    size: Tensor


@dataclass(frozen=True)
class Ranking:
    """How well a score ranks positives above negatives; see `ranking_quality`.

    Attributes:
        auroc: Probability that a positive has a higher score than a negative, ties counting one half, in [0, 1]; None
            when there are no positives or no negatives.
        average_precision: Mean over positives of the share of positives among all samples scored at least as high, in
            [0, 1]; None when there are no positives.
        prevalence: Share of positives, in [0, 1]: the average precision of a score that knows nothing.
    """

    auroc: float | None
    average_precision: float | None
    prevalence: float


def rank_scores(scores: Tensor) -> RankedScores:
    """Sort scores, highest first, and put equal ones into one group.

    Args:
        scores: `(N,)` real, N >= 1; infinite values are allowed, NaN is not.

    Returns:
        The groups.

    Raises:
        ValueError: Another shape, or NaN.

    Example:
        >>> ranked = rank_scores(torch.tensor([0.5, 2.0, 0.5]))
        >>> ranked.group.tolist(), ranked.size.tolist()
        ([1, 0, 1], [1, 2])
    """
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"`scores` must have shape (N,) with N >= 1, got {tuple(scores.shape)}. Pass one a sample.")
    missing = int(scores.isnan().sum())
    if missing:
        raise ValueError(
            f"`scores` must not be NaN, got {missing} of {len(scores)}. Leave out the samples without a score."
        )
    ordered, order = scores.sort(descending=True)
    is_new = torch.ones_like(ordered, dtype=torch.bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    place = is_new.cumsum(0) - 1
    group = torch.empty_like(place).scatter_(0, order, place)
    return RankedScores(group=group, size=torch.bincount(place))


def ranking_quality(scores: Tensor | RankedScores, positive: Tensor) -> Ranking:
    """AUROC and average precision of scores, for an outcome that high scores should go with.

    With groups of equal score from the highest down, `p_g` positives and `n_g` negatives in group g, P and N in all:

        AUROC = sum_g p_g * (N_below + n_g / 2) / (P N),   N_below = negatives in later groups
        AP    = sum_g (p_g / P) * (positives up to and with g) / (samples up to and with g)

    Args:
        scores: `(N,)` real without NaN, or their `rank_scores`.
        positive: `(N,)` bool, what happened.

    Returns:
        The two, and the share of positives.

    Raises:
        TypeError: `positive` is not bool.
        ValueError: Shapes do not fit, or NaN.

    Example:
        >>> quality = ranking_quality(torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([True, True, False, False]))
        >>> quality.auroc, round(quality.average_precision, 4), quality.prevalence
        (0.875, 0.8333, 0.5)

    References:
        J. A. Hanley, B. J. McNeil: The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC)
        Curve, Radiology 143, 1982.
        C. D. Manning, P. Raghavan, H. Schuetze: Introduction to Information Retrieval, 2008, section 8.4 (average
        precision, not interpolated).
    """
    ranked = scores if isinstance(scores, RankedScores) else rank_scores(scores)
    if positive.dtype != torch.bool:
        raise TypeError(f"`positive` must be a bool tensor, got {positive.dtype}. Pass a comparison, such as `a != b`.")
    if positive.shape != ranked.group.shape:
        raise ValueError(
            f"`positive` must have shape {tuple(ranked.group.shape)}, one outcome a score, got "
            f"{tuple(positive.shape)}. Pass both for the same samples."
        )
    hits = torch.bincount(ranked.group[positive], minlength=len(ranked.size))
    hits_so_far, seen_so_far = hits.cumsum(0), ranked.size.cumsum(0)
    num_hits, num_samples = int(hits_so_far[-1]), len(positive)
    misses = ranked.size - hits
    below = num_samples - num_hits - (seen_so_far - hits_so_far)
    # Whole numbers until the quotient: exact up to 2^53 pairs.
    pairs = (hits.double() * (2 * below + misses).double()).sum().item()
    precision = (hits.double() * (hits_so_far.double() / seen_so_far)).sum().item()
    both = 0 < num_hits < num_samples
    return Ranking(
        auroc=pairs / (2 * num_hits * (num_samples - num_hits)) if both else None,
        average_precision=precision / num_hits if num_hits else None,
        prevalence=num_hits / num_samples,
    )
