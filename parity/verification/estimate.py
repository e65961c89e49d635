"""Limits without a formula: measured, not proved.

Neither of two implementations is known to be right. The reference, evaluated in a wider format, stands for
the true value. How far rounding may move a result is measured on the implementations that are not being
judged. Let f be one of them in the judged format, F the same in float64, and x_k, k = 1..K, the inputs with
the last digit of each number changed up or down, by 2 u. Root mean squares over k and over all elements:

    S   F(x_k) - F(x)      the effect of changing the last digit of each input (condition)
    R   f(x_k) - F(x_k)    the rounding of its own operations

    limit of an element = T sqrt(S^2 + R^2) + u |F(x)| + the smallest normal number

S and R are one number for a whole result, at least a sixth of its largest error, because implementations may
round in quite different places (1 + erf x is good to u, erfc x to u times itself). So a small element beside
large ones is judged by the large ones' measure. A tie that the change breaks, or a kink that it crosses, is
no rounding error: an element counts in S only where a change 256 times smaller does at most a sixteenth as
much.

This is stochastic arithmetic: each perturbed input gives other rounding errors, and if these are normal with
mean zero, the error of one more evaluation follows Student's t with K degrees of freedom (Vignes 1993, A
stochastic arithmetic for reliable scientific computation; Parker 1997, Monte Carlo Arithmetic). T is its
two-sided quantile for one false alarm in 10^9. Errors are only nearly normal, and one implementation may
round several times as coarsely as another without being wrong. So a share a little above 1 means less
accurate than the others, while a wrong formula usually exceeds the limit by orders of magnitude in float64.
All of this is of first order in u. Where results over- or underflow in the narrow format, R cannot be
measured: such elements do not count in it, and where none is left R is taken as FACTOR times S. They may come
out as 0. Inputs as far from 1 as FAR are judged in float64 alone, and only by what is finite: an eps in one
and none in the other is no mistake there.

An element that is not finite costs itself, and no other: S and R are measured without it. It must be the same
infinity or NaN in both, or finite in both, in the format that is judged.

The verdict does not depend on the order of the implementations. The reference is the one that agrees with
the most others; then the one with the fewest results that are not finite, that computes in the format it is
given, that can be had in a wider one, and that scatters least (`chosen`). Where the reference goes through
float32 on its way, what follows from there is judged by float32's limits.

An equal form may be coarser (`E[x^2] - E[x]^2` for a variance). So where one is off by at most COARSER
limits, its own noise is measured too, and takes the place of the others', up to COARSER times theirs. No cut
to a narrower format is so close. In float64 no wrong formula is, so there it is let pass by that alone: what
rounding takes away altogether, as in x - logsumexp(x) at 1e4, no change of last digits shows.

float64 has no wider format to measure R in. To first order an error is u times something that does not
depend on u, so S and R are those of float32 times 2^-29. The truth is the reference in long double where it
is NumPy and its result follows that type; elsewhere in float64, and the limit is doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.verification.adapters import Implementation
from parity.verification.case import Case, at_most_one, generator
from parity.verification.casts import UNCUT, Cut, Cuts
from parity.verification.place import Inputs, Outputs, Place

SAMPLES = 16
FACTOR = 8
COARSER = {"float64": 256, "float32": 8, "bfloat16": 8}
TAIL = 6
"""Errors beyond so many root mean squares are not those of one normal distribution."""
STUDENT = 12.61
"""P(|t| > T) = 10^-9 for 16 degrees of freedom."""
SMALL = 2**16
"""Numbers of an array that is cheap to copy and to keep."""
AGREE = 1e-6
"""Of the largest element: two implementations of one formula are closer in float64, most others are not."""


class Noise(dict[str, float]):
    """sqrt(S^2 + R^2) in units of u, by quantity."""

    by_format: frozenset[str] = frozenset()
    """Quantities whose formula depends on the format: an eps that follows the dtype."""


FOLLOWS = 1000
"""Times u: a difference between formats that stays the same when the last digits change is no rounding."""


def reference_values(reference: Implementation, inputs: Inputs, r: Rounding) -> tuple[Outputs, bool]:
    """The reference's outputs on inputs in the judged format, in a wider one; and whether it is wider."""
    if r.name != "float64":
        return _run(reference, _cast(inputs, np.float64), "float64"), True
    if np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant and reference.framework == "numpy":
        wide = _run(reference, _cast(inputs, np.longdouble), "longdouble")
        if all(array.dtype == np.longdouble for array in wide.values()):
            return wide, True
    return _run(reference, inputs, "float64"), False


def measured_in(dtype: str) -> str:
    """The format in which the noise of another is measured."""
    return "float32" if dtype == "float64" else dtype


