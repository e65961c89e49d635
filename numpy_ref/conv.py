"""Convolution and max-pooling of images, forward and backward by hand.

Symbols: x the input (B, C, H, W), xp x surrounded by zeros (padding p), W (O, C, kh, kw), b (O,), y the
output (B, O, H', W'), s the stride; (i, j) a place in y, (k, l) one in the kernel, (u, v) one in xp.
P, the patches, is a matrix with one row for each (image, i, j) and one column for each (k, l, c); Y, dY and
M are y, dL/dy and W as matrices (rows of P, O) and (O, columns of P).

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                               eq. 64
    P_(ij),(klc) = xp_c,si+k,sj+l,  Y = P M^T + b                             eq. 65
    dL/dW_ockl = sum_ij dL/dy_oij xp_c,si+k,sj+l,  so dM = dY^T P             eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                eq. 68
    dy_oij/dxp_cuv = W_oc,u-si,v-sj inside the kernel, else 0                 eq. 69
    dL/dP = dY M;  dL/dxp_cuv = the sum of dL/dP where P copied xp_cuv        eq. 70-71
    dL/dx is dL/dxp without its border                                        eq. 72
    y_cij = max_kl x_c,si+k-p,sj+l-p over places inside the image             eq. 75
    (k*, l*) = the first place in reading order that attains it               eq. 76
    dL/dx_cuv = the sum of dL/dy_cij over windows whose (k*, l*) is (u, v)    eq. 77-78

Sums run over the batch too. Arrays are channel-first in shape and, where made here, channels-last in
memory: a patch's row is then kh runs of kw C neighbouring values, and y needs no reordering.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from triptych.describe.layers import Window
from triptych.errors import UserError

Array = np.ndarray


class ConvCache(NamedTuple):
    """What `conv2d_backward` needs of the forward pass."""

    patches: Array
    """P (B H' W', kh kw C)."""
    image: tuple[int, int, int, int]
    """x's shape."""
    window: Window


class PoolCache(NamedTuple):
    """What `max_pool2d_backward` needs of the forward pass."""

    first: Array
    """(k*, l*) of each window as k* kw + l*, y's shape."""
    image: tuple[int, int, int, int]
    window: Window


def conv2d_forward(x: Array, W: Array, b: Array | None, window: Window) -> tuple[Array, ConvCache]:
    """x (B, C, H, W), W (O, C, kh, kw), b (O,) or None to (y (B, O, H', W'), cache).

    Raises UserError for shapes that do not fit each other or the window.
    """
    _check(x, W, window)
    padded = _pad(x, window, 0)
    rows, columns = window.output(*x.shape[2:])
    patches = _windows(padded, window).reshape(len(x) * rows * columns, -1)  # eq. 65
    y = patches @ _matrix(W).T
    if b is not None:
        y += b
    image = y.reshape(len(x), rows, columns, len(W)).transpose(0, 3, 1, 2)
    return image, ConvCache(patches, x.shape, window)


