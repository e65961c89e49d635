"""A reference and a port put together: which parameters, layers and axes belong to which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.adapters import CallFailed, thinned, with_aliases
from parity.verification.matching import Match, matched
from parity.verification.pairing import Pair, paired
from parity.verification.place import Inputs, Outputs
from parity.verification.rearrangement import Rearrangement, traced
from parity.verification.side import Arrays, Side, Trace, path_of, shown

Convert = Callable[[dict[str, Array]], Any]


@dataclass(eq=False)
class Joined:
    """What is known of how two sides belong together."""

    reference: Side
    port: Side
    convert: Convert | None
    turned: frozenset[str]
    """Inputs that the port takes with channels last and the reference first, or the reverse."""
    map: Rearrangement
    untold: frozenset[str]
    """Parameters of the reference whose gradients are not compared."""
    match: Match | None
    """What was matched by value, where there is no `convert`."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of the reference's floating arrays."""
    pairs: list[Pair] = field(default_factory=list)
    calls: Mapping[str, Array] = field(default_factory=dict)
    """The reference's."""

    def state(self, state: Inputs) -> Inputs:
        """The port's, for one of the reference's. A port keeps what differs from the reference's."""
        if self.convert is not None:
            with self.port.within():
                return self.port.flatten(self.convert(with_aliases(state, self.reference.aliases)))
        own = self.port.state()
        assert self.match is not None
        kept = set(self.match.differing) if self.match.loaded else set()
        found = Rearrangement({key: t for key, t in self.map.terms.items() if key not in kept})
        return found.forward(state, own)

    def inputs(self, inputs: Inputs) -> Arrays:
        return {key: self._turned(key, array, 1, -1) for key, array in inputs.items()}

    def _turned(self, key: str, array: Array, channel: int, there: int) -> Array:
        if key not in self.turned:
            return array
        if self.reference.channels_last:
            channel, there = there, channel
        return np.moveaxis(array, channel, there)

    def pair(self, ours: Trace, ported: Trace, layers: Mapping[str, str]) -> None:
        """From the traces of one pass of each."""
        self.calls = ours.activations
        self.pairs = paired(self.reference, self.port, ours, ported, self.map, layers)

    def compared(self, ours: Trace, parameters: bool = True) -> list[str]:
        """The quantities that both have."""
        names = [shown(pair.theirs, self.calls) for pair in self.pairs]
        graded = [shown(p.theirs, self.calls) for p in self.pairs if p.theirs in ours.gradients]
        traced_both = self.reference.traced and self.port.traced
        told = [key for key in ours.parameters if key not in self.untold]
        return [
            *names,
            "output",
            *(f"d{key}" for key in ours.inputs),
            *(f"d{key}" for key in graded if traced_both),
            *(f"d{key}" for key in told),
        ]

    def read(self, trace: Trace) -> Outputs:
        """A port's trace as the reference's quantities."""
        found: Outputs = {}
        for pair in self.pairs:
            name = shown(pair.theirs, self.calls)
            found[name] = thinned(pair.theirs, pair.to_theirs(trace.activations[pair.own]))
            if pair.own in trace.gradients:
                found[f"d{name}"] = thinned(pair.theirs, pair.to_theirs(trace.gradients[pair.own]))
        found["output"] = trace.output
        found |= {f"d{key}": self._turned(key, g, -1, 1) for key, g in trace.inputs.items()}
        if trace.whole:
            back = self.map.back(trace.parameters, self.shapes)
            dtype = trace.output.dtype
            for key in self.reference.parameters or self.shapes:
                gradient = back.get(key)
                found[f"d{key}"] = thinned(
                    key, np.zeros(self.shapes[key], dtype) if gradient is None else gradient.astype(dtype)
                )
        after = self.map.back(trace.buffers, self.shapes, mean=True)
        return found | {f"{key} after": array for key, array in after.items()}

    def told(self) -> list[str]:
        """The map that was used, a line for each layer; then what has no counterpart."""
        if not self.pairs:
            return []
        calls = self.calls
        lines = [f"  {shown(p.theirs, calls)} = {p.own.replace('[0]', '')} ({p.how})" for p in self.pairs]
        alone = [shown(call, calls) for call in calls if call not in {p.theirs for p in self.pairs}]
        return [
            f"Layers compared, the reference's = the port's ({len(self.pairs)} of {len(calls)}):",
            *lines,
            *([f"In the reference alone: {', '.join(alone)}"] if alone else []),
        ]


def joined(
    reference: Side,
    port: Side,
    convert: Convert | None,
    inputs: Inputs,
    order: list[str],
    channels_last: bool | None,
) -> Joined:
    """Of parameters; layers are paired later, by numbers. Raises UsageError for a port that fails."""
    state = reference.state()
    shapes = {key: array.shape for key, array in state.items() if array.dtype.kind == "f"}
    if convert is None and not port.traced and not port.parameters:
        convert = dict
    found = Joined(reference, port, convert, frozenset(), Rearrangement(), frozenset(), None, shapes)
    if convert is not None:
        found.map, untold = traced(found.state, state)
        if untold:
            found.untold = frozenset(set(reference.parameters) - found.map.used)
    start = found.state(state) if convert is not None else port.state()
    own_order = _turn(found, start, inputs, channels_last)
    if convert is None:
        found.match = matched(state, start, _paths(order), _paths(own_order))
        found.map = found.match.map
    return found


def _paths(calls: list[str]) -> list[str]:
    return list(dict.fromkeys(path_of(call) for call in calls))


def _turn(found: Joined, state: Inputs, inputs: Inputs, channels_last: bool | None) -> list[str]:
    """Settles which inputs are images whose channels go last on one side; returns the port's calls."""
    images = frozenset(key for key, a in inputs.items() if a.ndim > 3 and a.dtype.kind == "f")
    differ = found.reference.channels_last != found.port.channels_last
    turned = images if (differ if channels_last is None else channels_last) else frozenset()
    tried: list[frozenset[str]] = [turned] if channels_last is not None else [turned, images - turned]
    failed: CallFailed | None = None
    for one in dict.fromkeys(tried):
        found.turned = one
        try:
            return found.port.calls(state, found.inputs(inputs))
        except CallFailed as error:
            failed = failed or error
    assert failed is not None
    if not images:
        raise failed
    raise UsageError(
        f"{failed.what}; with channels last and first alike, if that is meant: channels_last="
    ) from failed
