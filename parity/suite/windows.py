"""Sums over the places of a window: those of convolution, and where max-pooling looks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.bounds.rounding import Array
from triptych.describe.layers import Window


def forward(x: Array, W: Array, window: Window) -> Array:
    """y (B, O, H', W') of x (B, C, H, W) and W (O, C, kh, kw)."""
    xp, y = padded(x, window, 0), 0
    for (k, l), place in places(window, x.shape):
        y = y + np.einsum("bcij,oc->boij", xp[place], W[:, :, k, l])
    return np.asarray(y)


def by_input(dy: Array, W: Array, shape: tuple[int, ...], window: Window) -> Array:
    """dL/dx, of that shape."""
    dxp = padded(np.zeros(shape, dy.dtype), window, 0)
    for (k, l), place in places(window, shape):
        dxp[place] += np.einsum("boij,oc->bcij", dy, W[:, :, k, l])
    return inside(dxp, window)


def by_weight(dy: Array, x: Array, window: Window) -> Array:
    """dL/dW (O, C, kh, kw)."""
    xp = padded(x, window, 0)
    columns = [np.einsum("boij,bcij->oc", dy, xp[place]) for _, place in places(window, x.shape)]
    return np.stack(columns, axis=-1).reshape(dy.shape[1], x.shape[1], *window.kernel)


def padded(x: Array, window: Window, value: float) -> Array:
    """x within a border of that value."""
    (p, q), (batch, channels, height, width) = window.padding, x.shape
    xp = np.full((batch, channels, height + 2 * p, width + 2 * q), value, x.dtype)
    xp[:, :, p : p + height, q : q + width] = x
    return xp


def inside(xp: Array, window: Window) -> Array:
    """The inverse of `padded`."""
    (p, q), (height, width) = window.padding, xp.shape[2:]
    return xp[:, :, p : height - p, q : width - q]


def places(
    window: Window, shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice, slice, slice]]]:
    """For each (k, l) in reading order, where all windows' (k, l) lie in a padded (B, C, H, W)."""
    rows, columns = window.output(*shape[2:])
    for k in range(window.kernel[0]):
        for l in range(window.kernel[1]):
            down = slice(k, k + window.stride[0] * (rows - 1) + 1, window.stride[0])
            across = slice(l, l + window.stride[1] * (columns - 1) + 1, window.stride[1])
            yield (k, l), (slice(None), slice(None), down, across)
