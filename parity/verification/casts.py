"""Whether an implementation that is handed float64 passes it through a narrower format on its way.

Rounding to float32 makes steps in a function, of 2^-24 of its size. They show in the second difference

    D(h) = | F(x (1 + h xi)) + F(x (1 - h xi)) - 2 F(x) |

with signs and sizes xi of its own for every number, so that no ratio or product of inputs stays the same. As
h goes down from 2^-17 (coarse) over 2^-23 (middle) to 2^-40 (fine), D falls as h^2 where F is smooth, as h at
a kink, stays the same at a jump or tie, and stays at float64's rounding where it has reached that. Steps of
float32 alone leave it about the same from coarse to middle, and nothing at fine.
"""

from __future__ import annotations

import numpy as np

from parity.bounds.rounding import Array, rounding
from parity.verification.adapters import Implementation
from parity.verification.case import Case, at_most_one, generator
from parity.verification.place import Device, Outputs, Place

COARSE, MIDDLE, FINE = 2.0**-17, 2.0**-23, 2.0**-40
DRAWS = 2
"""A result counts as cut only if every draw says so: a kink may lie within MIDDLE of an input by accident."""
CUT = "cut to float32 on the way: float64 goes in, and what is smaller than float32's steps is lost"


def cut_quantities(one: Implementation, case: Case, device: Device = "cpu") -> frozenset[str]:
    """Those of its results in float64 that have float32's steps."""
    inputs = case.arrays(rounding("float64"))

    def at(h: float, draw: int) -> Outputs:
        moved = {key: _moved(array, h, f"{key}/{draw}") for key, array in inputs.items()}
        with np.errstate(all="ignore"):
            return one.pull(
                {k: a for k, a in moved.items() if k != "dy"}, moved["dy"], Place("float64", device)
            )

    centre = at(0.0, 0)
    cut = {key for key, array in centre.items() if array.dtype == np.float64}
    for draw in range(DRAWS):
        if not cut:
            break
        steps = []
        for h in (COARSE, MIDDLE, FINE):
            above, below = at(h, draw), at(-h, draw)
            with np.errstate(all="ignore"):
                steps.append({key: np.abs(above[key] + below[key] - 2 * centre[key]) for key in cut})
        cut = {key for key in cut if _has_steps(centre[key], *(step[key] for step in steps))}
    return frozenset(cut)


def _has_steps(centre: Array, coarse: Array, middle: Array, fine: Array) -> bool:
    """Most of the elements that move unevenly do so by steps of float32; and they are no exception."""
    good = np.isfinite(centre) & np.isfinite(coarse) & np.isfinite(middle) & np.isfinite(fine)
    if not good.any():
        return False
    centre, coarse, middle, fine = (np.abs(a[good]) for a in (centre, coarse, middle, fine))
    size = float(centre.max())
    uneven = middle > 2.0**-34 * size
    steps = uneven & (middle > coarse / 8) & (middle > 2.0**8 * fine) & (middle < 2.0**-12 * size)
    return bool(steps.sum() > uneven.sum() / 2 and steps.sum() >= max(1, centre.size / 20))


def _moved(array: Array, h: float, key: str) -> Array:
    if array.dtype.kind != "f":
        return array.copy()
    rng = generator("uneven", key)
    xi = rng.choice([-1.0, 1.0], size=array.shape) * rng.uniform(0.5, 1.0, size=array.shape)
    return np.asarray(array * (1 + h * np.where(at_most_one(array), 0.0, xi)))
