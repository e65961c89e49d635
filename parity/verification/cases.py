"""Cases for a layer of which only the shapes are known, or one set of arrays.

From shapes: ordinary numbers, exact zeros of both signs, whole numbers (ties), constant rows, a mean of 1e4
with deviation 1, and numbers as large as 1e4 and 1e15 and as small as 1e-20. From arrays: what is given. From
both: one sample, and memory that is not contiguous. Upstream gradients are random throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.case import Case, generator, planted

Given = Mapping[str, Any]
"""Name to a shape or an array."""

KINDS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "ordinary": lambda x, rng: x,
    "exact zeros of both signs": lambda x, rng: planted(planted(x, rng, 0.0), rng, -0.0),
    "whole numbers, ties": lambda x, rng: np.round(x),
    "constant rows": lambda x, rng: np.broadcast_to(x[..., :1], x.shape).copy() if x.ndim else x,
    "mean 1e4, deviation 1": lambda x, rng: x + 1e4,
    "large, 1e4": lambda x, rng: 1e4 * x,
    "huge, 1e15": lambda x, rng: 1e15 * x,
    "tiny, 1e-20": lambda x, rng: 1e-20 * x,
}
"""What is done to the inputs; parameters stay ordinary."""
AT_KINKS = ("exact zeros of both signs", "whole numbers, ties", "constant rows")
ONE_SAMPLE, STRIDED = "one sample", "not contiguous"


def generated(
    name: str, inputs: Given, parameters: Given, own: Mapping[str, Given], without: Sequence[str]
) -> list[Case]:
    """The table, without dy; raises UsageError for names and shapes that make none."""
    first = _drawn(name, "ordinary", inputs, parameters)
    shapes_only = not any(isinstance(value, np.ndarray) for value in inputs.values())
    kinds = KINDS if shapes_only else {"given": lambda x, rng: x}
    rows: dict[str, Case] = {}
    for kind, change in kinds.items():
        drawn = _drawn(name, kind, inputs, parameters)
        changed = {key: _changed(key, drawn[key], change, generator(name, kind, key)) for key in inputs}
        rows[kind] = Case(name, kind, drawn | changed)
    base = next(iter(rows.values()))
    sizes = {np.shape(first[key])[:1] for key in inputs}
    if len(sizes) == 1 and sizes != {()}:
        rows[ONE_SAMPLE] = replace(
            base, name=ONE_SAMPLE, inputs={**base.inputs, **{k: base.inputs[k][:1] for k in inputs}}
        )
    rows[STRIDED] = replace(base, name=STRIDED, layout="strided")
    for kind, arrays in own.items():
        unknown = set(arrays) - {*inputs, *parameters}
        if unknown:
            raise UsageError(f"cases: {kind!r} gives {sorted(unknown)}; expected names among {sorted(first)}")
        given = {key: np.asarray(array) for key, array in arrays.items()}
        rows[kind] = Case(name, kind, {**base.inputs, **given})
    for kind in without:
        if kind not in rows:
            raise UsageError(f"without: expected case names among {', '.join(rows)}; got {kind!r}")
    return [case for kind, case in rows.items() if kind not in without]


def _changed(key: str, array: Array, change: Callable[..., Array], rng: np.random.Generator) -> Array:
    return change(array, rng) if array.dtype.kind == "f" else array


def _drawn(name: str, kind: str, inputs: Given, parameters: Given) -> dict[str, Array]:
    return {key: _one(name, kind, key, given) for key, given in {**inputs, **parameters}.items()}


def _one(name: str, kind: str, key: str, given: Any) -> Array:
    if isinstance(given, np.ndarray):
        return given.astype(np.float64) if given.dtype.kind == "f" else given
    shape = (given,) if isinstance(given, int) else given
    sizes = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 1 for n in shape)
    if not sizes:
        raise UsageError(f"{key}: expected a shape of sizes of at least 1, or a NumPy array, got {given!r}")
    return generator(name, kind, key, "values").normal(size=shape)
