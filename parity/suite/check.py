"""The measure: each backend's numbers against the truth, as a share of the limit that theory allows.

`run` goes through items x backends x formats x cases. `compare` puts any functions under the same measure:
computations (inputs, settings, Place) to NumPy arrays, beside an `Item` whose truth maps (inputs, settings,
Rounding) to Bounded arrays of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parity.bounds.rounding import FORMATS, SHIPPED, rounding
from parity.suite import model
from parity.suite.backends import (
    BACKENDS,
    SHARED,
    Computation,
    computations,
    devices,
    forget,
    installed,
    shipped,
)
from parity.suite.drawn import check_drawn
from parity.suite.registry import ITEMS, OPERATORS, cases_of
from parity.verification.case import Case
from parity.verification.judge import Item, Label, Result, judge, truth
from parity.verification.place import Place
from triptych.describe.spec import Device
from triptych.errors import UserError

Progress = Callable[[str], None]


def run(
    items: Iterable[str] | None = None,
    backends: Iterable[str] | None = None,
    dtypes: Iterable[str] | None = None,
    quick: bool = False,
    eager: bool = False,
    replaced: Mapping[tuple[str, str], Computation] | None = None,
    progress: Progress = lambda _: None,
    drawn: int = 0,
    seed: int = 0,
) -> list[Result]:
    """All results of the chosen items, backends and formats on every device present (None: all of them).

    `replaced` puts another computation in the place of (backend, item). `drawn` adds so many inputs drawn by
    hypothesis to every item, backend and format; the seed picks which. Raises UserError for unknown names.
    """
    chosen = _known("item", items, [*ITEMS, "model"])
    names = _known("backend", backends, (*BACKENDS, SHARED))
    formats = _known("dtype", dtypes, FORMATS) if dtypes else None
    results: list[Result] = []
    for name in names:
        if not backends and not installed(name):
            progress(f"{name} is not installed: left out")
            continue
        available = computations(name) | {item: c for (of, item), c in (replaced or {}).items() if of == name}
        for device in devices(name):
            for item in (ITEMS[key] for key in chosen if key in available):
                progress(f"{item.name}, {name} on {device}")
                found = {name: available[item.name]}
                wanted = [c for c in cases_of(item.name) if c.quick or not quick]
                results += compare(item, found, wanted, formats, device, eager)
                if drawn and OPERATORS[item.name].draw:
                    results += _drawn(item, found, formats, device, drawn, seed)
            if "model" in chosen and name != SHARED:
                results += model.check_models(name, formats, device, quick, progress, eager)
    return results


def _drawn(
    item: Item, found: Mapping[str, Computation], formats: Any, device: Device, count: int, seed: int
) -> list[Result]:
    """JAX gets few shapes, and computes operation by operation: compiled, each example would be a program."""
    (name,) = found

    def again(case: Case) -> list[Result]:
        return compare(item, found, [case], formats, device, eager=True)

    results = check_drawn(item.name, again, count, seed, few=name == "jax")
    forget(name)
    return results


def compare(
    item: Item,
    found: Mapping[str, Computation],
    cases: Sequence[Case],
    dtypes: Iterable[str] | None = None,
    device: Device = "cpu",
    eager: bool = False,
) -> list[Result]:
    """Each computation, by its backend's name, on each case in each of the item's formats asked for."""
    results = []
    for name, computation in found.items():
        for dtype in _formats(item, name, dtypes, device):
            for case in cases:
                results += _one(item, case, name, computation, Place(dtype, device, eager))
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


def _one(item: Item, case: Case, backend: str, computation: Computation, place: Place) -> list[Result]:
    r = rounding(place.dtype, place.device)
    inputs = case.arrays(r)
    before = {name: array.copy() for name, array in inputs.items()}
    label = Label(item, case, backend, place)
    with np.errstate(all="ignore"):
        outputs = computation(inputs, case.settings, place)
    results = judge(truth(item, case, place.dtype, place.device), outputs, label)
    changed = [name for name, array in before.items() if not np.array_equal(array, inputs[name], True)]
    return results + [label.failure(name, "the input was changed in place") for name in changed]


def _known(kind: str, asked: Iterable[str] | None, known: Iterable[str]) -> list[str]:
    """The asked names, or all; raises UserError for one that is not known."""
    known, asked = list(known), list(asked or ())
    for name in asked:
        if name not in known:
            raise UserError(f"{kind}: expected one of {', '.join(known)}, got {name!r}; change --{kind}")
    return asked or known
