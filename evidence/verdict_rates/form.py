"""A layer of the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parity import Jax

Given = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """A torch function; forms and mistakes by a few words, torch functions, `Jax` or `Numpy`."""

    name: str
    inputs: Given
    first: Callable[..., Any]
    right: Mapping[str, Any]
    wrong: Mapping[str, Any]
    parameters: Given = field(default_factory=dict)
    more: Sequence[tuple[Given, Given]] = ()
    """Inputs and parameters of other shapes."""

    @property
    def shapes(self) -> list[tuple[Given, Given]]:
        """All of them."""
        return [(self.inputs, self.parameters), *self.more]


def j(function: Callable[..., Any]) -> Jax:
    """Compiled, as most people run it."""
    return Jax(function)


X = {"x": (4, 6)}
ROWS: list[tuple[Given, Given]] = [({"x": (1, 7)}, {}), ({"x": (2, 3, 5)}, {})]
"""One row; and rows of sequences."""
NUMBERS: list[tuple[Given, Given]] = [({"x": (5,)}, {}), ({"x": (2, 3, 4)}, {})]
PAIRS: list[tuple[Given, Given]] = [({"x": s, "z": s}, {}) for s in ((3, 2), (2, 3, 4))]
IMAGE = {"x": (2, 4, 5, 5)}
TALL = {"x": (3, 2, 4, 3)}
PIXELS: list[tuple[Given, Given]] = [(TALL, {}), ({"x": (1, 3, 6, 4)}, {})]


def column(a):
    """(C,) beside images (B, C, H, W)."""
    return a[None, :, None, None]


def dealt(count):
    """Channels dealt to two groups in turns: 0, 2, 1, 3 of four."""
    return np.arange(count).reshape(2, -1).T.reshape(-1)
