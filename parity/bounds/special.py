"""tanh, erf and the logistic function of Bounded numbers.

The libraries round them less well than exp: how many ULPs each may be off, and who documents it, stands in
parity.bounds.rounding. erf in extended precision is not in NumPy; its series

    erf x = (2 x / sqrt pi) e^(-x^2) sum_n t_n,   t_0 = 1,  t_n = t_(n-1) 2 x^2 / (2 n + 1)

(Abramowitz & Stegun 7.1.6) has positive terms only: with N of them, 3 roundings in each step from one to
the next and N in their sum, its relative error is at most (4 N + x^2 + 8) v, the last two for e^(-x^2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either
from parity.bounds.rounding import ERF_ULPS, SIGMOID_ULPS, TANH_ULPS, Array, Rounding

BEYOND = 7.0
"""1 - erf 7 is 4e-23: less than half an ULP of the widest truth."""


def pi(truth: type[np.floating[Any]]) -> Any:
    """In the truth's precision."""
    return 4 * np.arctan(truth(1))


def tanh(a: Bounded) -> Bounded:
    """Its slope is at most 1, and at most the slope at the end of [|a| - e, |a| + e] that is nearer to 0."""
    with np.errstate(all="ignore"):
        nearest = np.maximum(np.abs(a.value).astype(np.float64) - a.error, 0)
        slope = np.minimum(1, 4 * np.exp(-2 * nearest))  # 1 / cosh^2 = 4 / (e^a + e^-a)^2
        return a.rounded(np.tanh(a.value), np.minimum(a.error * slope, 2.0), TANH_ULPS)


def sigmoid(a: Bounded) -> Bounded:
    """As a function of the library, or as 1 / (1 + e^-a), whose slope is at most 1/4 and at most
    e^-(|a| - e).
    """
    with np.errstate(all="ignore"):
        value = 1 / (1 + np.exp(-a.value))
        nearest = np.maximum(np.abs(a.value).astype(np.float64) - a.error, 0)
        slope = np.minimum(0.25, np.exp(-nearest))
        library = a.rounded(value, np.minimum(a.error * slope, 1.0), SIGMOID_ULPS)
        written = 1.0 / (1.0 + (-a).exp())
    usable = np.isfinite(written.error)  # where e^-a overflows only the first has a limit
    error = np.where(usable, either(library, written).error, library.error)
    return Bounded(library.value, error, a.r)


def erf(a: Bounded) -> Bounded:
    """Its slope is at most 2 / sqrt pi, and at most 2 / sqrt pi e^(-x^2) at the end nearer to 0. Below
    float64 a library's function, or formula 7.1.26, is admitted.
    """
    with np.errstate(all="ignore"):
        value, own = _erf(a.value, a.r)
        nearest = np.maximum(np.abs(a.value).astype(np.float64) - a.error, 0)
        slope = 2 / math.sqrt(math.pi) * np.exp(-np.square(nearest))
        library = a.rounded(value, np.minimum(a.error * slope, 2.0) + own, ERF_ULPS)
    return library if a.r.name == "float64" else either(library, _by_polynomial(a))


def _by_polynomial(a: Bounded) -> Bounded:
    """Abramowitz & Stegun 7.1.26, up to 1.5e-7 off absolutely: torch's GELU and torch.compile on a CPU use it
    (pytorch issue 198183). Its own rounding, up to 2e-6 near 0, follows as for any formula.
    """
    x = Bounded(np.abs(a.value), a.error, a.r)
    t = 1.0 / (1.0 + 0.3275911 * x)
    total = 1.061405429 * t
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        total = (total + coefficient) * t
    found = 1.0 - total * (-(x * x)).exp()
    return Bounded(np.copysign(found.value, a.value), found.error, a.r)


def erf_slope(a: Bounded) -> Bounded:
    """2 / sqrt pi e^(-a^2), its derivative."""
    factor = Bounded.constant(2 / np.sqrt(pi(a.r.truth)), a.r)
    return factor * (-(a * a)).exp()


def _erf(x: Array, r: Rounding) -> tuple[Array, Array]:
    """erf in the truth's precision, and what this value itself may be off beyond the ULPs."""
    if np.finfo(r.truth).nmant <= np.finfo(np.float64).nmant:
        value = np.vectorize(math.erf, otypes=[np.float64])(x.astype(np.float64))
        return value.astype(r.truth), np.zeros(x.shape)
    inside = np.clip(x, -BEYOND, BEYOND)
    square = inside * inside
    term, total, n = np.ones_like(inside), np.ones_like(inside), 0
    while term.size and float((term / total).max()) > r.u_truth / 4:
        n += 1
        term = term * (2 * square / (2 * n + 1))
        total = total + term
    series = 2 * inside / np.sqrt(pi(r.truth)) * np.exp(-square) * total
    value = np.where(np.abs(x) > BEYOND, np.sign(x), series)
    value = np.where(np.isnan(x), x, value)
    own = (4 * n + square.astype(np.float64) + 8) * r.u_truth * np.abs(value).astype(np.float64)
    return value, own
