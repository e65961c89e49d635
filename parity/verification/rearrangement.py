"""Where each parameter of the original goes in a port, so that its gradients can be told by its names.

`convert` usually transposes, slices, stacks and renames. It is called with numbered elements in place of
values, twice with different numbers: what comes out tells where each element went. Where it computes
something (folds a batch norm into a convolution) it cannot be told, and the parameters' gradients are not
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.adapters import with_aliases

Flatten = Callable[[Any], list[Array]]
"""The arrays of what `convert` returns, in a fixed order."""


@dataclass(frozen=True, eq=False)
class Rearrangement:
    """For each of the port's arrays the number of the element that stands there, from 1; 0 for a constant."""

    shapes: Mapping[str, tuple[int, ...]]
    places: Sequence[Array]

    def back(self, gradients: Sequence[Array], dtype: Any) -> dict[str, Array]:
        """The gradient of each original parameter: the sum over the places where it is used."""
        size = sum(int(np.prod(shape)) for shape in self.shapes.values())
        total = np.zeros(size + 1)
        for place, gradient in zip(self.places, gradients, strict=True):
            flat = place.reshape(-1)
            if flat.size and flat[0] and flat[-1] - flat[0] == flat.size - 1 and (np.diff(flat) == 1).all():
                total[flat[0] : flat[-1] + 1] += gradient.reshape(-1)
            else:
                np.add.at(total, flat, gradient.reshape(-1))
        found, start = {}, 1
        for name, shape in self.shapes.items():
            end = start + int(np.prod(shape))
            found[name] = total[start:end].reshape(shape).astype(dtype)
            start = end
        return found


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
