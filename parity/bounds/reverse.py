"""Reverse mode over Bounded numbers: a formula's gradient, and a limit for it.

A `Number` is a `Bounded` array (value and limit) that remembers what it was computed
from. `gradients` goes back through these memories with the chain rule, in Bounded arithmetic too: so the
gradient's limit admits an implementation that goes through the formula's steps, in any order of summation.
Where libraries take one of several equal forms for a step's derivative, `either` admits each. The functions
are in parity.formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from parity.bounds import special
from parity.bounds.bounded import UP, Axis, Bounded, certainly, either, two_pass_variance
from parity.bounds.rounding import POWER_ULPS, Array, Rounding
from parity.errors import UsageError

Pull = Callable[[Bounded], Bounded]
_order = count()


@dataclass(frozen=True, eq=False)
class Irrational:
    """A number that no format holds, such as sqrt(2 / PI): computed in the truth's precision; source code
    rounds it once for each operation that makes it, and once to the format.
    """

    make: Callable[[type[np.floating[Any]]], Any]
    operations: int = 1

    def _with(self, other: Any, operation: Callable[[Any, Any], Any]) -> Any:
        if isinstance(other, Number | np.ndarray):
            return NotImplemented
        b = other if isinstance(other, Irrational) else Irrational(lambda t: t(other), 0)
        together = self.operations + b.operations + 1
        return Irrational(lambda t: operation(self.make(t), b.make(t)), together)

    def __mul__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a * b)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: a / b)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with(other, lambda a, b: b / a)

    def bounded(self, r: Rounding) -> Bounded:
        """Under an arithmetic. Its operations are Python's, in float64, whose roundoff no format beats."""
        value = np.asarray(self.make(r.truth))
        size = np.abs(value).astype(np.float64)
        host = self.operations * max(2.0**-53, r.u_truth)
        return Bounded(value, np.asarray(size * (r.u + 2 * host) * UP + r.tiny), r)


PI = Irrational(special.pi)


@dataclass(frozen=True, eq=False)
class Condition:
    """Where a comparison holds, and where rounding cannot change its outcome."""

    holds: Array
    sure: Array

    def __bool__(self) -> bool:
        raise UsageError("formula: a comparison of arrays is no single yes or no; use where(condition, a, b)")

    def __invert__(self) -> Condition:
        return Condition(~self.holds, self.sure)


