"""A reference model measured: its values, and how far rounding moves each, as in `estimate`.

All that moves is moved at once: inputs, parameters, and the upstream gradient. float32 is judged at the first
of the perturbed inputs, which float32 holds and where the reference has been evaluated in both formats
already. The noise is kept from call to call: a second port of the same reference does not measure it again.
"""

from __future__ import annotations

import ctypes
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.verification.adapters import thinned
from parity.verification.casts import UNCUT, Cuts
from parity.verification.estimate import (
    STUDENT,
    Noise,
    Scatter,
    largest,
    measured_in,
    moved,
    nearer,
    spread,
    width,
    with_underflow,
)
from parity.verification.place import Device, Lazy, Outputs, Place
from parity.verification.side import Side, Trace, shown

LARGE, FEW, SAMPLES = 1_000_000, 2, 16
"""With so many parameters the noise is an average over very many numbers, and fewer samples do."""
LEAST = 4
KEPT = 8


@dataclass(frozen=True, eq=False)
class Point:
    """Where a model is evaluated."""

    state: Mapping[str, Array]
    inputs: Mapping[str, Array]
    dy: Array

    def each(self, change: Callable[[str, Array], Array]) -> Point:
        return Point(
            Lazy(self.state, change),
            {key: change(key, array) for key, array in self.inputs.items()},
            change("dy", self.dy),
        )

    def in_format(self, dtype: str) -> Point:
        r = rounding(dtype)
        return self.each(lambda _, a: r.nearest(a) if a.dtype.kind == "f" else a)


@dataclass(frozen=True, eq=False)
class Measured:
    """Of one case in one format."""

    point: Point
    values: Outputs
    own: Outputs
    """In the format itself."""
    noise: Noise
    wider: bool


def evaluate(side: Side, point: Point, place: Place, read: Callable[[Trace], Outputs]) -> Outputs:
    inputs = {key: array.copy() for key, array in point.inputs.items()}
    with np.errstate(all="ignore"):
        found = read(side.run(point.state, inputs, point.dy, place))
    give_back()
    return found


def give_back() -> None:
    """Freed memory to the system, where glibc keeps it in pieces: twice a large model's size, and more."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def reading(trace: Trace) -> Outputs:
    """A reference's trace as quantities: activations, the output, gradients, buffers that a pass changes."""
    calls = trace.activations
    found = {shown(call, calls): thinned(call, array) for call, array in calls.items()}
    found["output"] = trace.output
    found |= {f"d{key}": gradient for key, gradient in trace.inputs.items()}
    found |= {f"d{shown(call, calls)}": thinned(call, g) for call, g in trace.gradients.items()}
    found |= {f"d{key}": thinned(key, gradient) for key, gradient in trace.parameters.items()}
    return found | {f"{key} after": array for key, array in trace.buffers.items()}


_known: OrderedDict[Any, Noise] = OrderedDict()


def measure(
    side: Side, point: Point, centre: Outputs, dtypes: Sequence[str], device: Device, samples: int
) -> dict[str, Measured]:
    """One case in each format, from its values in float64; noise that is known is not measured again."""
    found = {}
    for narrow in dict.fromkeys(map(measured_in, dtypes)):
        r, key = rounding(narrow), fingerprint(side, point, narrow, device)
        wide64, place = Place("float64", device), Place(narrow, device)
        known, scatter = _known.get(key), Scatter(centre, r)
        wide: Outputs = {}
        own: Outputs = {}
        perturbed = point
        for k in reversed(range(1 if known is not None else samples)):  # the first last: it is kept
            perturbed = point.each(partial(_moved, r, k))
            if known is None or narrow in dtypes:
                wide = evaluate(side, perturbed, wide64, reading)
                own = evaluate(side, perturbed.in_format(narrow), place, reading)
            if known is None:
                scatter.add(wide, evaluate(side, _between(point, perturbed), wide64, reading), own)
        noise = _known[key] = scatter.noise() if known is None else known
        if len(_known) > KEPT:
            _known.popitem(last=False)
        if "float64" in dtypes and "float64" not in found:
            found["float64"] = Measured(point, centre, centre, noise, False)
        if narrow in dtypes:
            found[narrow] = Measured(perturbed, wide, own, noise, True)
    return found


def remember(side: Side, point: Point, narrow: str, device: Device, noise: Noise) -> None:
    """Noise that was measured elsewhere."""
    _known[fingerprint(side, point, narrow, device)] = noise


def coarseness(
    read: Callable[[Point, Place], Outputs],
    port: Callable[[Point, Place], Outputs],
    point: Point,
    dtype: str,
    device: Device,
    samples: int,
) -> dict[str, float]:
    """How far a port's rounding moves its results, in units of u: in the narrow format, against the reference
    in float64, at perturbed inputs other than the judged ones.
    """
    narrow = measured_in(dtype)
    r, squares = rounding(narrow), dict[str, list[float]]()
    for k in range(1, max(samples, LEAST)):
        perturbed = point.each(partial(_moved, r, k))
        wide, own = read(perturbed, Place("float64", device)), port(perturbed, Place(narrow, device))
        for key, value in wide.items():
            if key in own and own[key].shape == value.shape:
                with np.errstate(all="ignore"):
                    scale = largest(value)
                    squares.setdefault(key, []).append(scale**2 * spread((own[key] - value) / scale))
    return {key: float(np.sqrt(np.mean(found))) / r.u for key, found in squares.items()}


def _moved(r: Rounding, k: int, name: str, array: Array) -> Array:
    return moved(array, r, k, name)


def _between(point: Point, there: Point) -> Point:
    rest = {**there.inputs, "dy": there.dy}
    return point.each(lambda key, a: nearer(a, rest[key] if key in rest else there.state[key]))


def fingerprint(side: Side, point: Point, dtype: str, device: Device) -> Any:
    """Equal where nothing that the noise depends on differs."""
    arrays = (*point.state.items(), *point.inputs.items(), ("dy", point.dy))
    sums = [(key, array.shape, zlib.crc32(np.ascontiguousarray(array).data)) for key, array in arrays]
    return side.told, side.framework, dtype, device, tuple(sums)


def limits(
    measured: Measured, dtype: str, cut: Cuts = UNCUT, blurred: Outputs | None = None
) -> dict[str, Bounded]:
    """As `estimate.limits`, of values that are there already."""
    r, found = rounding(dtype), {}
    for key, value in measured.values.items():
        alone = key in measured.noise.by_format and dtype != "float64"
        value = measured.own[key].astype(np.float64) if alone else value
        size = np.abs(value).astype(np.float64)
        limit = width(size, measured.noise[key], r, cut.get(key), measured.wider and not alone)
        if blurred is not None:
            with np.errstate(invalid="ignore", over="ignore"):
                apart = np.abs(blurred[key] - value).astype(np.float64)
                spread = np.mean(np.square(apart[np.isfinite(apart)])) if apart.size else 0.0
                limit = limit + STUDENT * float(np.sqrt(spread))
        limit = with_underflow(limit, size, r)
        finite = np.isfinite(measured.own[key])
        limit = np.where(finite, np.where(np.isfinite(limit) & np.isfinite(value), limit, np.inf), 0.0)
        found[key] = Bounded(np.where(finite, value, measured.own[key]).astype(r.truth), limit, r)
    return found
