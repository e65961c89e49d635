"""Which layer of the port computes what a layer of the original computes, and with its axes in which order.

Layers that call on parameters are known by them: two layers that hold the same ones belong together. Others
(activation functions, pooling) are paired where their values agree. An explicit map goes before all of this.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.rearrangement import Rearrangement
from parity.verification.side import Side, Trace, asked, path_of, shown

NEAR = 1e-6
"""Of the largest element: closer than other layers come, whatever the rounding."""


@dataclass(frozen=True)
class Pair:
    """A call of the original's and the port's."""

    theirs: str
    own: str
    how: str
    axes: tuple[int, ...] | None = None
    """Where the original's axes are in the port's; None: nowhere, the shapes do not fit."""

    def to_theirs(self, array: Array) -> Array:
        return array if self.axes is None else array.transpose(self.axes)

    def to_own(self, array: Array) -> Array:
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


def paired(
    reference: Side, port: Side, ours: Trace, ported: Trace, found: Rearrangement, given: Mapping[str, str]
) -> list[Pair]:
    """In the order of the original's calls."""
    theirs, own = ours.activations, ported.activations
    turned = reference.channels_last != port.channels_last
    pairs: dict[str, tuple[str, str]] = {}
    for a, b in given.items():
        call = asked(a, reference.name, theirs)
        pairs[call] = asked(b, port.name, own), "as given"
    if not (port.traced and reference.traced):
        by_name = {shown(call, own): call for call in own}
        for call in theirs:
            if (name := shown(call, theirs)) in by_name and not given:
                pairs.setdefault(call, (by_name[name], "by name"))
    else:
        parameters = {*ours.parameters, *ours.buffers}
        groups = _groups(
            theirs, lambda path: {name for name in parameters if name.startswith(f"{path}.")}, pairs
        )
        taken = {one for one, _ in pairs.values()}
        others = _groups(own, lambda path: _sources(found, path), taken)
        for key in groups.keys() & others.keys():
            how = "by parameters" if key[0] else "by value"
            for one, other in _matched(groups[key], others[key], theirs, own, turned, only_near=not key[0]):
                pairs[one] = other, how
        for key in [key for key in groups if key not in others and key[0]]:
            free = [k for k in others if k not in groups and k[1] == key[1] and k[0] & key[0]]
            near = max(free, key=lambda k: len(k[0] & key[0]) / len(k[0] | key[0]), default=None)
            if near is not None and 2 * len(near[0] & key[0]) >= len(near[0] | key[0]):
                pairs[groups[key][0]] = others.pop(near)[0], "by some of its parameters"
    return [
        Pair(call, *pairs[call], _axes(theirs[call], own[pairs[call][0]], turned))
        for call in theirs
        if call in pairs
    ]


Key = tuple[frozenset[str], str]


def _groups(
    calls: Mapping[str, Array], held: Callable[[str], set[str]], taken: object
) -> dict[Key, list[str]]:
    """Calls by the original's arrays below them, and which call and part it is."""
    found: dict[Key, list[str]] = {}
    for call in calls:
        if call not in taken:  # type: ignore[operator]
            below = frozenset(held(path_of(call)))
            found.setdefault((below, call.partition("[")[2] if below else ""), []).append(call)
    return found


def _sources(found: Rearrangement, path: str) -> set[str]:
    held: set[str] = set()
    for name in found.terms:
        if name.startswith(f"{path}."):
            held |= found.sources(name)
    return held


def _matched(
    a: list[str],
    b: list[str],
    theirs: Mapping[str, Array],
    own: Mapping[str, Array],
    turned: bool,
    only_near: bool,
) -> list[tuple[str, str]]:
    if not only_near and len(a) == len(b):
        return list(zip(a, b, strict=True))
    free, found = list(b), []
    for one in a:
        near = [
            other
            for other in free
            if (axes := _axes(theirs[one], own[other], turned)) is not None
            and _apart(theirs[one], own[other].transpose(axes)) < NEAR
        ]
        named = [b for b in free if path_of(b).rpartition(".")[2] == path_of(one).rpartition(".")[2]]
        near = near or ([] if only_near else named[:1])
        other = near[0] if near else None if only_near or len(a) > 1 else free[-1] if free else None
        if other is not None:
            found.append((one, other))
            free.remove(other)
    return found


def _axes(theirs: Array, own: Array, turned: bool) -> tuple[int, ...] | None:
    """As habit has it, unless other axes give the same values."""
    n = theirs.ndim
    if own.ndim != n:
        return None
    habit = tuple(range(n))
    if turned and n > 3:
        first, last = (0, n - 1, *range(1, n - 1)), (0, *range(2, n), 1)
        fits = [axes for axes in (first, last) if own.transpose(axes).shape == theirs.shape]
        habit = fits[0] if fits else habit
    all_of = itertools.permutations(range(n)) if n < 6 else [habit]
    fitting = [axes for axes in (habit, *all_of) if own.transpose(axes).shape == theirs.shape]
    if not fitting:
        return None
    for axes in dict.fromkeys(fitting):
        if len(fitting) > 2 and _apart(theirs, own.transpose(axes)) < NEAR:
            return axes
    return fitting[0]


def _apart(a: Array, b: Array) -> float:
    """The largest difference, of the largest element."""
    with np.errstate(all="ignore"):
        size = float(np.max(np.abs(a), initial=0.0))
        return float(np.max(np.abs(a - b), initial=0.0)) / (size or 1.0)
