"""McNemar's exact test: did the error change, or did as many predictions get better as got worse by chance?"""

import math

__all__ = ["mcnemar_exact"]


def mcnemar_exact(harmful: int, beneficial: int) -> float:
    """Two-sided p-value of "a prediction whose rightness changed was as likely repaired as broken".

    Of `n = harmful + beneficial` predictions whose rightness changed, `m = min(harmful, beneficial)` went the rarer
    way. Under the hypothesis each way has probability one half, so

        p = min(1, 2 * sum_{k=0}^{m} binomial(n, k) / 2^n)

    No approximation: the first term is a quotient of whole numbers, the others follow from it by
    `binomial(n, k - 1) / binomial(n, k) = k / (n - k + 1)`.

    Args:
        harmful: Predictions that were right and are wrong, >= 0.
        beneficial: Predictions that were wrong and are right, >= 0.

    Returns:
        p in [0, 1]. Without any change there is nothing that speaks against the hypothesis, and p is 1; below the
        smallest float (5e-324) it is 0.

    Raises:
        ValueError: A count is negative or no whole number.

    Example:
        >>> mcnemar_exact(8, 1)
        0.0390625

    References:
        Q. McNemar: Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages,
        Psychometrika 12, 1947. The exact form: A. Agresti, Categorical Data Analysis, 2013, section 11.1.
    """
    for name, count in (("harmful", harmful), ("beneficial", beneficial)):
        if int(count) != count or count < 0:
            raise ValueError(f"`{name}` must be a whole number >= 0, got {count}. Pass counts, not shares.")
    changed, rarer = int(harmful + beneficial), int(min(harmful, beneficial))
    if 2 * rarer >= changed - 1:
        return 1.0  # both ways as near to half as they can be: the sum holds half of the distribution, or more
    term = 1.0
    relative = [term]  # of the terms to the last one, which is the largest
    for k in range(rarer, 0, -1):
        term *= k / (changed - k + 1)
        if term < 1e-18:
            break
        relative.append(term)
    # Python divides whole numbers of any size with one rounding; a float would overflow.
    last = math.comb(changed, rarer) / (1 << changed)
    return min(1.0, 2 * last * math.fsum(relative))
