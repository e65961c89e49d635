"""Arrays that carry a truth and a rigorous bound on how far a backend's number may lie from it.

A `Bounded` z holds a value, computed in high precision (unit roundoff v), and an error e >= 0 such that
every z' that a backend may rightly compute in its own arithmetic (unit roundoff u) obeys |z' - z| <= e.
Operations keep that promise. For one operation with inputs a', b' in place of a, b,

    z' = (a' op b')(1 + d'),  z = (a op b)(1 + d),  |d'| <= u,  |d| <= v
    |z' - z| <= p (1 + u) + |z| w,   p >= |a' op b' - a op b|,   w = (u + v + u v) / (1 - v)

plus the smallest normal number, which a flush to zero may lose. A sum of n terms or an inner product of n,
in any order, with or without fused multiply-add, in blocks or not, takes gamma_(n-1) or gamma_n of the
summed magnitudes (Higham 2002, sections 3.1 and 4.2). So a formula written once with this arithmetic gives
the true value and the limit; `either` admits further formulas that are equal in exact arithmetic. No
first-order approximation is made anywhere, and no limit is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.bounds.rounding import COS_ULPS, LOG_ULPS, RSQRT_ULPS, Array, Rounding

Axis = int | tuple[int, ...] | None
Operand = Any
"""A Bounded, or a number or array as its source code gives it: rounded by the backend where it must."""

UP = 1 + 2.0**-40
"""Pays for the rounding of the bound itself, computed in float64: sums of nonnegative numbers, each within
2^-53 times their depth, which stays below 2^12."""


@dataclass(frozen=True, eq=False)
class Bounded:
    """value (in the truth's precision) and error (float64), of one shape, under `r`."""

    value: Array
    error: Array
    r: Rounding

    # --- construction ---

    @staticmethod
    def exact(array: Any, r: Rounding) -> Bounded:
        """An input that the backend is handed as it is; a subnormal one it may read as zero.

        A `Bounded` keeps its error: so a truth serves inputs that earlier layers computed, too.
        """
        if isinstance(array, Bounded):
            return array if array.r == r else array.to(r)
        value = np.asarray(array).astype(r.truth)
        magnitude = np.abs(value).astype(np.float64)
        return Bounded(value, np.where(magnitude < r.tiny, magnitude, 0.0), r)

    @staticmethod
    def constant(array: Any, r: Rounding) -> Bounded:
        """A number of the source code: rounded to the format where it does not fit."""
        value = np.asarray(array).astype(r.truth)
        rounded = np.where(r.represents(value), 0.0, r.u * np.abs(value).astype(np.float64) + r.tiny)
        return Bounded(value, rounded * UP, r)

    def _lift(self, other: Operand) -> Bounded:
        return other if isinstance(other, Bounded) else Bounded.constant(other, self.r)

    def rounded(self, value: Any, inherited: Any, ulps: float = 0.5, certain: Any = False) -> Bounded:
        """The outcome of one operation whose exact result may be off by `inherited`, then is computed to
        `ulps` (0.5: correctly rounded). One ULP is at most 2 u of the magnitude. Where it is `certain`, a
        value that is not finite is every backend's.
        """
        u, v = 2 * ulps * self.r.u, 2 * ulps * self.r.u_truth
        relative = (u + v + u * v) / (1 - v)
        with np.errstate(all="ignore"):
            error = inherited * (1 + u) + relative * _size(value) + self.r.tiny
        return Bounded(value, certainly(value, error * UP, certain), self.r)

    def special(self) -> Array:
        """Where every backend has the same infinity or NaN."""
        return ~np.isfinite(self.value) & (self.error == 0)

    def _sure(self) -> Array:
        """Where no rounding changes whether it is 0, or its sign, or that it is not finite."""
        return (self.error == 0) | (_size(self.value) > self.error)

    def _zero(self) -> Array:
        """Where every backend has exactly 0."""
        return (self.value == 0) & (self.error == 0)

    def _unless(self, exact: Array) -> Bounded:
        """Without an error where the outcome is exact: 0 times or over a number."""
        return Bounded(self.value, np.where(exact, 0.0, self.error), self.r)

    # --- arithmetic ---

    def __add__(self, other: Operand) -> Bounded:
        b = self._lift(other)
        with np.errstate(all="ignore"):
            certain = (self.special() | b.special()) & np.isfinite(self.error + b.error)
            return self.rounded(self.value + b.value, self.error + b.error, certain=certain)

    __radd__ = __add__

    def __neg__(self) -> Bounded:
        return Bounded(-self.value, self.error, self.r)

    def __sub__(self, other: Operand) -> Bounded:
        return self + (-self._lift(other))

    def __rsub__(self, other: Operand) -> Bounded:
        return self._lift(other) + (-self)

    def __mul__(self, other: Operand) -> Bounded:
        b = self._lift(other)
        with np.errstate(all="ignore"):
            p = _size(self.value) * b.error + self.error * _size(b.value) + self.error * b.error
            certain = (self.special() | b.special()) & self._sure() & b._sure()
            product = self.rounded(self.value * b.value, p, certain=certain)
            return product._unless((self._zero() | b._zero()) & (p == 0))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Bounded:
        """|a'/b' - a/b| <= (e_a + |a/b| e_b) / (|b| - e_b); infinite where b' may be 0."""
        b = self._lift(other)
        with np.errstate(all="ignore"):
            value = self.value / b.value
            room = _size(b.value) - b.error
            p = np.where(room > 0, (self.error + _size(value) * b.error) / room, np.inf)
            certain = (self.special() | b.special() | b._zero()) & self._sure() & b._sure()
            ratio = self.rounded(value, p, self.r.division_ulps, certain)
            return ratio._unless(self._zero() & (p == 0))

    def over(self, other: Bounded, least: float) -> Bounded:
        """self / other, of a divisor known to be at least `least` > 0 whatever its error."""
        with np.errstate(all="ignore"):
            value = self.value / other.value
            room = np.maximum(_size(other.value) - other.error, least)
            p = (self.error + _size(value) * other.error) / room
            return self.rounded(value, p, self.r.division_ulps)

    def __rtruediv__(self, other: Operand) -> Bounded:
        return self._lift(other) / self

    def __matmul__(self, other: Operand) -> Bounded:
        """Inner products of length K: gamma_K of |A| |B|, after rounding the factors where TF32 does."""
        a, b = self._factor(), self._lift(other)._factor()
        with np.errstate(all="ignore"):
            size_a, size_b = _size(a.value), _size(b.value)
            p = np.zeros((), np.float64)
            if b.error.any():
                p = p + (size_a + a.error) @ b.error
            if a.error.any():
                p = p + a.error @ size_b
            value = a.value @ b.value
            total = self._accumulated(value, p, size_a @ size_b, a.value.shape[-1])
            if np.isfinite(value).all():
                return total
            special = (a.special() @ np.ones(b.shape, bool)) | (np.ones(a.shape, bool) @ b.special())
            unsure = ~a._sure() @ np.ones(b.shape, bool) | (np.ones(a.shape, bool) @ ~b._sure())
            return Bounded(value, certainly(value, total.error, special & ~unsure), self.r)

    def __rmatmul__(self, other: Operand) -> Bounded:
        return self._lift(other) @ self

    def _factor(self) -> Bounded:
        """A product's factor as its unit sees it."""
        extra = self.r.operand_u * (_size(self.value) + self.error)
        return Bounded(self.value, self.error + extra, self.r)

    def _accumulated(self, value: Array, inherited: Array, magnitude: Array, n: int) -> Bounded:
        """`n` roundings of a running sum whose terms' sizes add up to `magnitude`; then, where sums are
        kept in a wider format, one rounding to this one. Each term and each partial sum may underflow.
        """
        r = self.r
        error = (
            inherited
            + r.gamma(n) * (magnitude + inherited)
            + r.gamma(n, truth=True) * magnitude
            + (2 * n * r.tiny if n else 0)
        ) * UP
        total = Bounded(value, error, r)
        return total if r.accumulate_u == r.u else total.rounded(value, error)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Bounded:
        """Over an axis or axes: gamma_(n-1) of the summed magnitudes, in any order."""
        value = self.value.sum(axis=axis, keepdims=keepdims)
        n = self.value.size // max(value.size, 1)
        with np.errstate(all="ignore"):
            inherited = np.asarray(self.error.sum(axis=axis, keepdims=keepdims))
            magnitude = np.asarray(_size(self.value).sum(axis=axis, keepdims=keepdims))
            total = self._accumulated(np.asarray(value), inherited, magnitude, max(n - 1, 0))
            certain = self.special().any(axis=axis, keepdims=keepdims) & np.isfinite(inherited)
            error = np.where((magnitude == 0) & (inherited == 0), 0.0, total.error)  # of zeros alone
            return Bounded(total.value, certainly(total.value, error, certain), self.r)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Bounded:
        """The sum over n, or times 1/n."""
        total = self.sum(axis, keepdims)
        n = self.value.size // max(total.value.size, 1)
        return either(total * Bounded.constant(self.r.truth(1) / n, self.r), total / n)

    def inner(self, other: Bounded, axis: Axis) -> Bounded:
        """The sum of products over an axis or axes, as one inner product."""
        a, b = self._factor(), other._factor()
        with np.errstate(all="ignore"):
            size_a, size_b = _size(a.value), _size(b.value)
            p = np.asarray((size_a * b.error + a.error * size_b + a.error * b.error).sum(axis=axis))
            value = np.asarray((a.value * b.value).sum(axis=axis))
            magnitude = np.asarray((size_a * size_b).sum(axis=axis))
            n = np.broadcast(a.value, b.value).size // max(value.size, 1)
            return self._accumulated(value, p, magnitude, n)

    # --- functions ---

    def sqrt(self) -> Bounded:
        """|sqrt a' - sqrt a| is at most e / (sqrt a + sqrt max(a - e, 0)), and at most sqrt e."""
        with np.errstate(all="ignore"):
            value = np.sqrt(self.value)
            divisor = _size(value) + np.sqrt(np.maximum(self.value.astype(np.float64) - self.error, 0))
            p = np.fmin(self.error / divisor, np.sqrt(self.error))
            certain = self.special() | (self.value < 0) & self._sure()
            return self.rounded(value, p, self.r.division_ulps, certain)._unless(self._zero())

    def rsqrt(self, least: float) -> Bounded:
        """1 / sqrt a, of an a' known to be at least `least`: the derivative is steepest at the lower end."""
        with np.errstate(all="ignore"):
            value = 1 / np.sqrt(self.value)
            low = np.maximum(self.value.astype(np.float64) - self.error, least)
            p = np.maximum(1 / np.sqrt(np.minimum(low, self.value.astype(np.float64))) - _size(value), 0)
            certain = self.special() | self._zero() | (self.value < 0) & self._sure()
            return self.rounded(value, p, RSQRT_ULPS, certain)

    def exp(self) -> Bounded:
        """Of an error e of a remains at most e^a (e^e - 1), which is less than e^(a + e): the form for large
        e, where the first may be 0 times infinity. The exponent's own rounding is paid there by 2^-51 of it.
        """
        with np.errstate(all="ignore"):
            value, a, e = np.exp(self.value), self.value.astype(np.float64), self.error
            p = np.where(e < 1, _size(value) * np.expm1(e), np.exp(a + e + 2.0**-51 * (np.abs(a) + e)))
            return self.rounded(value, np.where(np.isneginf(a), 0.0, p), self.r.exp_ulps, self.special())

    def log(self, least: float = 0.0) -> Bounded:
        """|log a' - log a| <= -log(1 - e / a), of an a' known to be at least `least`; infinite where a' may
        be 0.
        """
        with np.errstate(all="ignore"):
            value, a = np.log(self.value), self.value.astype(np.float64)
            share = self.error / a
            below = np.where(
                a - self.error > least, -np.log1p(-share), np.log(a / least) if least else np.inf
            )
            certain = self.special() | self._zero() | (self.value < 0) & self._sure()
            return self.rounded(value, np.maximum(below, np.log1p(share)), LOG_ULPS, certain)

    def cos(self) -> Bounded:
        """Its slope is at most 1."""
        return self.rounded(np.cos(self.value), self.error, COS_ULPS)

    def maximum(self, other: Operand) -> Bounded:
        """Exact; |max(a', b') - max(a, b)| is at most the larger error."""
        b = self._lift(other)
        return Bounded(np.maximum(self.value, b.value), np.maximum(self.error, b.error), self.r)

    def to(self, r: Rounding) -> Bounded:
        """Converted to another format: exact into a wider one, one rounding into a narrower."""
        error = self.error
        if r.u_truth > self.r.u_truth:  # the truth itself is rounded on the way
            error = (error + r.u_truth * _size(self.value)) * UP
        moved = Bounded(self.value.astype(r.truth), error, r)
        return moved if r.u <= self.r.u else moved.rounded(moved.value, moved.error)

    # --- shape: exact ---

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def size(self) -> int:
        return self.value.size

    def __len__(self) -> int:
        return len(self.value)

    @property
    def T(self) -> Bounded:  # noqa: N802
        return self._moved(np.transpose)

    def __getitem__(self, key: Any) -> Bounded:
        return self._moved(lambda array: array[key])

    def reshape(self, *shape: Any) -> Bounded:
        return self._moved(lambda array: array.reshape(*shape))

    def transpose(self, *axes: int) -> Bounded:
        return self._moved(lambda array: array.transpose(*axes))

    def broadcast_to(self, shape: tuple[int, ...]) -> Bounded:
        return self._moved(lambda array: np.broadcast_to(array, shape))

    def _moved(self, move: Callable[[Array], Array]) -> Bounded:
        return Bounded(np.asarray(move(self.value)), np.asarray(move(self.error)), self.r)


def where(condition: Array, a: Bounded, b: Operand) -> Bounded:
    """a where the condition holds, else b; the condition must be one that every backend decides alike."""
    b = a._lift(b)
    return Bounded(np.where(condition, a.value, b.value), np.where(condition, a.error, b.error), a.r)


def either(first: Bounded, *others: Bounded) -> Bounded:
    """The first's value, and a limit that admits every one of several formulas for the same quantity."""
    error = first.error
    for other in others:
        with np.errstate(invalid="ignore"):
            same = (first.value == other.value) | (np.isnan(first.value) & np.isnan(other.value))
            apart = np.where(same, 0.0, _size(first.value - other.value))
        error = np.maximum(error, (other.error + apart) * UP)
    return Bounded(first.value, error, first.r)


def stack(parts: list[Bounded]) -> Bounded:
    """Along a new first axis."""
    return Bounded(np.stack([b.value for b in parts]), np.stack([b.error for b in parts]), parts[0].r)


def from_terms(
    value: Array, magnitude: Array, n: int, r: Rounding, inherited: Array | float = 0.0
) -> Bounded:
    """A sum of n products, in any order, from its value, the sum of their sizes and what the factors' own
    errors may do to it.

    For sums that are gathered rather than written as one product: a convolution's gradients.
    """
    slack = 2 * r.operand_u + r.operand_u**2
    size = magnitude.astype(np.float64) * UP
    moved = inherited * (1 + slack) * UP + slack * size
    return Bounded.exact(0.0, r)._accumulated(value, moved, size, n)


def certainly(value: Any, error: Any, certain: Any) -> Array:
    """The error, where a value is not finite: none if every backend must have this value, else no limit."""
    if np.isfinite(value).all():
        return np.asarray(error)
    return np.where(np.isfinite(value), error, np.where(certain, 0.0, np.inf))


def _size(array: Array) -> Array:
    """Magnitudes, float64, rounded up where the truth is wider."""
    magnitude = np.abs(array).astype(np.float64)
    return magnitude if array.dtype == np.float64 else magnitude * (1 + 2.0**-52)


def two_pass_variance(x: Bounded, mu: Bounded, axis: Axis = 0) -> Bounded:
    """sigma^2 along axes, which stay with size 1 where mu keeps them, by two passes. The subtraction counts
    twice, squaring, the sum and the division (or the rounded 1/n and its product) fill up n + 4 roundings
    of each term. Errors e of x itself move sigma by at most their root mean square (the triangle
    inequality).
    """
    r, keep = x.r, mu.ndim == x.ndim
    value = np.asarray(np.square(x.value - mu.value).mean(axis=axis, keepdims=keep))
    n = x.size // max(value.size, 1)
    size = value.astype(np.float64) * (1 + 2 * r.gamma(n + 4, truth=True))
    moved = np.sqrt(np.square(x.error).mean(axis=axis, keepdims=keep))
    inherited = moved * (2 * np.sqrt(size) + moved)
    d2 = mu.error**2
    rounded = (r.gamma(n + 4) + r.gamma(n + 4, truth=True)) * (size + inherited + d2)
    return Bounded(value, (rounded + inherited + 2 * d2 + (n + 4) * r.tiny) * UP, r)
