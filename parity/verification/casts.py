"""Whether an implementation that is handed float64 passes it through a narrower format on its way.

Rounding to float32 makes steps in a function, of 2^-24 of its size. They show in the second difference

    D(h) = | F(x (1 + h xi)) + F(x (1 - h xi)) - 2 F(x) |

with signs and sizes xi of its own for every number, so that no ratio or product of inputs stays the same. As
h goes down from 2^-17 (coarse) over 2^-23 (middle) to 2^-40 (fine), D falls as h^2 where F is smooth, as h at
a kink, stays the same at a jump or tie, and stays at float64's rounding where it has reached that. Steps of
float32 alone leave it about the same from coarse to middle, and nothing at fine.

Steps of bfloat16 and float16 are so long that a tiny move, of everything, of the inputs or of dy, changes not
one bit of most of the numbers that a long move changes. Where smooth parts are added, D falls no faster than
the root of h.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from parity.bounds.rounding import Array, rounding
from parity.verification.adapters import Implementation
from parity.verification.case import Case, at_most_one, generator
from parity.verification.place import Device, Outputs, Place


class Cut(NamedTuple):
    """What a result is cut to, and for 16 bits the error that this leaves, beside the largest element."""

    to: str
    noise: float = 0.0

    @property
    def u(self) -> float:
        """The format's unit roundoff."""
        return U[self.to]

    def told(self) -> str:
        """What it means."""
        return (
            f"{CUT}{self.to} on the way: float64 goes in, and what is smaller than {self.to}'s steps is lost"
        )


Cuts = Mapping[str, Cut]
"""Of a quantity."""
UNCUT: Cuts = MappingProxyType({})
EITHER = "bfloat16 or float16"
U = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, EITHER: 2.0**-8}
COARSE, MIDDLE, FINE = 2.0**-17, 2.0**-23, 2.0**-40
LONG, SHORT, SHORTER, TINY = 2.0**-6, 2.0**-9, 2.0**-12, 2.0**-30
"""Two of bfloat16's steps; a quarter of one, which is two of float16's; little; and nothing beside one."""
MUCH = 2.0**-17
"""No part of a step of float32."""
NAMING = 4
"""Draws that tell bfloat16 from float16."""
DRAWS = 2
"""A result counts as cut only if every draw says so: a kink may lie within MIDDLE of an input by accident."""
CUT = "cut to "


def beyond(own: Cuts, theirs: Cuts) -> Cuts:
    """What one cuts and the other does not, or not so far."""
    return {key: cut for key, cut in own.items() if key not in theirs or cut.u > theirs[key].u}


def cut_quantities(one: Implementation, case: Case, inputs: Sequence[str], device: Device = "cpu") -> Cuts:
    """Those of its results in float64 that have a narrower format's steps; `inputs` are not parameters."""
    arrays = case.arrays(rounding("float64"))
    groups: tuple[Collection[str], ...] = (arrays, inputs, ("dy",))

    def at(h: float, draw: int, group: Collection[str] = arrays) -> Outputs:
        moved = {k: _moved(a, h if k in group else 0.0, f"{k}/{draw}") for k, a in arrays.items()}
        with np.errstate(all="ignore"):
            return one.pull(
                {k: a for k, a in moved.items() if k != "dy"}, moved["dy"], Place("float64", device)
            )

    def bend(h: float, draw: int, group: Collection[str] = arrays) -> Outputs:
        above, below = at(h, draw, group), at(-h, draw, group)
        with np.errstate(all="ignore"):
            return {key: np.abs(above[key] + below[key] - 2 * centre[key]) for key in judged}

    centre = at(0.0, 0)
    judged = {key for key, array in centre.items() if array.dtype == np.float64}
    found: dict[str, Cut] = {}
    for group in groups:
        tiny, far = at(TINY, 0, group), at(LONG, 0, group)
        if long := {k for k in judged - set(found) if _has_long_steps(centre[k], tiny[k], far[k])}:
            bends = [bend(SHORT, draw, group) for draw in range(NAMING)]
            moves = [at(LONG, draw, group) for draw in range(NAMING)]
            for key in long:
                moved = [_moves(centre[key], one[key]) for one in moves]
                if to := _of_16_bits(moved, [one[key] for one in bends]):
                    found[key] = Cut(to, _noise(centre[key], [one[key] for one in bends]))
    forward = {key for key in judged - set(found) if not key.startswith("d")}
    short, shorter = ([bend(h, draw) for draw in range(NAMING)] for h in (SHORT, SHORTER))
    if any(_mixed(centre[k], [one[k] for one in short], [one[k] for one in shorter]) for k in forward):
        for key in judged:
            if key in found or _size(short[0][key]) > MUCH * _size(centre[key]):
                found[key] = Cut(EITHER, _noise(centre[key], [one[key] for one in short]))
    single = judged - set(found)
    noise = 2.0**-45 * max((_size(a) for a in (arrays["dy"], *centre.values())), default=0.0)
    for draw in range(DRAWS):
        if not single:
            break
        coarse, middle, fine = (bend(h, draw) for h in (COARSE, MIDDLE, FINE))
        single = {k for k in single if _has_steps(centre[k], coarse[k], middle[k], fine[k], noise)}
    return found | dict.fromkeys(single, Cut("float32"))