class Number:
    """A Bounded array with the memory of how it was computed."""

    __array_ufunc__ = None  # NumPy arrays on the left leave the operation to us

    def __init__(
        self,
        bounded: Bounded,
        parents: Sequence[tuple[Number, Pull]] = (),
        floor: float = -np.inf,
        followed: bool = False,
    ) -> None:
        with np.errstate(invalid="ignore"):
            room = np.abs(bounded.value).astype(np.float64) + bounded.error <= bounded.r.largest
            room |= bounded.special()  # an infinity that is no overflow
        if followed:  # an input is what it is, infinite too
            room = np.ones_like(room)
        self.bounded = Bounded(bounded.value, np.where(room, bounded.error, np.inf), bounded.r)
        self.parents = tuple((parent, pull) for parent, pull in parents if parent.followed)
        self.followed: bool = followed or bool(self.parents)
        """Whether a gradient is wanted of it, or of something that it was made of."""
        self.floor = floor
        """No backend computes less than this."""
        self.order = next(_order)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.bounded.shape

    @property
    def ndim(self) -> int:
        return self.bounded.ndim

    # --- arithmetic ---

    def _lift(self, other: Any) -> Number:
        if isinstance(other, Number):
            return other
        r = self.bounded.r
        if isinstance(other, Irrational):
            return Number(other.bounded(r))
        array = np.asarray(other)
        if array.dtype.kind not in "fiub":
            raise UsageError(f"formula: expected a number or an array, got {type(other).__name__}")
        floor = float(array.min()) * (1 - 3 * r.u) if array.size and array.min() >= 0 else -np.inf
        return Number(Bounded.constant(array, r), floor=floor)

    def __add__(self, other: Any) -> Number:
        b = self._lift(other)
        floor = (
            (self.floor + b.floor) * (1 - 2 * self.bounded.r.u) if min(self.floor, b.floor) >= 0 else -np.inf
        )
        return Number(self.bounded + b.bounded, [(self, lambda g: g), (b, lambda g: g)], floor)

    __radd__ = __add__

    def __neg__(self) -> Number:
        return Number(-self.bounded, [(self, lambda g: -g)])

    def __sub__(self, other: Any) -> Number:
        return self + (-self._lift(other))

    def __rsub__(self, other: Any) -> Number:
        return self._lift(other) + (-self)

    def __mul__(self, other: Any) -> Number:
        b = self._lift(other)
        floor = 0.0 if b is self or min(self.floor, b.floor) >= 0 else -np.inf
        pulls = [(self, unless_zero(lambda g: g * b.bounded)), (b, unless_zero(lambda g: g * self.bounded))]
        if b is self:
            pulls = [(self, lambda g: either(2 * g * self.bounded, g * self.bounded + g * self.bounded))]
        return Number(self.bounded * b.bounded, pulls, floor)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Number:
        b = self._lift(other)
        x, y, z = self.bounded, b.bounded, self.bounded / b.bounded
        z = either(z, x * (1.0 / y))
        below = (b, unless_zero(lambda g: -either(g * x / (y * y), g * (z / y), g / y * z)))
        return Number(z, [(self, unless_zero(lambda g: either(g / y, g * (1.0 / y)))), below])

    def __rtruediv__(self, other: Any) -> Number:
        return self._lift(other) / self

    def __pow__(self, n: int) -> Number:
        """A whole power: by products, or by the library's power."""
        if not isinstance(n, int) or n < 1:
            raise UsageError(f"formula: expected a whole power of at least 1, got {n!r}; use exp and log")
        return self if n == 1 else Number(_power(self.bounded, n), [(self, self._power_pull(n))])

    def _power_pull(self, n: int) -> Pull:
        return lambda g: either(n * g * _power(self.bounded, n - 1), g * (n * _power(self.bounded, n - 1)))

    def __matmul__(self, other: Any) -> Number:
        b = self._lift(other)
        if min(self.ndim, b.ndim) < 2:
            raise UsageError(f"formula: expected matrices on both sides of @, got {self.shape} and {b.shape}")
        left = (self, lambda g: g @ _flipped(b.bounded))
        right = (b, lambda g: _flipped(self.bounded) @ g)
        return Number(self.bounded @ b.bounded, [left, right])

    def __rmatmul__(self, other: Any) -> Number:
        return self._lift(other) @ self

    # --- comparisons ---

    def _against(self, other: Any, compare: Callable[[Array, Array], Array]) -> Condition:
        a, b = self.bounded, self._lift(other).bounded
        gap = np.abs(a.value - b.value).astype(np.float64)
        unmoved = (a.error == 0) & (b.error == 0)
        return Condition(compare(a.value, b.value), unmoved | (gap > a.error + b.error))

    def __gt__(self, other: Any) -> Condition:
        return self._against(other, np.greater)

    def __ge__(self, other: Any) -> Condition:
        return self._against(other, np.greater_equal)

    def __lt__(self, other: Any) -> Condition:
        return self._against(other, np.less)

    def __le__(self, other: Any) -> Condition:
        return self._against(other, np.less_equal)

    # --- sums ---

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Number:
        """Over an axis or axes, or all."""
        floor = 0.0 if self.floor >= 0 else -np.inf
        pull: Pull = lambda g: _spread(g, self.shape, axis, keepdims)  # noqa: E731
        return Number(self.bounded.sum(axis, keepdims), [(self, pull)], floor)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Number:
        """Over an axis or axes, or all."""
        mean = self.bounded.mean(axis, keepdims)
        n = self.bounded.size // max(mean.size, 1)

        def pull(g: Bounded) -> Bounded:
            return _spread(either(g / n, g * _inverse(n, g.r)), self.shape, axis, keepdims)

        return Number(mean, [(self, pull)], 0.0 if self.floor >= 0 else -np.inf)

    def var(self, axis: Axis = None, keepdims: bool = False) -> Number:
        """The biased variance, by two passes: a mean's error d enters as d^2 only (`bounded`). Its
        gradient is 2 (x - mu) / n, and may carry the mean of itself, which is zero but for rounding.
        """
        x = self.bounded
        mu = x.mean(axis, keepdims=True)
        centred, variance = x - mu, two_pass_variance(x, mu, axis)
        n = x.size // max(variance.size, 1)
        shape = x.sum(axis, keepdims).shape

        def pull(g: Bounded) -> Bounded:
            wide = _spread(g, x.shape, axis, keepdims)
            pulled = either(
                2 * wide * centred / n, 2 * (wide / n) * centred, wide * _inverse(n, x.r) * (2 * centred)
            )
            return either(pulled, pulled - pulled.mean(axis, keepdims=True))

        return Number(variance.reshape(shape), [(self, pull)], 0.0)

    # --- shapes ---

    def reshape(self, *shape: Any) -> Number:
        return Number(self.bounded.reshape(*shape), [(self, lambda g: g.reshape(self.shape))], self.floor)

    def transpose(self, *axes: int) -> Number:
        back = tuple(int(i) for i in np.argsort(axes)) if axes else ()
        return Number(self.bounded.transpose(*axes), [(self, lambda g: g.transpose(*back))], self.floor)

    @property
    def T(self) -> Number:  # noqa: N802
        return self.transpose()

    def __getitem__(self, key: Any) -> Number:
        keys = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(k, int | slice | None | type(...)) for k in keys):
            raise UsageError(
                "formula: expected whole numbers and slices between [ ], which take each element once"
            )

        def pull(g: Bounded) -> Bounded:
            value, error = np.zeros(self.shape, g.value.dtype), np.zeros(self.shape)
            value[key], error[key] = g.value, g.error
            return Bounded(value, error, g.r)

        return Number(self.bounded[key], [(self, pull)], self.floor)


