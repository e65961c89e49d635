"""Convolution and max-pooling in products and slices, with their backward passes: the equations of
`jax_models.conv`, whose symbols these are. Y, dY and M are y, dL/dy and W as matrices: rows of P, O; columns
of P, O.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_models.cpu import winograd
from jax_models.cpu.windows import at, collect, pad, places
from jax_models.precision import at_least_float32
from triptych.describe.layers import Window

Array = jax.Array


def conv2d(x: Array, W: Array, window: Window) -> Array:
    """y as one product of patches, or by Winograd's algorithm."""
    if _suits_winograd(x, W, window):
        return winograd.forward(x, W)
    size = window.output(*x.shape[1:3])
    Y = _product(_patches(x, window), W.reshape(-1, W.shape[3]))  # eq. 64-65
    return Y.astype(x.dtype).reshape(len(x), *size, W.shape[3])


def conv2d_backward(dy: Array, x: Array, W: Array, window: Window) -> tuple[Array, Array]:
    """dy (B, H', W', O) to (dx, dW)."""
    if _suits_winograd(x, W, window):
        return winograd.backward(dy, x, W)
    dY, M = dy.reshape(-1, dy.shape[3]), W.reshape(-1, W.shape[3])
    dM = _product(_patches(x, window).T, dY)  # eq. 66-67
    dP = _product(dY, M.T).reshape(*dy.shape[:3], *W.shape[:3])  # eq. 69-70
    dx = collect(lambda place, dP: dP[:, :, :, *place], (dP,), window, x.shape)  # eq. 71-72
    return dx.astype(x.dtype), dM.astype(W.dtype).reshape(W.shape)


def _suits_winograd(x: Array, W: Array, window: Window) -> bool:
    """Whether it is fast (transforms cost as much for few channels) and precise enough."""
    shape = window == Window((3, 3), (1, 1), (1, 1)) and x.shape[1] % 2 == x.shape[2] % 2 == 0
    return x.dtype == jnp.float32 and shape and min(W.shape[2:]) >= 16


def _product(a: Array, b: Array) -> Array:
    """A B, in float32 also for bfloat16: sums are rounded once, by the caller."""
    wide = jnp.float32 if a.dtype == jnp.bfloat16 else a.dtype
    return jnp.matmul(a, b, preferred_element_type=wide)


def _patches(x: Array, window: Window) -> Array:
    """P (B H' W', kh kw C)."""
    padded, size = pad(x, window, 0), window.output(*x.shape[1:3])
    columns = [at(padded, place, window, size) for place in places(window)]
    return jnp.concatenate(columns, axis=3).reshape(-1, len(columns) * x.shape[3])


def max_pool2d(x: Array, window: Window) -> tuple[Array, Array]:
    """x to (y, (k*, l*) of each window as k* kw + l*)."""
    size = window.output(*x.shape[1:3])
    padded = pad(x, window, -jnp.inf)
    # Where every value is -inf the first place inside the image wins, not the border before it.
    first = jnp.broadcast_to(_first_inside(window, size)[:, :, None], (len(x), *size, x.shape[3]))
    y = jnp.full(first.shape, -jnp.inf, x.dtype)
    for index, place in enumerate(places(window)):
        here = at(padded, place, window, size)
        greater = ~(here <= y) & (y == y)  # strictly, so that the first stays; a NaN wins once and for all
        first = jnp.where(greater, first.dtype.type(index), first)  # eq. 76
        y = jnp.maximum(y, here)  # eq. 75
    return jax.lax.optimization_barrier((y, first))


def max_pool2d_backward(dy: Array, first: Array, shape: tuple[int, ...], window: Window) -> Array:
    """dy (B, H', W', C) to dx of `shape`: each window's gradient goes to its first maximum."""
    wide = dy.astype(at_least_float32(dy.dtype))  # sums are rounded to bfloat16 once
    kw = window.kernel[1]

    def part(place: tuple[int, int], dy: Array, first: Array) -> Array:
        return jnp.where(first == place[0] * kw + place[1], dy, 0)

    return collect(part, (wide, first), window, shape).astype(dy.dtype)  # eq. 77-78


def _first_inside(window: Window, size: tuple[int, int]) -> np.ndarray:
    """For each window the first place that lies inside the image, as k kw + l; (H', W')."""
    down, across = (
        np.maximum(0, p - s * np.arange(n))
        for p, s, n in zip(window.padding, window.stride, size, strict=True)
    )
    return (down[:, None] * window.kernel[1] + across).astype(index_type(window))


def index_type(window: Window) -> np.dtype:
    """The smallest that numbers the places of a window."""
    return np.min_scalar_type(window.kernel[0] * window.kernel[1] - 1)
