"""How sure an accuracy is: 95% intervals of one run's, and of the mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95
Interval = tuple[float, float]


def wilson(hits: int, n: int) -> Interval:
    """Wilson's score interval of a share, `hits` of n: what other test images might have given one run."""
    from scipy import stats  # takes long to import, and a sweep needs it at its end alone

    low, high = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def student(values: Sequence[float]) -> Interval:
    """Mean +- t sd / sqrt(n), of n >= 2 runs: what other seeds might have given, on the same test images."""
    from scipy import stats

    n, mean = len(values), math.fsum(values) / len(values)
    if min(values) == max(values):
        return mean, mean
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return mean - half, mean + half