def noise(implementation: Implementation, case: Case, dtype: str, samples: int = SAMPLES) -> Noise:
    """Measured in float32 or bfloat16; float32's serves float64 too."""
    r = rounding(measured_in(dtype))
    inputs = case.arrays(r)
    exact = {key: in_range(a, inputs[key], r) for key, a in case.arrays(rounding("float64")).items()}
    scatter = Scatter(_run(implementation, exact, "float64"), r)
    for k in range(samples):
        far = {key: moved(array, r, k, key) for key, array in exact.items()}
        wide = _run(implementation, far, "float64")
        narrow = _run(
            implementation,
            {key: r.nearest(a) if a.dtype.kind == "f" else a for key, a in far.items()},
            r.name,
        )
        far = {key: nearer(a, far[key]) for key, a in exact.items()}
        scatter.add(wide, _run(implementation, far, "float64"), narrow)
    return scatter.noise()


class Scatter:
    """S and R of one implementation, from evaluations at the inputs and around them."""

    def __init__(self, centre: Outputs, r: Rounding) -> None:
        self.centre, self.r = centre, r
        self.scale = {key: largest(value) for key, value in centre.items()}
        self.conditions: dict[str, list[float]] = {key: [] for key in centre}
        self.roundings: dict[str, list[float]] = {key: [] for key in centre}
        self.sums: dict[str, Any] = {}

    def add(self, wide: Outputs, close: Outputs, narrow: Outputs) -> None:
        """At inputs with other last digits: in float64, there and a 256th of the way, and in the format."""
        r = self.r
        with np.errstate(all="ignore"):
            for key, value in self.centre.items():
                response, fine = np.abs(wide[key] - value), np.abs(close[key] - value)
                smooth = np.where(fine <= response / 16, response, 0.0)
                self.conditions[key].append(spread(smooth / self.scale[key]))
                measurable = (np.abs(wide[key]) >= r.tiny / r.u) | (wide[key] == 0)
                error = np.where(measurable, narrow[key] - wide[key], np.nan) / self.scale[key]
                self.roundings[key].append(spread(error))
                self.sums[key] = self.sums.get(key, 0.0) + error

    def noise(self) -> Noise:
        """Of what was added."""
        found, u = Noise(), self.r.u
        for key, value in self.centre.items():
            conditions, roundings = self.conditions[key], self.roundings[key]
            always = _mean_square(np.asarray(self.sums[key]) / len(roundings))
            least = (FOLLOWS * u) ** 2 * _mean_square(value / self.scale[key])
            if always > least and always > 0.9 * float(np.mean(roundings)):
                found.by_format |= {key}
                roundings = [max(one - always, 0.0) for one in roundings]
            found[key] = self.scale[key] / u * _together(conditions, roundings, bool((value != 0).any()))
        return found


def nearer(a: Array, b: Array) -> Array:
    """A 256th of the way."""
    if a.dtype.kind != "f":
        return a
    with np.errstate(invalid="ignore"):
        return np.where(a == b, a, a + (b - a) / 256)


def largest(value: Array) -> float:
    """By which differences are divided before they are squared, which might underflow."""
    finite = np.abs(value[np.isfinite(value)])
    return float(finite.max(initial=0.0)) or 1.0


def _mean_square(array: Array) -> float:
    """Over the finite elements; NaN where there is none."""
    finite = array[np.isfinite(array)]
    return float(np.mean(np.square(finite))) if finite.size else float("nan")


def spread(array: Array) -> float:
    """The mean square; or more, where a few elements have much larger errors than the others."""
    finite = np.abs(array[np.isfinite(array)])
    return max(_mean_square(finite), (float(finite.max()) / TAIL) ** 2) if finite.size else float("nan")


def _together(conditions: list[float], roundings: list[float], something: bool) -> float:
    """sqrt(S^2 + R^2). Values that are not 0 and yet show no error at all have none that can be measured."""
    s = [x for x in conditions if not np.isnan(x)]
    r = [x for x in roundings if not np.isnan(x)]
    squared = float(np.mean(s)) if s else 0.0
    return float(np.sqrt(squared + (np.mean(r) if r or not something else FACTOR**2 * squared)))


def together(others: Sequence[Noise], own: Noise | None, dtype: str) -> dict[str, float]:
    """The noise that judges one: that of the most uncertain of the others, or its own up to COARSER times
    that; in float64 all of that. Where the others are exactly 0 and show no noise, as a saturated softmax's
    gradient, its own is all that there is to go by.
    """
    found = {key: max(one[key] for one in others) for key in others[0]}
    if own is None:
        return found
    most = {key: COARSER[dtype] * units for key, units in found.items()}
    free = {key: own.get(key, 0.0) for key, units in found.items() if not units}
    if dtype == "float64":
        return most | free
    return {key: max(units, min(own.get(key, 0.0), most[key])) for key, units in found.items()} | free


def limits(
    reference: Implementation,
    inputs: Inputs,
    units: Mapping[str, float],
    r: Rounding,
    cut: Cuts = UNCUT,
    only_finite: bool = False,
    by_format: frozenset[str] = frozenset(),
) -> dict[str, Bounded]:
    """The reference's values, each with the limit that its noise in `units` sets; of those that it `cut` to
    a narrower format, that one's. What it has not finite in this format must come out the same. With
    `only_finite` any finite number will do for another. What has a formula `by_format` is the reference's in
    the format itself.
    """
    values, wider = reference_values(reference, inputs, r)
    own = values if r.name == "float64" else _run(reference, inputs, r.name)
    found = {}
    for key, value in values.items():
        alone = key in by_format and r.name != "float64"
        value = own[key].astype(np.float64) if alone else value
        size = np.abs(value).astype(np.float64)
        limit = with_underflow(width(size, units[key], r, cut.get(key), wider and not alone), size, r)
        finite = np.isfinite(own[key])
        if only_finite:
            limit = np.full(size.shape, r.largest)
        limit = np.where(finite, np.where(np.isfinite(limit) & np.isfinite(value), limit, np.inf), 0.0)
        found[key] = Bounded(np.where(finite, value, own[key]).astype(r.truth), limit, r)
    return found


