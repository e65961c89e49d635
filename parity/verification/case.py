"""One set of inputs, and where random ones come from: the same in every process.

Floating inputs are float64 here and rounded to the judged format before anyone sees them.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from parity.bounds.rounding import Array, Rounding

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
    flat = array.copy().reshape(-1)
    chosen = rng.permutation(flat.size)[: max(1, int(share * flat.size))]
    flat[chosen] = value
    return flat.reshape(array.shape)
