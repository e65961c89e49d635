"""What a few runs say: spread, intervals and tests, each by Student's t.

Runs of other seeds count as independent draws from one normal distribution. Everything here is in the unit
of the numbers given (for accuracies, shares of 1).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8
"""Chance of seeing the smallest difference that `Difference.detectable` names."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """A sample: n values, their mean, sample standard deviation (ddof 1), least and largest."""

    n: int
    mean: float
    sd: float | None
    """None for one value."""
    least: float
    largest: float

    @property
    def interval(self) -> Interval | None:
        """95% interval of the mean, mean +- t sd / sqrt(n); None for one value."""
        return self._around(1 / self.n)

    @property
    def prediction(self) -> Interval | None:
        """95% prediction interval of one further value, mean +- t sd sqrt(1 + 1/n); None for one value."""
        return self._around(1 + 1 / self.n)

    def _around(self, factor: float) -> Interval | None:
        if self.sd is None:
            return None
        half = _quantile(self.n - 1) * self.sd * math.sqrt(factor)
        return self.mean - half, self.mean + half


def spread(values: Sequence[float]) -> Spread:
    """The sample's figures; needs one value or more."""
    n, mean = len(values), math.fsum(values) / len(values)
    sd = math.sqrt(_squares(values) / (n - 1)) if n > 1 else None
    return Spread(n, mean, sd, min(values), max(values))


@dataclass(frozen=True)
class Difference:
    """What a t test says of mean(a) - mean(b)."""

    mean: float
    interval: Interval
    """95%, of the true difference."""
    p: float
    """Chance of a t as far from 0 were there no difference, both sides."""
    n: int
    """Pairs, or the smaller sample's values."""
    error: float
    """Standard error of the mean difference."""
    freedom: float
    """Degrees of freedom."""

    @property
    def detectable(self) -> float:
        """The smallest true difference that such samples show (p < 0.05) with 80% chance; 0 without noise."""
        return _shown(self.freedom) * self.error

    @property
    def significant(self) -> bool:
        """Whether the 95% interval leaves out 0."""
        return self.p < 1 - CONFIDENCE


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Student's t test of a[i] - b[i], two pairs or more; pairs share a seed, and with it their noise."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    n = len(differences)
    error = math.sqrt(_squares(differences) / (n - 1) / n)
    return _difference(math.fsum(differences) / n, error, n - 1, n)


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Welch's t test of independent samples with variances of their own, two values or more in each."""
    parts = [_squares(values) / (len(values) - 1) / len(values) for values in (a, b)]
    total = sum(parts)
    spread_out = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    freedom = total**2 / spread_out if total else len(a) + len(b) - 2
    mean = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    return _difference(mean, math.sqrt(total), freedom, min(len(a), len(b)))


def _difference(mean: float, error: float, freedom: float, n: int) -> Difference:
    half = _quantile(freedom) * error
    p = 0.0 if mean else 1.0  # without any noise: every pair, or every value, the same
    if error:
        p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, (mean - half, mean + half), p, n, error, freedom)


@functools.cache
def _shown(freedom: float) -> float:
    """True difference, in standard errors, that a two-sided t test shows with 80% chance."""
    critical = _quantile(freedom)

    def chance(shift: float) -> float:  # t^2 has the noncentral F distribution: both sides at once
        return float(stats.ncf.sf(critical**2, 1, freedom, shift**2)) - POWER

    return float(optimize.brentq(chance, 1e-6, 1.5 * critical + 2))


def _quantile(freedom: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _squares(values: Sequence[float]) -> float:
    """Sum of squared deviations from the mean; exactly 0 for equal values."""
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values)
