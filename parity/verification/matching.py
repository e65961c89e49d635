"""Which of a port's arrays hold which of the original's, where no `convert` says so.

First by value: an array that is the original's with its axes in another order, or whose rows are rows of it
(a fused projection taken apart, gates in another order, the inputs of a layer behind a flatten), or that is
the sum of two (an LSTM's biases). What is constant (a scale of 1, a shift of 0) or differs goes by its layer:
layers that call on parameters are aligned in the order of their calls, by the values found in them, by the
sizes of their arrays and by their names; in a layer weights go to weights and biases to biases.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.rearrangement import Rearrangement, Term, ordered

Arrays = Mapping[str, Array]
ROLES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
"""Flax's names of arrays to torch's."""


@dataclass
class Match:
    """What was found, and how."""

    map: Rearrangement = field(default_factory=Rearrangement)
    by_value: set[str] = field(default_factory=set)
    differing: list[str] = field(default_factory=list)
    """The port's arrays that have a counterpart with other values."""
    alone: list[str] = field(default_factory=list)
    """The port's arrays without a counterpart."""

    @property
    def loaded(self) -> bool:
        """Whether the port has the original's values."""
        return bool(self.by_value) or not self.differing


def matched(theirs: Arrays, own: Arrays, their_order: Sequence[str], own_order: Sequence[str]) -> Match:
    """Of the original's state and the port's, both with the paths of their layers in the order of calls."""
    theirs = {key: array for key, array in theirs.items() if array.dtype.kind == "f"}
    own = {key: array for key, array in own.items() if array.dtype.kind == "f"}
    found = Match()
    rows = _Rows(theirs)
    for key, array in own.items():
        if array.size and not (array == array.reshape(-1)[0]).all():
            terms = _by_axes(key, array, theirs, found.map) or rows.terms(array) or _by_sum(array, theirs)
            if terms:
                found.map.terms[key] = terms
                found.by_value.add(key)
    _by_layer(found, theirs, own, their_order, own_order)
    return found


def _by_axes(key: str, array: Array, theirs: Arrays, done: Rearrangement) -> tuple[Term, ...]:
    """The original with its axes in another order; of equal ones the first that is free."""
    equal = []
    for name, other in theirs.items():
        if other.size == array.size and (places := _axes(other, array)) is not None:
            equal.append((name in done.used, name.split(".")[-1] != key.split(".")[-1], name, places))
    if not equal:
        return ()
    _, _, name, places = min(equal, key=lambda found: found[:2])
    return (Term(name, ordered(places, array.size)),)


def _axes(other: Array, array: Array) -> Array | None:
    for axes in sorted(
        itertools.permutations(range(other.ndim)), key=lambda p: p != tuple(range(other.ndim))
    ):
        turned = other.transpose(axes)
        same_shape = turned.shape == array.shape or other.ndim != array.ndim
        if not same_shape or turned.reshape(-1)[0] != array.reshape(-1)[0]:
            continue
        if np.array_equal(turned.reshape(array.shape), array):
            numbers = np.arange(array.size, dtype=np.int32).reshape(other.shape)
            return np.asarray(numbers.transpose(axes).reshape(-1))
    return None


class _Rows:
    """Finds arrays that consist of rows, or columns, of the originals."""

    def __init__(self, theirs: Arrays) -> None:
        self.theirs, self.known = theirs, dict[int, dict[bytes, tuple[str, Array]]]()

    def terms(self, array: Array) -> tuple[Term, ...]:
        for matrix, targets in _matrices(array):
            known = self._of_length(matrix.shape[1])
            found = [known.get(row.tobytes()) for row in matrix]
            if all(found) and len({id(one[1]) for one in found if one}) == len(found):
                return tuple(self._gathered([one for one in found if one], targets))
        return ()

    def _gathered(self, found: list[tuple[str, Array]], targets: Array) -> Iterator[Term]:
        for name in dict.fromkeys(name for name, _ in found):
            mine = [i for i, (other, _) in enumerate(found) if other == name]
            places = np.concatenate([found[i][1] for i in mine])
            at = np.concatenate([targets[i] for i in mine])
            whole = ordered(np.sort(at), targets.size) is None
            if whole:
                places, size = places[np.argsort(at)], self.theirs[name].size
                yield Term(name, ordered(places, size))
            else:
                yield Term(name, places, at)

    def _of_length(self, length: int) -> dict[bytes, tuple[str, Array]]:
        """Each row of this length to its array and places; rows that occur twice are left out."""
        if length not in self.known:
            rows: dict[bytes, tuple[str, Array]] = {}
            twice = set()
            for name, array in self.theirs.items():
                for matrix, places in _matrices(array):
                    if matrix.shape[1] == length:
                        for row, at in zip(matrix, places, strict=True):
                            told = row.tobytes()
                            if told in rows and not np.array_equal(rows[told][1], at):
                                twice.add(told)
                            rows.setdefault(told, (name, at))
            self.known[length] = {told: one for told, one in rows.items() if told not in twice}
        return self.known[length]


