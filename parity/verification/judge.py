"""Numbers against the truth, each as a share of the limit that theory allows; and the other ways to fail.

`judge` takes finished numbers; `compare` runs implementations of a layer or model on a table of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.errors import UsageError
from parity.verification.adapters import Implementation
from parity.verification.case import Case, generator
from parity.verification.place import Device, Inputs, Outputs, Place, Settings

Truth = Callable[[Inputs, Settings, Rounding], dict[str, Bounded]]
"""Inputs (canonical NumPy arrays in the judged format), settings and a Rounding to one Bounded for each
quantity."""
LOSS = ("float64", "float32")
"""Losses and updates of a bfloat16 network are float32's."""


@dataclass(frozen=True, eq=False)
class Item:
    """One thing that every backend computes."""

    name: str
    truth: Truth
    dtypes: tuple[str, ...] = LOSS
    elementwise: bool = False
    """Each result depends on few numbers: its error is also told in ULPs."""
    products: bool = False
    """Has products that a GPU may take in TF32."""


@dataclass(frozen=True)
class Result:
    """One quantity of one case, computed by one backend."""

    item: str
    quantity: str
    backend: str
    dtype: str
    device: str
    case: str
    passed: bool
    share: float
    """The worst error over its limit; above 1 fails. Infinite where the limit is zero, or a number is not
    finite that should be, or the reverse."""
    index: tuple[int, ...] = ()
    """Of the worst element; then what it is, what it should be, and how far it may be from that."""
    actual: float = float("nan")
    truth: float = float("nan")
    limit: float = float("nan")
    ulps: float | None = None
    """The largest error in ULPs of the format, of an elementwise item."""
    note: str = ""
    """What is wrong where it is not the numbers."""


@lru_cache(maxsize=2048)
def truth(item: Item, case: Case, dtype: str, device: Device = "cpu") -> dict[str, Bounded]:
    """Computed once for every backend and every rerun."""
    r = rounding(dtype, device)
    with np.errstate(all="ignore"):
        return item.truth(case.arrays(r), case.settings, r)


@dataclass(frozen=True)
class Label:
    """Whose numbers they are."""

    item: Item
    case: Case
    backend: str
    place: Place

    def result(self, quantity: str, passed: bool, share: float, **rest: object) -> Result:
        """A `Result` under this label."""
        where = self.backend, self.place.dtype, self.place.device, self.case.name
        return Result(self.item.name, quantity, *where, passed, share, **rest)  # type: ignore[arg-type]

    def failure(self, quantity: str, note: str) -> Result:
        """A `Result` that fails for another reason than a number."""
        return self.result(quantity, False, float("inf"), note=note)


def judge(truths: Mapping[str, Bounded], outputs: Outputs, label: Label) -> list[Result]:
    """One result for each quantity, missing ones included."""
    results = []
    for quantity, expected in truths.items():
        if quantity not in outputs:
            results.append(label.failure(quantity, "missing"))
        else:
            results.append(_judge_one(quantity, expected, np.asarray(outputs[quantity]), label))
    unknown = [quantity for quantity in outputs if quantity not in truths]
    return results + [label.failure(quantity, "not asked for") for quantity in unknown]


def _judge_one(quantity: str, expected: Bounded, actual: Array, label: Label) -> Result:
    r = rounding(label.place.dtype, label.place.device)
    if actual.shape != expected.shape:
        return label.failure(quantity, f"shape {actual.shape}, expected {expected.shape}")
    if actual.dtype != r.stored:
        return label.failure(quantity, f"dtype {actual.dtype}, expected {np.dtype(r.stored)}")
    if actual.size == 0:
        return label.result(quantity, True, 0.0)
    share, difference = shares(expected, actual, r)
    worst = int(np.argmax(share))
    index = tuple(int(i) for i in np.unravel_index(worst, actual.shape))
    finite = np.isfinite(difference)
    with np.errstate(over="ignore"):
        ulps = difference / r.ulp(expected.value.astype(np.float64))
    return label.result(
        quantity,
        bool(share.max() <= 1),
        float(share.max()),
        index=index,
        actual=float(actual[index]),
        truth=float(expected.value[index]),
        limit=float(expected.error[index]),
        ulps=float(ulps[finite].max(initial=0.0)) if label.item.elementwise else None,
        note="theory gives no limit here"
        if share.max() > 1 and not np.isfinite(expected.error[index])
        else "",
    )