def _mixed(centre: Array, short: Sequence[Array], shorter: Sequence[Array]) -> bool:
    """Whether steps of 16 bits bend much of a value, beside smooth parts of it: an 8th of the move bends it
    by no less than a 16th as much. Gradients have other jumps, at kinks.
    """
    something, size = centre != 0, _size(centre)
    bent = np.median([((one > MUCH * size) & something).sum() for one in short])
    if bent < max(1, something.sum() / 4):
        return False
    return bool(np.sqrt(np.nanmean(np.square(shorter)) / np.nanmean(np.square(short))) > 1 / 16)


def _has_long_steps(centre: Array, tiny: Array, far: Array) -> bool:
    """Most of what a long move takes along stays the same to the last bit in a tiny one."""
    moved = _moves(centre, far) > 2.0**-20 * _size(centre)
    stays = int((moved & (tiny == centre)).sum())
    return stays > 0.75 * moved.sum() and stays >= max(1, np.count_nonzero(centre) / 2)


def _of_16_bits(moves: Sequence[Array], bends: Sequence[Array]) -> str:
    """By how much a short move bends it, beside a long one: by a step of bfloat16, or of float16, or not."""
    long, short = (np.mean(np.square(found), axis=0) for found in (moves, bends))
    told = np.isfinite(short) & (long > 0)
    steps = np.sqrt(np.quantile(short[told] / long[told], 0.75)) if told.any() else 0.0
    return "bfloat16" if steps > 2.0**-2.6 else "float16" if steps > 2.0**-8 else ""


def _noise(centre: Array, bends: Sequence[Array]) -> float:
    """D is the sum of four rounding errors."""
    finite = np.concatenate([bend[np.isfinite(bend)] for bend in bends])
    return float(np.sqrt(np.mean(np.square(finite)))) / 2 / _size(centre)


def _moves(centre: Array, far: Array) -> Array:
    with np.errstate(all="ignore"):
        moves = np.abs(far - centre)
    return np.where(np.isfinite(moves), moves, 0.0)


def _size(array: Array) -> float:
    return float(np.abs(array[np.isfinite(array)]).max(initial=0.0))


def _has_steps(centre: Array, coarse: Array, middle: Array, fine: Array, noise: float) -> bool:
    """Most of the elements that move unevenly do so by steps of float32; and they are no exception. Of a
    result that is a small difference of large numbers, float64's own `noise` moves unevenly too.
    """
    good = np.isfinite(centre) & np.isfinite(coarse) & np.isfinite(middle) & np.isfinite(fine)
    if not good.any():
        return False
    centre, coarse, middle, fine = (np.abs(a[good]) for a in (centre, coarse, middle, fine))
    size = float(centre.max())
    uneven = middle > max(2.0**-34 * size, noise)
    steps = uneven & (middle > coarse / 8) & (middle > 2.0**8 * fine) & (middle < 2.0**-12 * size)
    return bool(steps.sum() > uneven.sum() / 2 and steps.sum() >= max(1, centre.size / 20))


def _moved(array: Array, h: float, key: str) -> Array:
    if array.dtype.kind != "f":
        return array.copy()
    rng = generator("uneven", key)
    xi = rng.choice([-1.0, 1.0], size=array.shape) * rng.uniform(0.5, 1.0, size=array.shape)
    return np.asarray(array * (1 + h * np.where(at_most_one(array), 0.0, xi)))
