"""Limits without a formula: measured, not proved.

Neither of two implementations is known to be right. The reference, evaluated in a wider format, stands for
the true value. How far rounding may move a result is measured on the implementations that are not being
judged. Let f be one of them in the judged format, F the same in float64, and x_k, k = 1..K, the inputs with
the last digit of each number changed up or down, by 2 u. Root mean squares over k and over all elements:

    S   F(x_k) - F(x)      the effect of changing the last digit of each input (condition)
    R   f(x_k) - F(x_k)    the rounding of its own operations

    limit of an element = T sqrt(S^2 + R^2) + u |F(x)| + the smallest normal number

S and R are one number for a whole result, because implementations may round in quite different places
(1 + erf x is good to u, erfc x to u times itself). So a small element beside large ones is judged by the
large ones' measure. A tie that the change breaks, or a kink that it crosses, is no rounding error: an element
counts in S only where a change 256 times smaller does at most a sixteenth as much.

This is stochastic arithmetic: each perturbed input gives other rounding errors, and if these are normal with
mean zero, the error of one more evaluation follows Student's t with K degrees of freedom (Vignes 1993, A
stochastic arithmetic for reliable scientific computation; Parker 1997, Monte Carlo Arithmetic). T is its
two-sided quantile for one false alarm in 10^9. Errors are only nearly normal, and one implementation may
round several times as coarsely as another without being wrong. So a share a little above 1 means less
accurate than the others, while a wrong formula usually exceeds the limit by orders of magnitude in float64.
All of this is of first order in u. Inputs whose results over- or underflow on the way (FAR) are left out.

float64 has no wider format to measure R in. To first order an error is u times something that does not
depend on u, so S and R are those of float32 times 2^-29. The truth is the reference in long double where it
is NumPy and its result follows that type; elsewhere in float64, and the limit is doubled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.verification.adapters import Implementation
from parity.verification.case import Case, generator
from parity.verification.place import Inputs, Outputs, Place

FAR = ("huge, 1e15", "tiny, 1e-20")
SAMPLES = 16
STUDENT = 12.61
"""P(|t| > T) = 10^-9 for 16 degrees of freedom."""


Noise = dict[str, float]
"""sqrt(S^2 + R^2) in units of u, by quantity."""


def reference_values(reference: Implementation, inputs: Inputs, r: Rounding) -> tuple[Outputs, bool]:
    """The reference's outputs on inputs in the judged format, in a wider one; and whether it is wider."""
    if r.name != "float64":
        return _run(reference, _cast(inputs, np.float64), "float64"), True
    if np.finfo(np.longdouble).nmant > np.finfo(np.float64).nmant and reference.framework == "numpy":
        wide = _run(reference, _cast(inputs, np.longdouble), "longdouble")
        if all(array.dtype == np.longdouble for array in wide.values()):
            return wide, True
    return _run(reference, inputs, "float64"), False


def noise(implementation: Implementation, case: Case, dtype: str) -> Noise:
    """Measured in float32 or bfloat16; float32's serves float64 too."""
    r = rounding("float32" if dtype == "float64" else dtype)
    inputs = case.arrays(r)
    exact = _cast(inputs, np.float64)
    centre = _run(implementation, exact, "float64")
    squares = dict.fromkeys(centre, 0.0)
    with np.errstate(all="ignore"):
        for k in range(SAMPLES):
            moved = {key: _moved(array, r, k, key) for key, array in inputs.items()}
            far = _cast(moved, np.float64)
            near = {key: a + (far[key] - a) / 256 if a.dtype.kind == "f" else a for key, a in exact.items()}
            wide, close = (_run(implementation, x, "float64") for x in (far, near))
            narrow = _run(implementation, moved, r.name)
            for key, value in centre.items():
                response, fine = np.abs(wide[key] - value), np.abs(close[key] - value)
                smooth = np.where(fine <= response / 16, response, 0.0)
                squares[key] += float(np.mean(np.square(smooth) + np.square(narrow[key] - wide[key])))
        return {key: float(np.sqrt(total / SAMPLES)) / r.u for key, total in squares.items()}


def limits(values: Outputs, wider: bool, others: Sequence[Noise], r: Rounding) -> dict[str, Bounded]:
    """The reference's values, each with the limit that the most uncertain of `others` sets."""
    found = {}
    for key, value in values.items():
        units = max(one[key] for one in others)
        size = np.abs(value).astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            limit = (STUDENT * r.u * units + r.u * size) * (1 if wider else 2) + r.tiny
        found[key] = Bounded(value.astype(r.truth), np.where(np.isfinite(limit), limit, np.inf), r)
    return found


def _moved(array: Array, r: Rounding, k: int, key: str) -> Array:
    """Each number's last digit changed up or down: by 2 u, which survives being rounded to the format."""
    if array.dtype.kind != "f":
        return array
    signs = generator("perturbed", key, str(k)).choice([-1.0, 1.0], size=array.shape)
    return r.nearest(array.astype(np.float64) * (1 + 2 * r.u * signs))


def _cast(inputs: Inputs, dtype: type) -> dict[str, Array]:
    return {key: array.astype(dtype) if array.dtype.kind == "f" else array for key, array in inputs.items()}


def _run(implementation: Implementation, inputs: Inputs, dtype: str) -> Outputs:
    with np.errstate(all="ignore"):
        given = {key: array.copy() for key, array in inputs.items() if key != "dy"}
        return implementation.pull(given, inputs["dy"].copy(), Place(dtype))
