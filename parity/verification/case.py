"""A `Case` is one set of inputs; and the table of cases for a layer of which only the shapes are known.

Floating inputs are float64 here and rounded to the judged format before anyone sees them. Random numbers are
the same in every process. `generated` makes from shapes: ordinary numbers, exact zeros of both signs, whole
numbers (ties), constant rows, a mean of 1e4 with deviation 1, numbers as large as 1e4 and 1e15 and as small
as 1e-20; then one sample, and memory that is not contiguous. Arrays in place of shapes make a case of their
own, "given"; the others then take a floating array's shape, and leave labels, masks and probabilities alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from parity.bounds.rounding import Array, Rounding
from parity.errors import UsageError

Layout = Literal["plain", "strided", "channels-last"]


@dataclass(frozen=True, eq=False)
class Case:
    """One row: which item, what is special about it, and its inputs."""

    item: str
    name: str
    inputs: Mapping[str, Array]
    settings: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout = "plain"
    quick: bool = False
    optional: bool = False
    """Made from shapes, and left out where a function does not take it."""

    def arrays(self, r: Rounding) -> dict[str, Array]:
        """Fresh inputs in the judged format and the case's memory layout."""
        rounded = {
            name: r.nearest(array) if array.dtype.kind == "f" else array.copy()
            for name, array in self.inputs.items()
        }
        return {name: _arranged(array, self.layout) for name, array in rounded.items()}


def _arranged(array: Array, layout: Layout) -> Array:
    """The same values, elsewhere in memory."""
    if layout == "strided" and array.ndim:
        spread = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        spread[..., ::2] = array
        return spread[..., ::2]
    if layout == "channels-last" and array.ndim == 4:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    return array


def generator(*names: str) -> np.random.Generator:
    """A stream of its own for each name, the same in every process."""
    return np.random.default_rng(zlib.crc32("/".join(names).encode()))


def planted(array: Array, rng: np.random.Generator, value: float, share: float = 0.25) -> Array:
    """The array with a share of its elements replaced; at least one."""
    flat = np.array(array).reshape(-1)
    chosen = rng.permutation(flat.size)[: max(1, int(share * flat.size))]
    flat[chosen] = value
    return flat.reshape(array.shape)


Given = Mapping[str, int | tuple[int, ...] | Array]
"""Name to a shape or an array."""

OFFSET = "mean 1e4, deviation 1"
"""bfloat16's spacing there is 64."""
KINDS: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "ordinary": lambda x, rng: x,
    "exact zeros of both signs": lambda x, rng: planted(planted(x, rng, 0.0), rng, -0.0),
    "whole numbers, ties": lambda x, rng: np.round(x),
    "constant rows": lambda x, rng: np.broadcast_to(x[..., :1], x.shape).copy() if x.ndim else x,
    OFFSET: lambda x, rng: x + 1e4,
    "large, 1e4": lambda x, rng: 1e4 * x,
    "huge, 1e15": lambda x, rng: 1e15 * x,
    "tiny, 1e-20": lambda x, rng: 1e-20 * x,
}
"""What is done to the inputs; parameters stay ordinary."""
AT_KINKS = ("exact zeros of both signs", "whole numbers, ties", "constant rows")
FAR = ("huge, 1e15", "tiny, 1e-20")
GIVEN, ONE_SAMPLE, STRIDED = "given", "one sample", "not contiguous"


def generated(
    name: str,
    inputs: Given,
    parameters: Given,
    own: Mapping[str, Mapping[str, Array]],
    without: Sequence[str],
) -> list[Case]:
    """The table, without dy; raises UsageError for names and shapes that make none."""
    if not inputs:
        raise UsageError('inputs: expected at least one, such as {"x": (32, 64)}')
    everything = {**inputs, **parameters}
    arrays_given = any(isinstance(value, np.ndarray) for value in inputs.values())
    rows: dict[str, Case] = {}
    if arrays_given:
        rows[GIVEN] = Case(name, GIVEN, {key: drawn(name, GIVEN, key, g) for key, g in everything.items()})
    movable = [key for key, given in inputs.items() if not stays(given)]
    for kind, change in KINDS.items() if movable or not arrays_given else ():
        arrays = {
            key: drawn(name, kind, key, np.shape(given) if _redrawn(key, movable, given) else given)
            for key, given in everything.items()
        }
        for key in movable:
            arrays[key] = np.asarray(change(arrays[key], generator(name, kind, key)))
        rows[kind] = Case(name, kind, arrays, optional=bool(rows))
    base = next(iter(rows.values()))
    sizes = {np.shape(base.inputs[key])[:1] for key in inputs}
    if len(sizes) == 1 and sizes != {()}:
        one = {**base.inputs, **{k: base.inputs[k][:1] for k in inputs}}
        rows[ONE_SAMPLE] = replace(base, name=ONE_SAMPLE, inputs=one, optional=True)
    rows[STRIDED] = replace(base, name=STRIDED, layout="strided", optional=True)
    for kind, some in own.items():
        unknown = set(some) - {*inputs, *parameters}
        if unknown:
            expected = sorted(base.inputs)
            raise UsageError(f"cases: {kind!r} gives {sorted(unknown)}; expected names among {expected}")
        rows[kind] = Case(name, kind, {**base.inputs, **{k: np.asarray(array) for k, array in some.items()}})
    for kind in without:
        if kind not in rows:
            raise UsageError(f"without: expected case names among {', '.join(rows)}; got {kind!r}")
    return [case for kind, case in rows.items() if kind not in without]


def stays(given: Any) -> bool:
    """Whether an input is used as it is in every case: labels, masks, and rows of probabilities."""
    if not isinstance(given, np.ndarray):
        return False
    if given.dtype.kind != "f":
        return True
    different = np.unique(given[~np.isnan(given)])
    mask = len(different) <= 2 and bool(np.isin(different, (0.0, 1.0)).any()) and given.size > 2
    if mask or not given.ndim or given.shape[-1] < 2:
        return mask
    return bool((given >= 0).all() and np.allclose(given.sum(axis=-1), 1, atol=1e-3))


def at_most_one(array: Array) -> Array:
    """The ones of an array between 0 and 1, such as targets: a larger number may be refused."""
    low, high = array.min(initial=0), array.max(initial=0)
    return np.asarray(array == 1 if low >= 0 and high <= 1 else False)


def _redrawn(key: str, movable: Sequence[str], given: Any) -> bool:
    return key in movable and isinstance(given, np.ndarray)


def drawn(name: str, kind: str, key: str, given: Any) -> Array:
    """An input: the array that is given, or normal numbers of the shape that is given."""
    if isinstance(given, np.ndarray | np.generic):
        given = np.asarray(given)
        if given.dtype.kind == "c":
            raise UsageError(f"{key}: complex arrays are not supported; give the real and imaginary parts")
        return given.astype(np.float64) if given.dtype.kind == "f" else given
    shape = (given,) if isinstance(given, int) else given
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise UsageError(f"{key}: expected a shape of sizes of at least 1, or a NumPy array, got {given!r}")
    return np.asarray(generator(name, kind, key, "values").normal(size=shape))
