"""How sure a figure is: intervals and averages for shares of right answers."""

import math
from collections.abc import Iterable
from statistics import NormalDist, fmean


def wilson_interval(num_right: int, num_total: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval in which the true share lies with this confidence (Wilson, 1927, JASA 22, p. 209).

    It holds all shares p for which the observed one is within z standard errors: (p̂ − p)² ≤ z² p (1 − p) /
    n. Unlike p̂ ± z·√(p̂(1 − p̂)/n) it stays within 0 and 1, and does not shrink to nothing when all answers
    are right. Without any observation it is (0, 1).
    """
    assert 0 <= num_right <= num_total and 0 < confidence < 1
    if num_total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_right / num_total
    scale = 1 + z**2 / num_total
    centre = (share + z**2 / (2 * num_total)) / scale
    half_width = z / scale * math.sqrt(share * (1 - share) / num_total + (z / (2 * num_total)) ** 2)
    # At the ends the formula gives exactly 0 and 1; rounding may not say 1.0000000000000002.
    low = 0.0 if num_right == 0 else centre - half_width
    high = 1.0 if num_right == num_total else centre + half_width
    return low, high


def macro_average(shares: Iterable[float]) -> float:
    """The mean over groups, each counting the same however many questions it has; NaN without groups."""
    shares = list(shares)
    return fmean(shares) if shares else math.nan
