"""Rank correlation of a handful of runs, and what is left of it with a third figure held fixed; resampled at once.

A resample of N runs is a row of counts: how often each run was drawn. The figures of all resamples come from the counts
by products of matrices, and are exactly those of the drawn runs.

References:
    C. Spearman: The Proof and Measurement of Association between Two Things, American Journal of Psychology 1904.
    M. G. Kendall, A. Stuart: The Advanced Theory of Statistics, vol. 2, 1973, equation 27.5 (partial correlation).
"""

import torch
from torch import Tensor

__all__ = ["midranks", "spearman"]


def midranks(values: Tensor, counts: Tensor) -> Tensor:
    """Ranks within resamples, equal values sharing the mean of their places.

    Args:
        values: `(N,)` real and finite.
        counts: `(R, N)`, how often each value was drawn.

    Returns:
        `(R, N)` float64 in [0.5, N]: the rank that each value has, or would have, among those drawn.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.

    Example:
        >>> midranks(torch.tensor([0.3, 0.1, 0.3]), torch.tensor([[1, 1, 1], [2, 1, 0]])).tolist()
        [[2.5, 1.0, 2.5], [2.5, 1.0, 2.5]]
    """
    if values.ndim != 1 or counts.ndim != 2 or counts.shape[1] != len(values) or len(values) == 0:
        raise ValueError(
            f"`values` must have shape (N,) and `counts` (R, N) with N >= 1, got {tuple(values.shape)} and "
            f"{tuple(counts.shape)}. Pass one value a run, and one row a resample."
        )
    if not bool(values.isfinite().all()):
        raise ValueError("`values` must be finite, got NaN or infinity. Leave out the runs that were not measured.")
    drawn = counts.double()
    column, row = values.double()[:, None], values.double()[None, :]
    below, equal = (row < column).double(), (row == column).double()
    return drawn @ below.T + (drawn @ equal.T + 1) / 2


def spearman(x: Tensor, y: Tensor, *, control: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation of two figures, or the partial one with a third held fixed.

    It is the correlation r of midranks. With a control z, of which the linear part is taken out of both rankings:

        r_xy.z = (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2))

    Args:
        x: `(N,)` one value a run.
        y: `(N,)` likewise.
        control: `(N,)` the figure to hold fixed; None for the plain correlation.
        counts: `(R, N)` how often each run was drawn in each resample, as `resampled_sums(torch.eye(N))` gives them;
            None for the runs as they are.

    Returns:
        `(R,)` float64 in [-1, 1], 0-dim without `counts`; NaN where a figure has no spread, or the control leaves none.

    Raises:
        ValueError: Shapes that do not fit, or values that are not finite.

    Example:
        >>> x, y = torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, 3, 2, 4])
        >>> round(spearman(x, y).item(), 6), round(spearman(x, y, control=torch.tensor([2.0, 1, 4, 3])).item(), 6)
        (0.8, 1.0)
    """
    weights = torch.ones(1, len(x), dtype=torch.float64) if counts is None else counts.double()
    ranks = midranks(x, weights), midranks(y, weights)
    result = _correlation(ranks[0], ranks[1], weights)
    if control is not None:
        held = midranks(control, weights)
        with_x, with_y = _correlation(ranks[0], held, weights), _correlation(ranks[1], held, weights)
        left = (1 - with_x**2) * (1 - with_y**2)
        # Below the rounding of a correlation nothing is left to correlate.
        partial = (result - with_x * with_y) / left.sqrt()
        result = torch.where(left > 1e-12, partial.clamp(-1, 1), torch.nan)
    return result[0] if counts is None else result


def _correlation(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Pearson's correlation of each row, `(R,)`; NaN where one has no spread."""
    total = weights.sum(dim=1, keepdim=True)
    x, y = (values - (weights * values).sum(dim=1, keepdim=True) / total for values in (x, y))
    both, own_x, own_y = ((weights * product).sum(dim=1) for product in (x * y, x * x, y * y))
    spread = own_x * own_y
    return torch.where(spread > 1e-12, (both / spread.sqrt()).clamp(-1, 1), torch.nan)
