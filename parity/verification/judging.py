"""What every implementation of a reader's layer or model goes through, with a formula or without."""

from __future__ import annotations

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, rounding
from parity.errors import UsageError
from parity.verification.adapters import Implementation
from parity.verification.case import Case
from parity.verification.judge import Label, Result, judge
from parity.verification.place import Outputs, Place


class Unjudged:
    """Elements for which there is no finite limit, counted by quantity, case and format."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str], tuple[int, int]] = {}

    def add(self, quantity: str, case: str, dtype: str, count: int, size: int) -> None:
        """`count` of `size` elements."""
        self.found[quantity, case, dtype] = (count, size)

    def lines(self) -> tuple[str, ...]:
        """For the report."""
        return tuple(
            f"Not judged: {count} of {size} elements of {quantity}, {dtype}, case {case!r}: no finite limit "
            "(a step overflows, or a divisor may be 0)"
            for (quantity, case, dtype), (count, size) in self.found.items()
        )


def judged(
    one: Implementation, case: Case, expected: dict[str, Bounded], label: Label, notes: Unjudged
) -> list[Result]:
    """Elements without a limit are left out and counted; a quantity without any limit gives no result."""
    r = rounding(label.place.dtype, label.place.device)
    inputs = case.arrays(r)
    before = {key: array.copy() for key, array in inputs.items()}
    outputs = _run(one, inputs, label.place)
    changed = [key for key, array in before.items() if not np.array_equal(array, inputs[key], True)]
    wanted: dict[str, Bounded] = {}
    for key, bound in expected.items():
        open_ended = ~np.isfinite(bound.error)
        if open_ended.any():
            notes.add(key, case.name, label.place.dtype, int(open_ended.sum()), open_ended.size)
        if open_ended.all() and open_ended.size:
            outputs.pop(key, None)
            continue
        wanted[key] = Bounded(np.where(open_ended, 0, bound.value), np.where(open_ended, 0, bound.error), r)
        if key in outputs and outputs[key].shape == open_ended.shape:
            outputs[key] = np.where(open_ended, outputs[key].dtype.type(0), outputs[key])
    results = judge(wanted, outputs, label)
    return results + [label.failure(key, "the input was changed in place") for key in changed]


def _run(one: Implementation, inputs: dict[str, Array], place: Place) -> Outputs:
    with np.errstate(all="ignore"):
        return one.pull({key: array for key, array in inputs.items() if key != "dy"}, inputs["dy"], place)


COARSE, FINE = 2.0**-20, 2.0**-40
"""Relative changes of the inputs: one that a float32 sees, and one that only a float64 does."""


def hidden_cast(one: Implementation, case: Case, label: Label) -> list[Result]:
    """A failure for each result in float64 that follows a coarse change of the inputs and not a fine one: it
    went through a narrower format on its way.
    """
    if label.place.dtype != "float64":
        return []
    inputs = case.arrays(rounding("float64"))

    def changed(by: float) -> Outputs:
        moved = {k: a * (1 + by) if a.dtype.kind == "f" else a for k, a in inputs.items()}
        return _run(one, moved, label.place)

    at, coarse, fine = changed(0.0), changed(COARSE), changed(FINE)
    note = "float64 in, but cut to a narrower format on the way: it does not follow a change of 2^-40"
    found = []
    for key, array in at.items():
        reacts = array != coarse[key]
        if reacts.any() and np.count_nonzero(fine[key][reacts] != array[reacts]) < reacts.sum() / 2:
            found.append(label.failure(key, note))
    return found


def check_repeats(one: Implementation, case: Case, place: Place) -> None:
    """Raise UsageError for a function that gives other numbers when it is called again."""
    first, second = (_run(one, case.arrays(rounding(place.dtype)), place) for _ in range(2))
    differing = [key for key in first if not np.array_equal(first[key], second[key], equal_nan=True)]
    if differing:
        raise UsageError(
            f"{one.name}: {', '.join(differing)} came out otherwise when called again with the same inputs; "
            "fix its random numbers (dropout: .eval(), or pass the mask as an input), or what it keeps"
        )
