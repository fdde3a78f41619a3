"""Student's t for a few paired runs: the interval of a mean, the test of its being 0, and Holm's correction of many.

References:
    Student: The Probable Error of a Mean, Biometrika 1908.
    M. Abramowitz, I. A. Stegun: Handbook of Mathematical Functions, 1964, equations 26.7.3 and 26.7.4.
    S. Holm: A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcal.functional.bootstrap import Interval

__all__ = ["FEWEST_PAIRS", "MeanTest", "holm", "mean_test", "t_probability_within", "t_quantile"]

FEWEST_PAIRS = 3
"""Two values have a spread with one degree of freedom: their interval is 13 standard errors wide and says nothing."""


@dataclass(frozen=True)
class MeanTest:
    """A mean, and whether it can be told from 0; see `mean_test`.

    Attributes:
        mean: Of the values.
        interval: Student's, of the stated level; None where it is undefined.
        p_value: Two-sided, in [0, 1]; None where it is undefined.
        number: N values.
    """

    mean: float
    interval: Interval | None
    p_value: float | None
    number: int


def mean_test(values: Sequence[float], *, level: float = 0.95) -> MeanTest:
    """The mean of a few values with Student's interval, and the two-sided t-test of a mean of 0.

    With the standard deviation s of N values, `t = mean / (s / sqrt(N))` has N - 1 degrees of freedom. For differences
    of pairs this is the paired t-test. Interval and test are left out for fewer than `FEWEST_PAIRS` values, and for
    equal values: figures that are counts can agree by chance, and no spread is no certainty.

    Args:
        values: N >= 1 finite numbers.
        level: Coverage of the interval, in (0, 1).

    Returns:
        Mean, interval and p value.

    Raises:
        ValueError: No value, or one that is not finite.

    Example:
        >>> result = mean_test([1.0, 2.0, 3.0])
        >>> result.mean, round(result.interval.low, 4), round(result.p_value, 4)
        (2.0, -0.4841, 0.0742)
    """
    if not values or not all(map(math.isfinite, values)):
        raise ValueError(f"`values` must be at least one finite number, got {list(values)}. Leave out what is missing.")
    number = len(values)
    mean = math.fsum(values) / number
    if number < FEWEST_PAIRS or max(values) - min(values) <= 1e-12 * max(map(abs, values)):
        return MeanTest(mean, None, None, number)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1) / number)
    reach = t_quantile(level, number - 1) * error
    p_value = 1 - t_probability_within(abs(mean) / error, number - 1)
    return MeanTest(mean, Interval(mean - reach, mean + reach), max(p_value, 0.0), number)


def t_probability_within(t: float, freedom: int) -> float:
    """The probability that Student's t lies within `-t` and `t`, in closed form for whole degrees of freedom.

    Args:
        t: >= 0.
        freedom: Degrees of freedom, >= 1.

    Returns:
        In [0, 1], to about 1e-15.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> round(t_probability_within(1.0, 1), 12), round(t_probability_within(2.0, 4), 6)
        (0.5, 0.883883)
    """
    if t < 0 or freedom < 1:
        raise ValueError(f"`t` must be >= 0 and `freedom` >= 1, got {t} and {freedom}. Pass |t| and N - 1.")
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    # Both sums are of terms with factors k / (k + 1), in steps of 2, times cos^2.
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for step in range(1 + odd, freedom, 2):
        total += term
        term *= step / (step + 1) * cosine**2
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def t_quantile(level: float, freedom: int) -> float:
    """Where Student's t lies within, on both sides, with probability `level`.

    Args:
        level: In (0, 1).
        freedom: Degrees of freedom, >= 1.

    Returns:
        The positive end.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> round(t_quantile(0.95, 2), 4), round(t_quantile(0.95, 9), 4)
        (4.3027, 2.2622)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}. For 95 percent pass 0.95.")
    low, high = 0.0, 1.0
    while t_probability_within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability_within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down: below alpha, the family's chance of a false one is too.

    The k-th smallest of m is multiplied by `m - k + 1`, and is at least as large as the one before it.

    Args:
        p_values: m numbers in [0, 1]; none is allowed.

    Returns:
        The corrected values, at most 1, in the same order.

    Raises:
        ValueError: One is outside [0, 1].

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"`p_values` must lie in [0, 1], got {list(p_values)}. Leave out tests that are undefined.")
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
