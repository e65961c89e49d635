"""Where each parameter of the original goes in a port, so that its gradients can be told by its names.

`convert` usually transposes, slices, stacks and renames. It is called with numbered elements in place of
values, twice with different numbers: what comes out tells where each element went. Where it computes
something (folds a batch norm into a convolution) it cannot be told, and the parameters' gradients are not
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.adapters import with_aliases

Thin = Callable[[str, Array], Array]
Flatten = Callable[[Any], list[Array]]
"""The arrays of what `convert` returns, in a fixed order."""


@dataclass(frozen=True, eq=False)
class Rearrangement:
    """For each of the port's arrays the number of the element that stands there, from 1; 0 for a constant."""

    shapes: Mapping[str, tuple[int, ...]]
    places: Sequence[Array]

    @cached_property
    def whole(self) -> list[str]:
        """For each of the port's arrays the parameter that it is, element by element; or ""."""
        first = {}
        start = 1
        for name, shape in self.shapes.items():
            first[start, shape] = name
            start += int(np.prod(shape))
        names = []
        for place in self.places:
            flat = place.reshape(-1)
            name = first.get((int(flat[0]), place.shape), "") if flat.size else ""
            names.append(name if name and (np.diff(flat) == 1).all() else "")
        return names

    def back(self, gradients: Iterable[Array], dtype: Any, thin: Thin) -> dict[str, Array]:
        """The gradient of each original parameter: the sum over the places where it is used; in part."""
        found: dict[str, Array] = {}
        rest: Array | None = None
        for place, name, gradient in zip(self.places, self.whole, gradients, strict=True):
            if name:
                part = thin(name, gradient)
                found[name] = found[name] + part if name in found else part
            else:
                rest = np.zeros(self.size + 1) if rest is None else rest
                np.add.at(rest, place.reshape(-1), gradient.reshape(-1))
        start = 1
        for name, shape in self.shapes.items():
            end = start + int(np.prod(shape))
            if rest is not None and rest[start:end].any():
                part = thin(name, rest[start:end].reshape(shape))
                found[name] = found[name] + part if name in found else part
            elif name not in found:
                found[name] = thin(name, np.zeros(shape))
            start = end
        return {name: found[name].astype(dtype) for name in self.shapes}

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes.values())


def traced(
    convert: Callable[..., Any],
    state: Mapping[str, Array],
    aliases: Mapping[str, str],
    parameters: Sequence[str],
    flatten: Flatten,
) -> Rearrangement | None:
    """None where it is no rearrangement."""
    shapes = {name: state[name].shape for name in parameters}
    numbers, start = {}, 1
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        numbers[name] = np.arange(start, start + size, dtype=np.float64).reshape(shape)
        start += size
    try:
        once, twice = (
            flatten(convert(with_aliases({**state, **{k: f(a) for k, a in numbers.items()}}, aliases)))
            for f in (np.copy, lambda a: 2 * a + 1)
        )
    except Exception:
        return None
    if len(once) != len(twice) or any(a.shape != b.shape for a, b in zip(once, twice, strict=True)):
        return None
    places = []
    for a, b in zip(once, twice, strict=True):
        constant = a == b
        moved = (a >= 1) & (a < start) & (a == np.round(a)) & (b == 2 * a + 1)
        if not (constant | moved).all():
            return None
        places.append(np.where(constant, 0, a).astype(np.int64))
    return Rearrangement(shapes, places) if start > 1 else None
