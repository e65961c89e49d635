"""What a drawn case is made of: shapes, layouts, settings, values with exact zeros and ties.

Every array comes from a seed that is drawn, so that a case shrinks to small shapes and plain values. The
package hypothesis is needed only once something is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.case import Layout
from triptych.describe.layers import Window

NAME = "drawn"
T = TypeVar("T")


class Draws:
    """One example being drawn. With `few` its shapes are among a handful, for JAX, which compiles every
    operation anew for a new one.
    """

    def __init__(self, draw: Callable[[Any], Any], few: bool = False) -> None:
        from hypothesis import strategies

        self._draw, self._strategies, self.few = draw, strategies, few

    def integer(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self._draw(self._strategies.integers(low, high)))

    def one_of(self, *options: T) -> T:
        """Simplest first."""
        found: T = self._draw(self._strategies.sampled_from(options))
        return found

    def flag(self) -> bool:
        """True or False."""
        return bool(self._draw(self._strategies.booleans()))

    def rng(self) -> np.random.Generator:
        """Of a drawn seed."""
        return np.random.default_rng(self.integer(0, 2**32 - 1))

    def size(self, most: int = 6) -> int:
        """Of one axis."""
        return self.one_of(1, min(3, most)) if self.few else self.integer(1, most)

    def sizes(self, least: int, most: int) -> tuple[int, ...]:
        """Of `least` to `most` axes."""
        count = least if self.few else self.integer(least, most)
        return tuple(self.size() for _ in range(count))

    def layout(self) -> Layout:
        """Any."""
        return self.one_of("plain", "strided", "channels-last")

    def values(self, shape: tuple[int, ...], ties: bool = False) -> Array:
        """Normal deviates of some size, or few whole numbers; some of them exactly 0. Never constant."""
        rng = self.rng()
        if ties or self.flag():
            return rng.integers(-2, 3, shape).astype(float)
        found = rng.normal(size=shape) * self.one_of(1.0, 1e-12, 1e8)
        return np.where(rng.random(shape) < self.one_of(0.0, 0.3), 0.0, found)

    def upstream(self, shape: tuple[int, ...]) -> Array:
        """A gradient from above: random, never constant."""
        return self.rng().normal(size=shape)

    def window(self) -> Window:
        """Kernels and strides of up to 4, padding as far as it goes."""
        if self.few:
            return self.one_of(Window((3, 3), (2, 2), (1, 1)), Window((2, 3), (3, 1), (1, 0)))
        kernel, stride = ((self.integer(1, 4), self.integer(1, 4)) for _ in range(2))
        padding = self.integer(0, kernel[0] // 2), self.integer(0, kernel[1] // 2)
        return Window(kernel, stride, padding)

    def image(self, window: Window, ties: bool = False) -> Array:
        """(B, C, H, W), at least as large as the window."""
        if self.few:
            return self.values((2, 3, 5, 4), ties)
        height, width = (self.integer(k, k + 5) for k in window.kernel)
        return self.values((self.integer(1, 3), self.integer(1, 4), height, width), ties)
