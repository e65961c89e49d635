"""Where each number of the original's state goes in a port, so that gradients can be told by its names.

`convert` usually transposes, slices, stacks and renames. It is called with numbered elements in place of
values, twice with different numbers: what comes out tells where each element went. An array that is a sum of
two (an LSTM's biases) is found by calling it for one array at a time. Where it computes something else (folds
a batch norm into a convolution) it cannot be told, and these gradients are not compared.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.place import Lazy

Arrays = Mapping[str, Array]
Convert = Callable[[dict[str, Array]], Arrays]
ONE_AT_A_TIME = 300
"""With more arrays than this, sums are not looked for."""


@dataclass(frozen=True, eq=False)
class Term:
    """Elements of an original array that stand in one of the port's; None: all, in order."""

    source: str
    places: Array | None = None
    """In the original array, flat."""
    targets: Array | None = None
    """In the port's array, flat."""

    @cached_property
    def repeats(self) -> bool:
        """Whether an element of the original is used more than once."""
        return self.places is not None and bool((np.bincount(self.places) > 1).any())


@dataclass(eq=False)
class Rearrangement:
    """For each of the port's arrays the elements that are added up in it."""

    terms: dict[str, tuple[Term, ...]] = field(default_factory=dict)

    def sources(self, name: str) -> set[str]:
        """The originals of which one of the port's arrays consists."""
        return {term.source for term in self.terms.get(name, ())}

    @property
    def used(self) -> set[str]:
        return {term.source for terms in self.terms.values() for term in terms}

    def forward(self, state: Arrays, own: Arrays) -> Arrays:
        """The port's state for an original's; what comes from nowhere is the port's own."""

        def made(name: str, array: Array) -> Array:
            terms = self.terms.get(name, ())
            flat = np.array(array, dtype=array.dtype).reshape(-1)
            for term in terms:
                flat[slice(None) if term.targets is None else term.targets] = 0
            for term in terms:
                flat[slice(None) if term.targets is None else term.targets] += _taken(
                    state[term.source], term.places
                )
            return flat.reshape(array.shape)

        return Lazy(own, made)

    def back(
        self, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], mean: bool = False
    ) -> Mapping[str, Array]:
        """For gradients of the port's arrays, those of the originals: sums over the places of use. With
        `mean`, for the arrays themselves: what stands in each place. Made when they are read.
        """
        uses: dict[str, list[tuple[Array, Term]]] = {}
        for name, array in arrays.items():
            for term in self.terms.get(name, ()):
                if term.source in shapes and not (
                    mean and len(self.terms[name]) > 1 and term.targets is None
                ):
                    uses.setdefault(term.source, []).append((array, term))

        def placed(source: str, used: list[tuple[Array, Term]]) -> Array:
            found = [_placed(array, term, shapes[source], mean) for array, term in used]
            return found[-1] if mean else functools.reduce(np.add, found)

        return Lazy(uses, placed)


def _placed(array: Array, term: Term, shape: tuple[int, ...], mean: bool) -> Array:
    flat = array.reshape(-1)
    part = flat if term.targets is None else flat[term.targets]
    if term.places is None:
        return part.reshape(shape)
    placed = np.zeros(int(np.prod(shape)), array.dtype)
    if mean or not term.repeats:
        placed[term.places] = part
    else:
        np.add.at(placed, term.places, part)
    return placed.reshape(shape)


def _taken(array: Array, places: Array | None) -> Array:
    flat = array.reshape(-1)
    return flat if places is None else flat[places]


def ordered(places: Array, size: int) -> Array | None:
    """None for all of an array in order."""
    flat = places.reshape(-1)
    if flat.size == size and (size == 0 or (flat[0] == 0 and bool((np.diff(flat) == 1).all()))):
        return None
    return flat.astype(np.int32 if size < 2**31 else np.int64)


def traced(convert: Convert, state: Arrays) -> tuple[Rearrangement, list[str]]:
    """And the port's arrays that are no rearrangement of floating originals."""
    shapes = {key: array.shape for key, array in state.items() if array.dtype.kind == "f"}
    starts = np.cumsum([1, *(int(np.prod(shape)) for shape in shapes.values())])
    if not shapes:
        return Rearrangement(), []

    def numbered(scale: int, shift: int) -> dict[str, Array]:
        numbers = {
            key: np.arange(start, start + int(np.prod(shape)), dtype=np.float64).reshape(shape)
            for (key, shape), start in zip(shapes.items(), starts, strict=False)
        }
        for array in numbers.values() if (scale, shift) != (1, 0) else ():
            array *= scale
            array += shift
        return {**state, **numbers}

    try:
        once = {key: _numbers(array, int(starts[-1])) for key, array in convert(numbered(1, 0)).items()}
        twice = convert(numbered(2, 1))
    except Exception:
        return Rearrangement(), [""]
    made, untold = Rearrangement(), []
    names = list(shapes)
    for key, places in once.items():
        again = twice[key]
        if again.dtype.kind != "f":
            continue
        if places is None or places.shape != again.shape:
            untold.append(key)
            continue
        moved = again == 2.0 * places + 1
        if moved.all():
            made.terms[key] = tuple(_terms(places, names, starts))
        elif not (moved | (again == places)).all() or moved.any():
            untold.append(key)
    if len(untold) > 0 and len(shapes) <= ONE_AT_A_TIME:
        untold = _sums(convert, state, shapes, made, untold)
    return made, untold


def _numbers(array: Array, end: int) -> Array | None:
    """Whole numbers as integers; None for what is not."""
    if array.dtype.kind != "f" or array.size == 0:
        return np.zeros(array.shape, np.int64)
    if not (array == np.round(array)).all() or (np.abs(array) >= max(end, 2)).any():
        return None
    return np.asarray(array.astype(np.int32 if end < 2**31 else np.int64))


def _terms(places: Array, names: Sequence[str], starts: Array) -> Iterable[Term]:
    flat = places.reshape(-1)
    first, last = (int(np.searchsorted(starts, f(flat), "right")) - 1 for f in (np.min, np.max))
    for i in range(first, last + 1):
        inside = (flat >= starts[i]) & (flat < starts[i + 1])
        if inside.any():
            targets = None if inside.all() else np.flatnonzero(inside)
            size = int(starts[i + 1] - starts[i])
            yield Term(names[i], ordered(flat[inside] - starts[i], size), targets)


def _sums(
    convert: Convert,
    state: Arrays,
    shapes: Mapping[str, tuple[int, ...]],
    made: Rearrangement,
    untold: list[str],
) -> list[str]:
    """Fills in arrays that are sums of rearrangements; returns those that are not even that."""
    zero = {**state, **{key: np.zeros(shape) for key, shape in shapes.items()}}
    parts: dict[str, list[Term]] = {key: [] for key in untold}
    try:
        base = convert(dict(zero))
        for source, shape in shapes.items():
            size = int(np.prod(shape))
            numbers = np.arange(1, size + 1, dtype=np.float64).reshape(shape)
            found = convert({**zero, source: numbers})
            for key in untold:
                if (found[key] == base[key]).all():
                    continue
                places = _numbers(found[key], size + 1)
                if places is None or (places == 0).any() or base[key].any():
                    parts.pop(key, None)
                elif key in parts:
                    parts[key].append(Term(source, ordered(places - 1, size)))
        everything = {**state, **{key: np.ones(shape) for key, shape in shapes.items()}}
        total = convert(everything)
    except Exception:
        return untold
    for key, terms in parts.items():
        if terms and (total[key] == len(terms)).all():
            made.terms[key] = tuple(terms)
    return [key for key in untold if key not in made.terms]
