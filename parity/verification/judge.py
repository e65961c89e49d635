"""Numbers against the truth, each as a share of the limit that theory allows; and the other ways to fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.verification.case import Case
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
    handed_on = quantity.split()[-1] in ("y", "dx") and expected.r.name == "bfloat16"
    if handed_on and not np.array_equal(expected.r.nearest(actual), actual, equal_nan=True):
        return label.failure(quantity, "not in bfloat16: the next layer would compute in another dtype")
    if actual.size == 0:
        return label.result(quantity, True, 0.0)
    share, difference = shares(expected, actual, r)
    worst = int(np.argmax(share))
    index = tuple(int(i) for i in np.unravel_index(worst, actual.shape))
    finite = np.isfinite(difference)
    with np.errstate(over="ignore", invalid="ignore"):
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
        note=_why(expected, actual, index) if share.max() > 1 else "",
    )


def _why(expected: Bounded, actual: Array, index: tuple[int, ...]) -> str:
    """What fails where it is not the distance between two numbers."""
    truth, found = expected.value[index], actual[index]
    if np.isfinite(truth) and not np.isfinite(expected.error[index]):
        return "theory gives no limit here"
    if np.isfinite(truth) and not np.isfinite(found):
        return "not finite, and the truth is"
    if np.isfinite(found) and not np.isfinite(truth):
        return "finite, and the truth is not"
    return ""


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
