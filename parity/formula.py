"""What a formula is written with: the functions of `parity.bounds.reverse.Number`.

    def gelu(x):
        return x / 2 * (1 + erf(x / sqrt(2)))

A formula takes one Number for each input and parameter and gives one back; its gradient follows from it. It
may use + - * / @ and whole powers of Numbers, plain numbers and NumPy arrays; `.sum`, `.mean`, `.var` (two
passes, 1/n), `.reshape`, `.transpose`, `.T`, slices; and the functions below. Comparisons give a condition
for `where`. What follows from an intermediate result beyond the format's range has no limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.bounds import special
from parity.bounds.bounded import UP, Bounded, either
from parity.bounds.bounded import where as choose
from parity.bounds.reverse import PI, Condition, Irrational, Number, Pull, unless_zero
from parity.bounds.rounding import Array
from parity.errors import UsageError

__all__ = [
    "PI",
    "erf",
    "exp",
    "log",
    "maximum",
    "row_maximum",
    "rsqrt",
    "sigmoid",
    "sqrt",
    "stop_gradient",
    "tanh",
    "where",
]


def _made(x: Number, bounded: Bounded, pull: Pull, floor: float = -np.inf) -> Number:
    return Number(bounded, [(x, unless_zero(pull))], floor)


def exp(x: Number) -> Number:
    """e^x."""
    z = x.bounded.exp()
    return _made(x, z, lambda g: g * z, 0.0)


def log(x: Number) -> Number:
    """The natural logarithm."""
    return _made(x, x.bounded.log(), lambda g: either(g / x.bounded, g * (1.0 / x.bounded)))


def sqrt(x: Any) -> Any:
    """Of a Number, or of a plain number or Irrational, which is then exact until it is used."""
    if not isinstance(x, Number):
        a = x if isinstance(x, Irrational) else Irrational(lambda t: t(x), 0)
        return Irrational(lambda t: np.sqrt(a.make(t)), a.operations + 1)
    z = x.bounded.sqrt()
    return _made(x, z, lambda g: either(g / (2 * z), 0.5 * g / z, g * (0.5 / z)), 0.0)


def rsqrt(x: Number) -> Number:
    """1 / sqrt(x). Of something that cannot be negative plus eps it knows the least value."""
    z = x.bounded.rsqrt(least=max(x.floor, 0.0))
    z = either(z, 1.0 / x.bounded.sqrt())
    return _made(x, z, lambda g: -either(0.5 * g * (z * z * z), g * (0.5 * z / x.bounded)), 0.0)


def tanh(x: Number) -> Number:
    """The hyperbolic tangent; 1 - z^2, its derivative, also as (1 + z)(1 - z)."""
    z = special.tanh(x.bounded)
    return _made(x, z, lambda g: either(g * (1.0 - z * z), (g + g * z) * (1.0 - z)))


def sigmoid(x: Number) -> Number:
    """1 / (1 + e^-x)."""
    z = special.sigmoid(x.bounded)
    return _made(x, z, lambda g: either(g * (z * (1.0 - z)), g * (1.0 - z) * z), 0.0)


def erf(x: Number) -> Number:
    """The error function."""
    return _made(x, special.erf(x.bounded), lambda g: g * special.erf_slope(x.bounded))


def maximum(a: Number, b: Any) -> Number:
    """The larger; at a tie each gets half of the gradient, as `torch.maximum` and `jnp.maximum` have it. For
    another convention say `where(x > 0, x, 0)`.
    """
    b = a._lift(b)
    larger, equal = a > b, a._against(b, np.equal)
    sure = larger.sure
    lead = np.where(equal.holds, 0.5, larger.holds.astype(float))
    sides = ((a, lead), (b, 1 - lead))
    pulls = [(side, lambda g, share=share: _shared(g, share, sure)) for side, share in sides]
    return Number(a.bounded.maximum(b.bounded), pulls, max(a.floor, b.floor))


def where(condition: Condition | Array, a: Any, b: Any) -> Number:
    """a where the condition holds, else b. Where rounding decides the condition, both are admitted."""
    if not isinstance(condition, Condition):
        holds = np.asarray(condition)
        condition = Condition(holds, np.ones_like(holds, bool))
    if not isinstance(a, Number) and not isinstance(b, Number):
        raise UsageError(
            "formula: where(condition, a, b) needs an input, or something made of one, in a or b"
        )
    a = a if isinstance(a, Number) else b._lift(a)
    b = a._lift(b)
    shape = np.broadcast_shapes(condition.holds.shape, a.shape, b.shape)
    x, y = a.bounded.broadcast_to(shape), b.bounded.broadcast_to(shape)
    chosen, other = choose(condition.holds, x, y), choose(condition.holds, y, x)
    apart = np.abs(x.value - y.value).astype(np.float64)
    both = np.maximum(chosen.error, (apart + other.error) * UP)
    error = np.where(condition.sure, chosen.error, both)
    share = np.broadcast_to(condition.holds, shape).astype(float)
    pulls: list[tuple[Number, Pull]] = [
        (a, lambda g: _shared(g, share, condition.sure)),
        (b, lambda g: _shared(g, 1 - share, condition.sure)),
    ]
    return Number(Bounded(chosen.value, error, x.r), pulls, min(a.floor, b.floor))


def stop_gradient(x: Number) -> Number:
    """The same numbers, as constants: nothing flows back through them."""
    return Number(x.bounded, floor=x.floor)


def row_maximum(x: Number, axis: int = -1) -> Number:
    """The largest along an axis, which stays with size 1, as a constant: what softmax subtracts first."""
    value = x.bounded.value.max(axis=axis, keepdims=True)
    return Number(Bounded(value, x.bounded.error.max(axis=axis, keepdims=True), x.bounded.r))


def _shared(g: Bounded, share: Array, sure: Array) -> Bounded:
    """A side's share (0, 1/2 or 1: exact) of the gradient; where rounding decides, anything from 0 to all."""
    size = np.abs(g.value).astype(np.float64) + g.error
    with np.errstate(invalid="ignore"):  # no share of a NaN or an infinity is 0
        scaled = np.where(share == 0, 0, g.value * share.astype(g.value.dtype))
        error = np.where(share == 0, 0, g.error * share)
    return Bounded(scaled, np.where(sure, error, size), g.r)