def _matrices(array: Array) -> Iterator[tuple[Array, Array]]:
    """An array as matrices, rows and columns, and the places of their elements in it."""
    numbers = np.arange(array.size, dtype=np.int32)
    sizes = {int(np.prod(array.shape[:k])) for k in range(1, array.ndim)} or {array.size}
    for first in sorted(sizes):
        shape = first, array.size // first
        yield array.reshape(shape), numbers.reshape(shape)
        if array.ndim > 1:
            yield np.ascontiguousarray(array.reshape(shape).T), numbers.reshape(shape).T


def _by_sum(array: Array, theirs: Arrays) -> tuple[Term, ...]:
    """The sum, or a slice of the sum, of two originals of one shape."""
    if array.ndim > 1:
        return ()
    flat = [(name, other) for name, other in theirs.items() if other.ndim == 1 and other.size >= array.size]
    for (a, one), (b, other) in itertools.combinations(flat, 2):
        if one.size != other.size:
            continue
        near = np.abs((one + other)[:, None] - array[:1]) <= 1e-6 * np.abs(array[0])
        for start in np.flatnonzero(near[:, 0]):
            piece = slice(start, start + array.size)
            if np.allclose((one + other)[piece], array, rtol=1e-6, atol=0) and len(one[piece]) == array.size:
                places = ordered(np.arange(start, start + array.size), one.size)
                return Term(a, places), Term(b, places)
    return ()


def _by_layer(
    found: Match, theirs: Arrays, own: Arrays, their_order: Sequence[str], own_order: Sequence[str]
) -> None:
    """The rest, layer by layer."""
    used = found.map.used
    layers = aligned(_layers(theirs, their_order), _layers(own, own_order), found.map)
    for key in own:
        if key in found.map.terms:
            continue
        there = layers.get(key.rpartition(".")[0])
        unused = [name for name in theirs if name not in used]
        free = [name for name in unused if there is None or name.rpartition(".")[0] == there]
        alike = [name for name in free if role(name) == role(key)]
        fitting = [name for name in unused if theirs[name].size == own[key].size]
        free = alike or [name for name in free if name in fitting] or (fitting if len(fitting) == 1 else [])
        places = next(
            ((name, p) for name in free if (p := _laid_out(theirs[name], own[key], key)) is not None), None
        )
        if places is None:
            found.alone.append(key)
            continue
        term = Term(places[0], ordered(places[1], own[key].size))
        found.map.terms[key] = (term,)
        used.add(places[0])
        if not np.allclose(own[key], _value(theirs, term, own[key]), rtol=1e-6, atol=0):
            found.differing.append(key)


def _value(theirs: Arrays, term: Term, own: Array) -> Array:
    flat = theirs[term.source].reshape(-1)
    return (flat if term.places is None else flat[term.places]).reshape(own.shape)


def role(name: str) -> str:
    """An array's, in torch's words."""
    last = name.rpartition(".")[2]
    return ROLES.get(last, last)


def _laid_out(other: Array, own: Array, key: str) -> Array | None:
    """The places of an original in the port's layout, by the habits of frameworks."""
    numbers = np.arange(other.size, dtype=np.int32).reshape(other.shape)
    if other.size != own.size:
        return None
    kernel = key.endswith("kernel") and other.ndim > 1
    habits = [(*range(2, other.ndim), 1, 0)] if kernel else [tuple(range(other.ndim))]
    for axes in (*habits, *itertools.permutations(range(other.ndim))):
        if numbers.transpose(axes).shape == own.shape:
            return np.asarray(numbers.transpose(axes).reshape(-1))
    return np.asarray(numbers.reshape(-1)) if own.ndim != other.ndim and not kernel else None


def _layers(arrays: Arrays, order: Sequence[str]) -> dict[str, list[str]]:
    """Layers that have arrays of their own, in the order of calls; then the rest."""
    layers: dict[str, list[str]] = {}
    for key in arrays:
        layers.setdefault(key.rpartition(".")[0], []).append(key)
    known = [path for path in dict.fromkeys(order) if path in layers]
    return {path: layers[path] for path in dict.fromkeys([*known, *layers])}


def aligned(
    theirs: Mapping[str, list[str]], own: Mapping[str, list[str]], found: Rearrangement
) -> dict[str, str]:
    """The port's layers to the original's, in order, by the most that they have in common."""
    a, b = list(theirs), list(own)
    best = np.zeros((len(a) + 1, len(b) + 1))
    alike = np.zeros((len(a), len(b)))
    for i, j in itertools.product(range(len(a)), range(len(b))):
        names = theirs[a[i]]
        values = sum(bool(found.sources(key) & set(names)) for key in own[b[j]])
        roles = {role(key) for key in names} == {role(key) for key in own[b[j]]}
        alike[i, j] = 4 * values + 2 * roles + (a[i].rpartition(".")[2] == b[j].rpartition(".")[2])
        alike[i, j] -= 0 if values or roles else 3
    for i, j in itertools.product(range(len(a)), range(len(b))):
        best[i + 1, j + 1] = max(best[i, j + 1], best[i + 1, j], best[i, j] + max(alike[i, j], 0))
    pairs, i, j = {}, len(a), len(b)
    while i and j:
        if best[i, j] == best[i - 1, j - 1] + alike[i - 1, j - 1] and alike[i - 1, j - 1] > 0:
            i, j = i - 1, j - 1
            pairs[b[j]] = a[i]
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return pairs
