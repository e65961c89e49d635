"""What an optimizer does over N steps, in NumPy arrays by name; and which number of its state is what.

A state may be nested in any way. What stands under a parameter's name (or, in a list as long as the
parameters, in its place) is that parameter's slot; a whole number or a scalar under a usual name is a step
count; a scalar under a usual name is the learning rate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import thinned
from parity.verification.place import Place
from parity.verification.side import Arrays

COUNTS = {"count", "step", "steps", "t", "n", "iteration", "iterations", "k", "num_steps"}
RATES = {"lr", "learning_rate", "rate", "eta", "step_size", "alpha_t"}
IGNORED = {"hyperparams", "hyperparams_states"}
COUNTED = 2**24
"""What a step count must reach: float32 does, float16 stops at 2,048 and bfloat16 at 256."""


class Snapshot(NamedTuple):
    """After a step."""

    parameters: Mapping[str, Any]
    state: Any
    rates: Mapping[str, float] = {}
    """Where the state does not hold them."""


Stepper = Callable[[int, Arrays], Snapshot]
"""A step's number, from 1, and gradients, to what is there after it."""
Start = Callable[[Arrays, Place], Stepper]


@lru_cache(maxsize=4096)
def _place_of(path: tuple[str, ...], names: tuple[str, ...]) -> tuple[str | None, str]:
    """Whose a leaf of a state is, and its name without that."""
    owner = next((key for part in reversed(path) for key in names if named(part, key)), None)
    rest = [_without(part, owner) for part in path if part != owner]
    return owner, ".".join(part for part in rest if part and not part.isdigit()) or "state"


@dataclass(frozen=True, eq=False)
class Updater:
    """An optimizer of either framework; each run starts from a fresh state."""

    name: str
    framework: str
    start: Start
    to_array: Callable[[Any], Array | None]
    """A leaf of a state to NumPy; None for what is no array."""


Read = Callable[[Arrays], Arrays]
"""The arrays of a port under the reference's names and as it lays them out."""


