"""The forms that train where speed needs another than the derivation's: the same equations, held equal to
the plain forms of `dense`, `conv` and `optim` by a test.

Same names, same arguments, same results; only what a backward needs of its forward pass differs. Arrays are
channel-first in shape and, where made here, channels-last in memory: a patch's row is then kh runs of kw C
neighbouring values, and a convolution's output needs no reordering.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numpy_ref.windows import Image, pad, padded_shape, places, unpad, windows
from triptych.describe.layers import Window

Array = np.ndarray
Rule = Callable[..., None]
"""A parameter's step in place: `optim.sgd` or `optim.adam`."""
BLOCK = 2**16
"""Values updated at once: what a formula makes on its way then stays in the processor's cache."""


# --- dense ---


def leaky_relu(x: Array, slope: float) -> tuple[Array, Array]:
    """`dense.leaky_relu`. Sums and products, exact here: `np.where` chooses value by value, many times slower
    on mixed signs.
    """
    y = np.maximum(x, 0)  # eq. 19
    if slope:
        y += slope * np.minimum(x, 0)
    return y, x


def leaky_relu_backward(dy: Array, x: Array, slope: float) -> Array:
    """`dense.leaky_relu_backward`."""
    right = x > 0
    derivative = right + x.dtype.type(slope) * ~right if slope else right
    return dy * derivative  # eq. 37, from 19-24


# --- convolution: one product of matrices each way ---


class ConvCache(NamedTuple):
    """What `conv2d_backward` needs of the forward pass."""

    patches: Array
    """P (B H' W', kh kw C)."""
    image: Image
    window: Window


def conv2d(x: Array, W: Array, b: Array | None, window: Window) -> tuple[Array, ConvCache]:
    """`conv.conv2d`: Y = P M^T + b, where row (image, i, j) of P is one patch and row o of M one kernel."""
    rows, columns = window.output(*x.shape[2:])
    patches = np.ascontiguousarray(windows(pad(x, window, 0), window))  # eq. 65: a copy, made in one pass
    patches = patches.reshape(len(x) * rows * columns, -1)
    y = patches @ _matrix(W).T  # eq. 64
    if b is not None:
        y += b
    return y.reshape(len(x), rows, columns, len(W)).transpose(0, 3, 1, 2), ConvCache(patches, x.shape, window)


def conv2d_backward(
    dy: Array, cache: ConvCache, W: Array, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """`conv.conv2d_backward`: dM = dY^T P and dP = dY M."""
    (kh, kw), channels = cache.window.kernel, W.shape[1]
    dY = dy.transpose(0, 2, 3, 1).reshape(-1, len(W))
    dM = dY.T @ cache.patches  # eq. 66-67
    dW = dM.reshape(len(W), kh, kw, channels).transpose(0, 3, 1, 2)
    db = dY.sum(axis=0)  # eq. 68
    if not need_dx:
        return None, dW, db
    dxp = np.zeros(padded_shape(cache.image, cache.window), dy.dtype)
    M = _matrix(W).reshape(len(W), kh, kw, channels)
    for (k, l), place in places(cache.window, dy.shape[2:]):
        # Column by column of dL/dP: the whole of it would be kh kw times as large as dx.
        dP = dY @ M[:, k, l]  # eq. 69-70
        dxp[place] += dP.reshape(len(dy), *dy.shape[2:], channels)  # eq. 71
    return unpad(dxp, cache.image, cache.window), dW, db  # eq. 72


def channels_last(array: Array) -> Array:
    """The same (.., C, H, W) array with the channels next to each other in memory."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _matrix(W: Array) -> Array:
    """W (O, C, kh, kw) as M (O, kh kw C); no copy where W is channels-last in memory."""
    return W.transpose(0, 2, 3, 1).reshape(len(W), -1)


# --- max-pooling: a pass over the image for each place of the window ---


class PoolCache(NamedTuple):
    """What `max_pool2d_backward` needs of the forward pass."""

    first: Array
    """(k*, l*) of each window as k* kw + l*, y's shape."""
    image: Image
    window: Window


def max_pool2d(x: Array, window: Window) -> tuple[Array, PoolCache]:
    """`conv.max_pool2d`."""
    padded, size = pad(x, window, -np.inf), window.output(*x.shape[2:])
    y = np.full((len(x), *size, x.shape[1]), -np.inf, x.dtype)
    for _, place in places(window, size):
        np.maximum(y, padded[place], out=y)  # eq. 75
    first = _first_equal(padded, y, window) if np.isfinite(y).all() else _first_wins(padded, y, window)
    return y.transpose(0, 3, 1, 2), PoolCache(first.transpose(0, 3, 1, 2), x.shape, window)


def _first_equal(padded: Array, y: Array, window: Window) -> Array:
    """eq. 76 where every maximum y (B, H', W', C) is finite: the least k kw + l whose value equals it."""
    last = window.kernel[0] * window.kernel[1] - 1
    kind = np.min_scalar_type(last).type
    first = np.full(y.shape, last, kind)
    for (k, l), place in places(window, y.shape[1:3]):
        number = k * window.kernel[1] + l
        # `number` where the value is the maximum, else `last`: sums and products, as in LeakyReLU.
        attained = (padded[place] != y) * kind(last - number)
        attained += kind(number)
        np.minimum(first, attained, out=first)
    return first


def _first_wins(padded: Array, y: Array, window: Window) -> Array:
    """eq. 76 for any values: in reading order a greater one wins, and a NaN once and for all."""
    size = y.shape[1:3]
    # Where every value is -inf the first place inside the image wins, not the border before it.
    first = np.broadcast_to(_first_inside(window, size)[:, :, None], y.shape).copy()
    so_far = np.full(y.shape, -np.inf, y.dtype)
    for (k, l), place in places(window, size):
        here = padded[place]
        first[~(here <= so_far) & (so_far == so_far)] = k * window.kernel[1] + l
        np.maximum(so_far, here, out=so_far)
    return first


def max_pool2d_backward(dy: Array, cache: PoolCache) -> Array:
    """`conv.max_pool2d_backward`."""
    upstream, first = dy.transpose(0, 2, 3, 1), cache.first.transpose(0, 2, 3, 1)
    dxp = np.zeros(padded_shape(cache.image, cache.window), dy.dtype)
    for (k, l), place in places(cache.window, dy.shape[2:]):
        dxp[place] += upstream * (first == k * cache.window.kernel[1] + l)  # eq. 77-78
    return unpad(dxp, cache.image, cache.window)


def _first_inside(window: Window, size: tuple[int, int]) -> Array:
    """For each window the first place that lies inside the image, as k kw + l; (H', W')."""
    k, l = (
        np.maximum(0, p - s * np.arange(n))
        for p, s, n in zip(window.padding, window.stride, size, strict=True)
    )
    return (k[:, None] * window.kernel[1] + l).astype(np.int32)


# --- optimizers: a block at a time ---


def in_blocks(rule: Rule, theta: Array, g: Array, slots: dict[str, Array], *rest: Any) -> None:
    """`rule(theta, g, slots, *rest)`, elementwise and in place, on BLOCK values or so at a time."""
    rows = max(1, BLOCK * len(theta) // theta.size)
    for first in range(0, len(theta), rows):
        part = slice(first, first + rows)
        rule(theta[part], g[part], {name: slot[part] for name, slot in slots.items()}, *rest)