def width(size: Array, units: float, r: Rounding, cut: Cut | None, exact: bool) -> Array:
    """Of a limit: the noise and one rounding, twice where the true values have errors, too."""
    u = max(r.u, cut.u) if cut and not cut.noise else r.u
    noise = u * units + (cut.noise * largest(size) if cut and cut.noise else 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray((STUDENT * noise + u * size) * (1 if exact and cut is None else 2) + r.tiny)


def with_underflow(limit: Array, size: Array, r: Rounding) -> Array:
    """A number so small that its rounding cannot be measured may come out as 0: a step before it underflows,
    or is rounded away (1 - sigmoid of 100).
    """
    return np.where(size < r.tiny / r.u, np.maximum(limit, size), limit)


def chosen(
    found: Sequence[Implementation],
    table: Sequence[Case],
    dtype: str,
    noise: Callable[[Implementation, Case, str], Noise],
    cuts: Callable[[Implementation], Cuts],
) -> Implementation:
    """Whose values stand for the true ones: whatever the order in which they are given."""
    r, first = rounding(dtype), table[0]
    values = {one.name: [_run(one, case.arrays(r), dtype) for case in table] for one in found}
    sizes = {one.name: sum(map(largest, values[one.name][0].values())) for one in found}

    def rank(one: Implementation) -> tuple[float, ...]:
        agreeing = sum(_agree(values[one.name][0], values[other.name][0]) for other in found)
        broken = sum(
            int(np.count_nonzero(~np.isfinite(a))) for outputs in values[one.name] for a in outputs.values()
        )
        wide = reference_values(one, first.arrays(r), r)[1]
        scatter = sum(noise(one, first, measured_in(dtype)).values()) / (sizes[one.name] or 1.0)
        dtypes = sum(a.dtype != r.stored for a in values[one.name][0].values())
        return -agreeing, dtypes, broken, len(cuts(one)), not wide, scatter

    return min(found, key=rank)


def breaks(one: Implementation, reference: Implementation, case: Case, dtype: str) -> bool:
    """Whether one has results that are not finite where the reference's are."""
    inputs = case.arrays(rounding(dtype))
    theirs, ours = (_run(other, inputs, dtype) for other in (one, reference))
    return any(bool((np.isfinite(ours[key]) & ~np.isfinite(a)).any()) for key, a in theirs.items())


def _agree(a: Outputs, b: Outputs) -> bool:
    if {key: x.shape for key, x in a.items()} != {key: x.shape for key, x in b.items()}:
        return False
    with np.errstate(all="ignore"):
        return all(
            bool(np.nanmax(np.abs(x - b[key]), initial=0.0) <= AGREE * largest(x)) for key, x in a.items()
        )


def in_range(array: Array, rounded: Array, r: Rounding) -> Array:
    """The number rounded to the format, in float64; what the format cannot hold stays as it is."""
    if array.dtype.kind != "f":
        return array
    found, size = rounded.astype(np.float64), np.abs(array)
    np.copyto(found, array, where=(size < r.tiny) | (size > r.largest))
    return found


def _ups(key: str, k: int, shape: tuple[int, ...]) -> Array:
    """1 where a number is moved up, 0 where down."""
    return generator("perturbed", key, str(k)).integers(0, 2, shape, np.int8)


_kept_ups = lru_cache(maxsize=1024)(_ups)


def moved(array: Array, r: Rounding, k: int, key: str) -> Array:
    """Each number's last digit changed up or down: by 2 u, which survives being rounded to the format."""
    if array.dtype.kind != "f":
        return array
    ups = (_kept_ups if array.size < SMALL else _ups)(key, k, array.shape)
    far = np.asarray(array * np.where(ups, 1 + 2 * r.u, 1 - 2 * r.u))
    np.copyto(far, array, where=at_most_one(array))
    return in_range(far, r.nearest(far), r)


def _cast(inputs: Inputs, dtype: type) -> dict[str, Array]:
    return {key: array.astype(dtype) if array.dtype.kind == "f" else array for key, array in inputs.items()}


def _own(array: Array) -> Array:
    """A copy, in case it is written to; a large one is a parameter, which nobody writes to."""
    return array.copy() if array.size < SMALL else array


def _run(implementation: Implementation, inputs: Inputs, dtype: str) -> Outputs:
    with np.errstate(all="ignore"):
        given = {key: _own(array) for key, array in inputs.items() if key != "dy"}
        return implementation.pull(given, inputs["dy"].copy(), Place(dtype))