@dataclass
class History:
    """Of one run: each array has the step as its first axis."""

    parameters: dict[str, list[Array]] = field(default_factory=dict)
    slots: dict[str, dict[str, list[Array]]] = field(default_factory=dict)
    """By slot, then by parameter."""
    counts: dict[str, list[float]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    formats: dict[str, str] = field(default_factory=dict)
    """Slot or count to the dtype that it is kept in."""
    others: dict[str, dict[str, list[Array]]] = field(default_factory=dict)
    """Of a model: buffers, gradients and the output."""

    def take(
        self, found: Snapshot, shapes: Mapping[str, tuple[int, ...]], updater: Updater, read: Read = dict
    ) -> None:
        """Reads one step."""
        held = {key: updater.to_array(found.parameters[key]) for key in shapes}
        _append(self.parameters, read({key: array for key, array in held.items() if array is not None}))
        slots: dict[str, Arrays] = {}
        for path, leaf in walked(found.state, shapes, updater.to_array):
            self._leaf(path, leaf, shapes, slots)
        short = [label.rsplit(".", 1)[-1] for label in slots]
        for label, arrays in slots.items():
            last = label.rsplit(".", 1)[-1]
            _append(self.slots.setdefault(last if short.count(last) == 1 else label, {}), read(arrays))
        for label, rate in found.rates.items():
            self.rates.setdefault(label, []).append(float(rate))

    def _leaf(
        self,
        path: tuple[str, ...],
        leaf: Array,
        shapes: Mapping[str, tuple[int, ...]],
        slots: dict[str, Arrays],
    ) -> None:
        owner, label = _place_of(path, tuple(shapes))
        last = label.rsplit(".", 1)[-1]
        if leaf.size == 1 and last in RATES:
            self.rates.setdefault(last, []).append(float(leaf.reshape(())))
        elif IGNORED & set(path):
            return
        elif leaf.size == 1 and (last in COUNTS or leaf.dtype.kind in "iu"):
            known = self.counts.setdefault(".".join(path), [])
            known.append(float(leaf.reshape(())))
            if len(known) == 1:
                self.formats[f"step count {'.'.join(path)}"] = kept_in(leaf)
        else:
            if owner is None and len(shapes) == 1 and leaf.shape == next(iter(shapes.values())):
                owner = next(iter(shapes))
            if owner is not None and leaf.dtype.kind == "f" and leaf.shape == shapes[owner]:
                slots.setdefault(label, {})[owner] = leaf
                if last not in self.formats:
                    self.formats[last] = kept_in(leaf)

    def add(self, what: str, arrays: Arrays) -> None:
        """More results of a step."""
        _append(self.others.setdefault(what, {}), arrays)


def _append(kept: dict[str, list[Array]], arrays: Arrays) -> None:
    for key, array in arrays.items():
        kept.setdefault(key, []).append(thinned(key, np.asarray(array)).copy())


class Narrow(np.ndarray[Any, Any]):
    """An array that a framework keeps in a format which NumPy lacks."""

    kept: str


def kept_in(leaf: Array) -> str:
    return leaf.kept if isinstance(leaf, Narrow) else str(leaf.dtype)


def as_kept(array: Array, dtype: str) -> Array:
    """float32 values of an array that is kept in bfloat16."""
    found = array.view(Narrow)
    found.kept = dtype
    return found


def named(part: str, key: str) -> bool:
    """`w`, `m_w`, `w.m`: a state's key that holds a parameter's name."""
    return part == key or bool(re.search(rf"(^|[_./ ]){re.escape(key)}$|^{re.escape(key)}[_./ ]", part))


def _without(part: str, owner: str | None) -> str:
    if owner is None or not named(part, owner):
        return part
    return part.removesuffix(owner).removeprefix(owner).strip("_./ ")


def walked(
    tree: Any,
    shapes: Mapping[str, tuple[int, ...]],
    to_array: Callable[[Any], Array | None],
    path: tuple[str, ...] = (),
) -> Iterator[tuple[tuple[str, ...], Array]]:
    """Every array of a nested state, with its path."""
    array = to_array(tree)
    if array is not None:
        yield path, array
        return
    for key, below in _below(tree, shapes, to_array):
        yield from walked(below, shapes, to_array, (*path, *key))


def _below(
    tree: Any, shapes: Mapping[str, tuple[int, ...]], to_array: Callable[[Any], Array | None]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, below in tree.items():
            yield tuple(map(str, key)) if isinstance(key, tuple) else (str(key),), below
    elif hasattr(tree, "_fields"):
        yield from (((key,), getattr(tree, key)) for key in tree._fields)
    elif isinstance(tree, list | tuple):
        arrays = [to_array(one) for one in tree]
        each = [None if a is None else a.shape for a in arrays] == list(shapes.values()) and len(tree) > 0
        yield from (
            ((key,), one)
            for key, one in zip(shapes if each else map(str, range(len(tree))), tree, strict=False)
        )
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from (((f.name,), getattr(tree, f.name)) for f in fields(tree))
    elif hasattr(tree, "__dict__") and not callable(tree):
        yield from (((key,), below) for key, below in vars(tree).items())


@contextmanager
def during(name: str, step: int, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[None]:
    """What a stranger's function raises in this block, as one line that names side, step and shapes."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        why = (str(error).strip() or "no message").splitlines()[0]
        where = f"step {step}" if step else "the start"
        known = ", ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:6])
        raise UsageError(
            f"{name}, {where}: {type(error).__name__}: {why} (parameters and gradients {known}); "
            "fix it, or give other parameters="
        ) from error


def checked(name: str, step: int, found: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Any, Any]:
    """What an own update function returns: the parameters by name, and a state."""
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], Mapping):
        raise UsageError(
            f"{name}, step {step}: expected (parameters by name, state), got {type(found).__name__}"
            + (f" of {len(found)}" if isinstance(found, tuple) else "")
        )
    got = {key: tuple(np.shape(array)) for key, array in found[0].items()}
    if got != dict(shapes):
        raise UsageError(f"{name}, step {step}: expected parameters {dict(shapes)}, got {got}")
    return found[0], found[1]


def own_parts(name: str, given: Any) -> tuple[Callable[..., Any] | None, Callable[..., Any]]:
    """(init, update) of a function, a pair or an object."""
    if isinstance(given, tuple) and len(given) == 2 and all(callable(one) for one in given):
        return given[0], given[1]
    if callable(getattr(given, "init", None)) and callable(getattr(given, "update", None)):
        return given.init, given.update
    if callable(given):
        return None, given
    raise UsageError(f"{name}: {EXPECTED}, got {type(given).__name__}")


EXPECTED = (
    "expected an optax transformation, (transformation, extra arguments), an nnx.Optimizer, a function of "
    "the "
    "parameters by name that makes a torch optimizer (or (optimizer, scheduler), or (optimizer, step)), a "
    "function (parameters, gradients, state, step) -> (parameters, state), or a pair (init, update)"
)


def narrower(kept: str, dtype: str) -> bool:
    """Whether a slot's format has fewer digits than the judged one."""
    digits = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}
    return digits.get(kept, 53) < digits[dtype]


def counts_far(kept: str) -> bool:
    """Whether a step count in this format reaches COUNTED."""
    if kept in ("bfloat16", "float16"):
        return False
    kind = np.dtype(kept)
    return kind.kind == "f" or bool(np.iinfo(kind).max >= COUNTED)