def conv2d_backward(
    dy: Array, cache: ConvCache, W: Array, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """dy (B, O, H', W') to (dx (B, C, H, W) or None, dW (O, C, kh, kw), db (O,))."""
    (kh, kw), channels = cache.window.kernel, W.shape[1]
    dY = dy.transpose(0, 2, 3, 1).reshape(-1, len(W))
    dM = dY.T @ cache.patches  # eq. 67
    dW = dM.reshape(len(W), kh, kw, channels).transpose(0, 3, 1, 2)
    db = dY.sum(axis=0)  # eq. 68
    if not need_dx:
        return None, dW, db
    dxp = np.zeros(_padded_shape(cache.image, cache.window), dy.dtype)
    M = _matrix(W).reshape(len(W), kh, kw, channels)
    for (k, l), place in _places(cache.window, dy.shape[2:]):
        # Column by column of dL/dP: the whole of it would be kh kw times as large as dx.
        dP = dY @ M[:, k, l]  # eq. 70
        dxp[place] += dP.reshape(len(dy), *dy.shape[2:], channels)  # eq. 71
    return _unpad(dxp, cache), dW, db


def max_pool2d_forward(x: Array, window: Window) -> tuple[Array, PoolCache]:
    """x (B, C, H, W) to (y (B, C, H', W'), cache). Padding never wins; NaN does.

    Raises UserError for a shape that the window does not fit.
    """
    if x.ndim != 4:
        raise UserError(f"max-pool: expected x (B, C, H, W), got {x.shape}")
    padded, size = _pad(x, window, -np.inf), window.output(*x.shape[2:])
    y = np.full((len(x), *size, x.shape[1]), -np.inf, x.dtype)
    for _, place in _places(window, size):
        np.maximum(y, padded[place], out=y)  # eq. 75
    first = _first_equal(padded, y, window) if np.isfinite(y).all() else _first_wins(padded, y, window)
    return y.transpose(0, 3, 1, 2), PoolCache(first.transpose(0, 3, 1, 2), x.shape, window)


def _first_equal(padded: Array, y: Array, window: Window) -> Array:
    """eq. 76 where every maximum y (B, H', W', C) is finite: the least k kw + l whose value equals it."""
    last = window.kernel[0] * window.kernel[1] - 1
    kind = np.min_scalar_type(last).type
    first = np.full(y.shape, last, kind)
    for (k, l), place in _places(window, y.shape[1:3]):
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
    for (k, l), place in _places(window, size):
        here = padded[place]
        first[~(here <= so_far) & (so_far == so_far)] = k * window.kernel[1] + l
        np.maximum(so_far, here, out=so_far)
    return first


def max_pool2d_backward(dy: Array, cache: PoolCache) -> Array:
    """dy (B, C, H', W') to dx (B, C, H, W): each window's gradient goes to its first maximum."""
    upstream, first = dy.transpose(0, 2, 3, 1), cache.first.transpose(0, 2, 3, 1)
    dxp = np.zeros(_padded_shape(cache.image, cache.window), dy.dtype)
    for (k, l), place in _places(cache.window, dy.shape[2:]):
        dxp[place] += upstream * (first == k * cache.window.kernel[1] + l)  # eq. 78
    return _unpad(dxp, cache)


def channels_last(array: Array) -> Array:
    """The same (.., C, H, W) array with the channels next to each other in memory."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def _check(x: Array, W: Array, window: Window) -> None:
    if x.ndim != 4 or W.ndim != 4 or x.shape[1] != W.shape[1] or W.shape[2:] != window.kernel:
        kh, kw = window.kernel
        raise UserError(
            f"convolution: expected x (B, C, H, W) and W (O, C, {kh}, {kw}) with the same C, got x {x.shape} "
            f"and W {W.shape}"
        )


def _matrix(W: Array) -> Array:
    """W (O, C, kh, kw) as M (O, kh kw C); no copy where W is channels-last in memory."""
    return W.transpose(0, 2, 3, 1).reshape(len(W), -1)


def _padded_shape(image: tuple[int, int, int, int], window: Window) -> tuple[int, int, int, int]:
    batch, channels, height, width = image
    return batch, height + 2 * window.padding[0], width + 2 * window.padding[1], channels


def _pad(x: Array, window: Window, value: float) -> Array:
    """x (B, C, H, W) inside a border of `value`, as (B, H + 2p, W + 2p, C)."""
    padded = np.full(_padded_shape(x.shape, window), value, x.dtype)
    padded[_inside(x.shape, window)] = x.transpose(0, 2, 3, 1)
    return padded


def _unpad(dxp: Array, cache: ConvCache | PoolCache) -> Array:
    return dxp[_inside(cache.image, cache.window)].transpose(0, 3, 1, 2)  # eq. 72


def _inside(image: tuple[int, int, int, int], window: Window) -> tuple[slice, slice, slice]:
    rows, columns = (slice(p, p + size) for p, size in zip(window.padding, image[2:], strict=True))
    return slice(None), rows, columns


def _windows(padded: Array, window: Window) -> Array:
    """Every window of (B, H, W, C) as (B, H', W', kh, kw, C): a copy, made in one pass."""
    rows, columns = window.stride
    view = np.lib.stride_tricks.sliding_window_view(padded, window.kernel, axis=(1, 2))
    return np.ascontiguousarray(view[:, ::rows, ::columns].transpose(0, 1, 2, 4, 5, 3))


def _places(
    window: Window, size: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice, slice]]]:
    """For each (k, l) in reading order: where all windows' (k, l) lie in a padded image (B, H, W, C)."""
    (kh, kw), (sh, sw), (rows, columns) = window.kernel, window.stride, size
    for k in range(kh):
        for l in range(kw):
            down, across = slice(k, k + sh * (rows - 1) + 1, sh), slice(l, l + sw * (columns - 1) + 1, sw)
            yield (k, l), (slice(None), down, across)


def _first_inside(window: Window, size: tuple[int, int]) -> Array:
    """For each window the first place that lies inside the image, as k kw + l; (H', W')."""
    k, l = (
        np.maximum(0, p - s * np.arange(n))
        for p, s, n in zip(window.padding, window.stride, size, strict=True)
    )
    return (k[:, None] * window.kernel[1] + l).astype(np.int32)