def gradients(y: Number, dy: Bounded, inputs: Sequence[Number]) -> list[Bounded]:
    """dL/dinput for each, from dL/dy: reverse mode. What comes from several sides is added in any order."""
    pending: dict[int, Number] = {y.order: y}
    arrived: dict[int, list[Bounded]] = {y.order: [dy]}
    totals: dict[int, Bounded] = {}
    while pending:
        node = pending.pop(max(pending))
        g = totals[node.order] = _together(arrived.pop(node.order))
        for parent, pull in node.parents:
            arrived.setdefault(parent.order, []).append(_unbroadcast(pull(g), parent.shape))
            pending[parent.order] = parent
    nothing = (Bounded.exact(np.zeros(x.shape), dy.r) for x in inputs)
    return [totals.get(x.order, zero) for x, zero in zip(inputs, nothing, strict=True)]


def unless_zero(pull: Pull) -> Pull:
    """The pull of an elementwise function, through which a gradient of exactly 0, as on the other side of a
    `where`, stays 0: what it is multiplied by may be infinite.
    """

    def pulled(g: Bounded) -> Bounded:
        found, nothing = pull(g), g._zero()
        if not nothing.any():
            return found
        value, error = found.value, found.error
        return Bounded(np.where(nothing, value.dtype.type(0), value), np.where(nothing, 0.0, error), found.r)

    return pulled


def _together(parts: list[Bounded]) -> Bounded:
    """k parts added in any order: k - 1 roundings of at most the sum of their sizes. A part that is exactly
    0, as on the other side of a `where`, counts for none.
    """
    if len(parts) == 1:
        return parts[0]
    r, present = parts[0].r, np.sum([(part.value != 0) | (part.error != 0) for part in parts], axis=0)
    roundings = np.maximum(present - 1, 0)
    value = np.sum([part.value for part in parts], axis=0)
    inherited = np.sum([part.error for part in parts], axis=0)
    size = np.sum([np.abs(part.value).astype(np.float64) for part in parts], axis=0)
    nu, nv = roundings * r.u, roundings * r.u_truth
    with np.errstate(invalid="ignore"):
        error = inherited + nu / (1 - nu) * (size + inherited) + nv / (1 - nv) * size + roundings * r.tiny
    certain = np.any([part.special() for part in parts], axis=0) & np.isfinite(inherited)
    return Bounded(value, certainly(value, error * UP, certain), r)


def _unbroadcast(g: Bounded, shape: tuple[int, ...]) -> Bounded:
    """Summed over the axes along which an operand was repeated."""
    if g.shape == shape:
        return g
    g = g.broadcast_to(np.broadcast_shapes(g.shape, shape))
    extra = g.ndim - len(shape)
    axes = tuple(i for i in range(g.ndim) if i < extra or (shape[i - extra] == 1 and g.shape[i] > 1))
    return (g.sum(axis=axes) if axes else g).reshape(shape)


def _spread(g: Bounded, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Bounded:
    """A sum's gradient, laid along what was summed."""
    if axis is not None and not keepdims:
        for i in sorted(i % len(shape) for i in ((axis,) if isinstance(axis, int) else axis)):
            g = g.reshape((*g.shape[:i], 1, *g.shape[i:]))
    return g.broadcast_to(shape)


def _flipped(a: Bounded) -> Bounded:
    return a.transpose(*range(a.ndim - 2), a.ndim - 1, a.ndim - 2)


def _inverse(n: int, r: Rounding) -> Bounded:
    return Bounded.constant(r.truth(1) / n, r)


def _power(a: Bounded, n: int) -> Bounded:
    product = a
    for _ in range(n - 1):
        product = product * a
    size = np.abs(a.value).astype(np.float64)
    slope = n * (size + a.error) ** (n - 1)
    return product if n < 3 else either(product, a.rounded(product.value, slope * a.error, POWER_ULPS))
