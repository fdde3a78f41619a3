"""Confidence intervals for a share that was counted."""

import torch
from torch import Tensor


def wilson_interval(successes: Tensor, trials: Tensor, *, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
    """The Wilson score interval for the share `successes / trials` of each entry.

    With `k` successes in `n` trials and `z` the `(1 + confidence) / 2` quantile of the standard normal distribution:

        centre = (k + z^2 / 2) / (n + z^2)
        half width = z / (n + z^2) * sqrt(k (n - k) / n + z^2 / 4)

    It stays inside [0, 1] and keeps a width at `k = 0` and `k = n`, where the usual `p +- z sqrt(p (1 - p) / n)` has
    none: both happen in every reliability diagram and for every setting without swaps.

    Args:
        successes: `(...)` counts `k` in [0, n], of any type.
        trials: `(...)` counts `n >= 0`, broadcast against `successes`.
        confidence: Coverage the interval aims at, in (0, 1).

    Returns:
        Lower and upper end, each `(...)` float64 in [0, 1]; NaN where there are no trials.

    Raises:
        ValueError: `confidence` is not between 0 and 1, or a count is not in its range.

    Example:
        >>> lower, upper = wilson_interval(torch.tensor([0, 8]), torch.tensor([10, 10]))
        >>> lower.round(decimals=4).tolist(), upper.round(decimals=4).tolist()
        ([0.0, 0.4902], [0.2775, 0.9433])

    References:
        E. B. Wilson: Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.
        L. D. Brown, T. T. Cai, A. DasGupta: Interval Estimation for a Binomial Proportion, Statistical Science 2001,
        equation 4.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be between 0 and 1, got {confidence}. For 95 percent pass 0.95.")
    k, n = successes.double(), trials.double()
    in_range = (k >= 0) & (k <= n)
    if not in_range.all():
        raise ValueError(
            "`successes` must be counts between 0 and `trials`, "
            f"got {int((~in_range).sum())} of {in_range.numel()} outside. Pass counts, not shares."
        )
    z = torch.special.ndtri(torch.tensor((1 + confidence) / 2, dtype=torch.float64, device=k.device))
    centre = (k + z**2 / 2) / (n + z**2)
    half_width = z / (n + z**2) * (k * (n - k) / n + z**2 / 4).sqrt()  # 0 / 0 is NaN where there are no trials
    # At k = 0 and k = n the end is exactly 0 and 1; rounding would leave it 1e-17 beside.
    lower = torch.where((k == 0) & (n > 0), 0, centre - half_width)
    upper = torch.where((k == n) & (n > 0), 1, centre + half_width)
    return lower, upper
