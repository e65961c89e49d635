"""The measure: each backend's numbers against the truth, as a share of the limit that theory allows.

`run` goes through items x backends x formats x cases. `compare` puts any functions under the same measure:

    item = Item("my_layer", my_truth, NETWORK)
    case = Case("my_layer", "random", {"x": x, "dy": dy})
    results = compare(item, {"numpy": by_hand, "jax": by_jax, "torch": by_torch}, [case])

where a truth maps (inputs, settings, Rounding) to Bounded arrays, and a subject (inputs, settings, Place)
to NumPy arrays of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from experiment.errors import UserError
from experiment.spec import Device
from parity import cases as case_table
from parity.bounded import Bounded
from parity.cases import Case
from parity.drawn import check_drawn
from parity.items import ITEMS, Item
from parity.rounding import FORMATS, SHIPPED, Array, Rounding, rounding
from parity.subjects import BACKENDS, SHARED, Outputs, Place, Subject, devices, installed, shipped, subjects


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


Progress = Callable[[str], None]


def run(
    items: Iterable[str] | None = None,
    backends: Iterable[str] | None = None,
    dtypes: Iterable[str] | None = None,
    quick: bool = False,
    eager: bool = False,
    replaced: Mapping[tuple[str, str], Subject] | None = None,
    progress: Progress = lambda _: None,
    drawn: int = 0,
    seed: int = 0,
) -> list[Result]:
    """All results of the chosen items, backends and formats on every device present (None: all of them).

    `replaced` puts another subject in the place of (backend, item). `drawn` adds so many inputs drawn by
    hypothesis to every item, backend and format; the seed picks which. Raises UserError for unknown names.
    """
    from parity import model  # builds on this module

    chosen = _known("item", items, [*ITEMS, "model"])
    names = _known("backend", backends, (*BACKENDS, SHARED))
    formats = _known("dtype", dtypes, FORMATS) if dtypes else None
    results: list[Result] = []
    for name in names:
        if not backends and not installed(name):
            progress(f"{name} is not installed: left out")
            continue
        available = subjects(name) | {item: s for (of, item), s in (replaced or {}).items() if of == name}
        for device in devices(name):
            for item in (ITEMS[key] for key in chosen if key in available):
                progress(f"{item.name}, {name} on {device}")
                found = {name: available[item.name]}
                wanted = [c for c in case_table.table_of(item.name) if c.quick or not quick]
                results += compare(item, found, wanted, formats, device, eager)
                if drawn:
                    these = list(_formats(item, name, formats, device))
                    results += check_drawn(item, name, found[name], these, device, drawn, seed)
            if "model" in chosen and name != SHARED:
                results += model.check_models(name, formats, device, quick, progress, eager)
    return results


def compare(
    item: Item,
    subjects: Mapping[str, Subject],
    cases: Sequence[Case],
    dtypes: Iterable[str] | None = None,
    device: Device = "cpu",
    eager: bool = False,
) -> list[Result]:
    """Each subject (by its backend's name) on each case, in each of the item's formats that is asked for."""
    results = []
    for name, subject in subjects.items():
        for dtype in _formats(item, name, dtypes, device):
            for case in cases:
                results += _one(item, case, name, subject, Place(dtype, device, eager))
    return results


def _formats(item: Item, backend: str, dtypes: Iterable[str] | None, device: Device) -> Iterator[str]:
    """Those of the item that are asked for. On a GPU products come in TF32, too, and on every accelerator
    as the framework ships them; on a CPU, where that is plain float32, only if asked for.
    """
    for dtype in (*item.dtypes, *(("tf32",) if item.products and device == "gpu" else ())):
        if (dtypes is None or dtype in dtypes) and not (backend == "numpy" and dtype == "bfloat16"):
            yield dtype
    own = shipped(backend, item.name, device) if item.products and backend in BACKENDS else None
    if own and (device != "cpu" if dtypes is None else SHIPPED in dtypes or own in dtypes):
        yield own


def _one(item: Item, case: Case, backend: str, subject: Subject, place: Place) -> list[Result]:
    r = rounding(place.dtype, place.device)
    inputs = case.arrays(r)
    before = {name: array.copy() for name, array in inputs.items()}
    label = Label(item, case, backend, place)
    with np.errstate(all="ignore"):
        outputs = subject(inputs, case.settings, place)
    results = judge(truth(item, case, place.dtype, place.device), outputs, label)
    changed = [name for name, array in before.items() if not np.array_equal(array, inputs[name], True)]
    return results + [label.failure(name, "the input was changed in place") for name in changed]


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


def _known(kind: str, asked: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """The asked names, or all; raises UserError for one that is not known."""
    known, asked = list(known), list(asked or ())
    for name in asked:
        if name not in known:
            raise UserError(f"{kind}: expected one of {', '.join(known)}, got {name!r}; change --{kind}")
    return asked or known
