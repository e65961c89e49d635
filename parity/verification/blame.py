"""Which layers of a port are wrong by their own doing, and which only inherit a difference.

In one pass every layer's output is replaced by what the reference computed, and the gradient that comes back
to it by the reference's. What a layer makes of right inputs and a right upstream gradient is its own doing:
its output, the gradients of its parameters, and the gradient that it sends back. What goes into a layer is
compared, too: if that differs although the layers before gave what is right, it is their parent's code.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from parity.bounds.rounding import Array, rounding
from parity.verification.joined import Joined
from parity.verification.measured import Point, reading
from parity.verification.pairing import Pair
from parity.verification.place import Place
from parity.verification.side import Trace, path_of, shown

WHOLE = "the model itself"
NEAR = 2.0**12
"""So many times the unit roundoff, of the largest element: what goes into a layer is the same."""


@dataclass(frozen=True)
class Blame:
    """A layer, and what is wrong in it."""

    layer: str
    what: str

    def line(self) -> str:
        return f"{self.layer}: {self.what}"


def blamed(
    joined: Joined,
    ours: Trace,
    state: Mapping[str, Array],
    point: Point,
    place: Place,
    limits: Mapping[str, Array],
    compared: Sequence[str],
) -> list[Blame]:
    """In the order of the reference's calls; wrong gradients only where all that goes forward is right."""
    fitting = [p for p in joined.pairs if p.axes is not None and p.theirs in ours.gradients]
    forced = {
        p.own: (p.to_own(ours.activations[p.theirs]), p.to_own(ours.gradients[p.theirs])) for p in fitting
    }
    with np.errstate(all="ignore"):
        trace = joined.port.run(state, joined.inputs(point.inputs), point.dy, place, forced)
    found, right = joined.read(trace), reading(ours)
    off = {key for key in compared if key in found and _off(found[key], right[key], limits[key])}
    forward = [p for p in joined.pairs if shown(p.theirs, joined.calls) in off]
    near = NEAR * rounding(place.dtype).u
    blames = [_of_layer(joined, pair, ours, trace, near) for pair in forward]
    loose = {path_of(p.theirs) for p in joined.pairs if p not in fitting}  # whose mistakes go on to the next
    inner = [b for b in blames if not any(_below(path, b.layer) for path in loose)]
    if "output" in off and not inner:
        last = f" after {shown(joined.pairs[-1].theirs, joined.calls)}" if joined.pairs else ""
        inner.append(Blame(WHOLE, f"differs{last}, where everything before is right"))
    if not inner:
        inner = _backward(joined, ours, off)
    after = [key for key in compared if key.endswith(" after") and key in off]
    layers: dict[str, list[str]] = {}
    for key in after if not forward else ():
        path, _, name = key.removesuffix(" after").rpartition(".")
        layers.setdefault(path, []).append(name)
    inner += [Blame(path, f"{' and '.join(names)} differ after the pass") for path, names in layers.items()]
    return list(dict.fromkeys(inner))


def _off(found: Array, right: Array, limit: Array) -> bool:
    if found.shape != right.shape:
        return True
    with np.errstate(all="ignore"):
        wrong = np.abs(found - right) > limit
    return bool((wrong | (np.isfinite(found) != np.isfinite(right))).any())


def _of_layer(joined: Joined, pair: Pair, ours: Trace, trace: Trace, near: float) -> Blame:
    """The layer, or what its parent hands it."""
    name, path = shown(pair.theirs, joined.calls), path_of(pair.theirs)
    if pair.axes is None:
        theirs, own = ours.activations[pair.theirs].shape, trace.activations[pair.own].shape
        return Blame(name, f"shape {own}, expected {theirs}")
    if not any(p.theirs.startswith(f"{path}.") for p in joined.pairs):  # its inside would show it better
        above = _misled(joined, ours, trace, path, near)
        if above != path:
            what = f"what goes into {name} differs, where every layer before it is right"
            return Blame(above or WHOLE, what)
    return Blame(name, "differs on the reference's own input")


def _misled(joined: Joined, ours: Trace, trace: Trace, path: str, near: float) -> str:
    """The layer itself, if what goes into it is right; else the nearest above it that is fed rightly."""
    calls = {path_of(pair.theirs): pair for pair in reversed(joined.pairs)}
    while path:
        given, wanted = (
            (trace.entries.get(calls[path].own), ours.entries.get(calls[path].theirs))
            if path in calls
            else (None, None)
        )
        if path in calls and (given is None or wanted is None or _same(given, wanted, near)):
            return path
        path = path.rpartition(".")[0]
    return path


def _same(given: Array, wanted: Array, near: float) -> bool:
    """Near enough, in whatever order of axes; flattened images in whatever order of pixels."""
    if given.size != wanted.size:
        return False
    size = near * float(np.max(np.abs(wanted), initial=0.0))
    if given.ndim == wanted.ndim == 2:
        given, wanted = np.sort(given, axis=-1), np.sort(wanted, axis=-1)
    orders = itertools.permutations(range(given.ndim)) if given.ndim < 6 else [tuple(range(given.ndim))]
    turned = (given.transpose(axes) for axes in orders)
    return any(one.shape == wanted.shape and np.allclose(one, wanted, rtol=0, atol=size) for one in turned)


def _below(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer}.")


def _backward(joined: Joined, ours: Trace, off: set[str]) -> list[Blame]:
    """Gradients that are wrong although all values are right: something is detached, or has its own rule."""
    found = []
    for pair in reversed(joined.pairs):
        name = shown(pair.theirs, joined.calls)
        if f"d{name}" in off:
            what = f"it, or what leads to it, sends a wrong gradient back to {name}; all values are right"
            found.append(
                Blame(_behind(joined, ours, path_of(pair.theirs), ours.activations[pair.theirs]), what)
            )
    owners = [key.rpartition(".")[0] or WHOLE for key in ours.parameters if f"d{key}" in off]
    found += [Blame(owner, "the gradients of its parameters differ on right inputs") for owner in owners]
    found += [
        Blame(WHOLE, f"the gradient of {key} differs, and all values are right")
        for key in ours.inputs
        if f"d{key}" in off
    ]
    return found


def _behind(joined: Joined, ours: Trace, path: str, value: Array) -> str:
    """The outermost layer that takes this value; or the parent, whose code takes it."""
    takes = [
        path_of(p.theirs)
        for p in joined.pairs
        if path_of(p.theirs) != path
        and (entry := ours.entries.get(p.theirs)) is not None
        and entry.shape == value.shape
        and np.array_equal(entry, value)
    ]
    outermost = [one for one in takes if not any(_below(one, other) for other in takes)]
    return outermost[0] if outermost else path.rpartition(".")[0] or WHOLE