def shares(expected: Bounded, actual: Array, r: Rounding) -> tuple[Array, Array]:
    """Each element's error over its limit, and the error. What is not finite in truth, or beyond the
    format's range, must be the same not-finite number; an element without a finite limit fails.
    """
    with np.errstate(all="ignore"):
        truth = expected.value
        beyond = np.abs(truth) > truth.dtype.type(r.largest)
        wanted = np.where(beyond, np.copysign(np.inf, truth), truth)
        special = ~np.isfinite(wanted)
        same = (wanted == actual) | (np.isnan(wanted) & np.isnan(actual))
        difference = np.abs(actual.astype(r.truth) - truth).astype(np.float64)
        share = np.where(difference == 0, 0.0, difference / expected.error)
        share = np.where(np.isfinite(expected.error) & np.isfinite(actual), share, np.inf)
        return np.where(special, np.where(same, 0.0, np.inf), share), difference


Expected = Callable[[Implementation, Case, str], Mapping[str, Bounded] | None]
"""Of an implementation, a case and a format: true values with their limits, or None: not to be compared."""


def compare(
    item: Item,
    found: Sequence[Implementation],
    table: Sequence[Case],
    expected: Expected,
    device: Device = "cpu",
) -> tuple[tuple[Result, ...], tuple[str, ...]]:
    """The results of each implementation in each of the item's formats; and notes of what has no limit."""
    results: list[Result] = []
    unjudged: dict[tuple[str, str, str], tuple[int, int]] = {}
    for one in found:
        for dtype in one.formats(item.dtypes):
            for case in table:
                if (wanted := expected(one, case, dtype)) is not None:
                    label = Label(item, case, one.name, Place(dtype, device))
                    results += _judged(one, wanted, label, unjudged)
            results += _hidden_cast(one, Label(item, table[0], one.name, Place(dtype, device)))
    return tuple(results), tuple(
        f"Not judged: {count} of {size} elements of {quantity}, {dtype}, case {case!r}: no finite limit "
        "(a step overflows, or a divisor may be 0)"
        for (quantity, case, dtype), (count, size) in unjudged.items()
    )


def _judged(
    one: Implementation, expected: Mapping[str, Bounded], label: Label, unjudged: dict[Any, tuple[int, int]]
) -> list[Result]:
    """Elements without a limit are skipped and counted; a quantity without any limit gives no result."""
    case, r = label.case, rounding(label.place.dtype, label.place.device)
    inputs = case.arrays(r)
    before = {key: array.copy() for key, array in inputs.items()}
    outputs = _run(one, inputs, label.place)
    changed = [key for key, array in before.items() if not np.array_equal(array, inputs[key], True)]
    wanted: dict[str, Bounded] = {}
    for key, bound in expected.items():
        open_ended = ~np.isfinite(bound.error)
        if open_ended.any():
            unjudged[key, case.name, label.place.dtype] = int(open_ended.sum()), open_ended.size
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


def _hidden_cast(one: Implementation, label: Label) -> list[Result]:
    """A failure for each result in float64 that follows a coarse change of the inputs and not a fine one: it
    went through a narrower format on its way.
    """
    if label.place.dtype != "float64":
        return []
    inputs = label.case.arrays(rounding("float64"))

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


def with_upstream(case: Case, one: Implementation, place: Place) -> Case:
    """The case with a random dy of the output's shape."""
    with np.errstate(all="ignore"):
        shape = one.shape(case.arrays(rounding(place.dtype)), place)
    dy = np.asarray(generator(case.item, case.name, "dy").normal(size=shape))
    return replace(case, inputs={**case.inputs, "dy": dy})
