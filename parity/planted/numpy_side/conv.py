"""Convolution and pooling, wrong, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numpy_ref import fast
from numpy_ref.windows import pad, padded_shape, places, unpad
from parity.planted import Patch, Plantings
from parity.planted.numpy_side.dense import tf32
from triptych.describe.layers import Window

Array = np.ndarray[Any, Any]
FORWARD, BACKWARD = fast.conv2d, fast.conv2d_backward
POOL, POOL_BACKWARD = fast.max_pool2d, fast.max_pool2d_backward


# --- the kernel, read in another order ---


def _reordered(order: Callable[[Array], Array]) -> list[Patch]:
    """The layer with `order(W)`, which is its own inverse, in its gradients too."""

    def forward(x: Array, W: Array, b: Array | None, window: Window) -> Any:
        return FORWARD(x, order(W), b, window)

    def backward(dy: Array, cache: Any, W: Array, need_dx: bool = True) -> Any:
        dx, dW, db = BACKWARD(dy, cache, order(W), need_dx)
        return dx, order(dW), db

    return [Patch(fast, "conv2d", forward), Patch(fast, "conv2d_backward", backward)]


def _flipped(W: Array) -> Array:
    return W[:, :, ::-1, ::-1]


def _rows_columns(W: Array) -> Array:
    return W.swapaxes(2, 3) if W.shape[2] == W.shape[3] else W


def _channels(W: Array) -> Array:
    return W.swapaxes(0, 1) if W.shape[0] == W.shape[1] else W


# --- gradients ---


def _not_flipped(dy: Array, cache: Any, W: Array, need_dx: bool = True) -> Any:
    _, dW, db = BACKWARD(dy, cache, W, need_dx)
    return BACKWARD(dy, cache, _flipped(W), need_dx)[0], dW, db


def _averages_width(dy: Array, cache: Any, W: Array, need_dx: bool = True) -> Any:
    dx, dW, _ = BACKWARD(dy, cache, W, need_dx)
    return dx, dW, dy.sum(axis=(0, 2)).mean(axis=-1)


def _last_image(dy: Array, cache: Any, W: Array, need_dx: bool = True) -> Any:
    dx, _, db = BACKWARD(dy, cache, W, need_dx)
    rows = dy.shape[2] * dy.shape[3]
    last = cache._replace(patches=cache.patches[-rows:], image=(1, *cache.image[1:]))
    return dx, BACKWARD(dy[-1:], last, W, False)[1], db


def _overwritten(dy: Array, cache: Any, W: Array, need_dx: bool = True) -> Any:
    _, dW, db = BACKWARD(dy, cache, W, False)
    dP = dy.transpose(0, 2, 3, 1).reshape(-1, len(W)) @ fast._matrix(W)
    dP = dP.reshape(len(dy), *dy.shape[2:], *W.shape[2:], W.shape[1])
    dxp = np.zeros(padded_shape(cache.image, cache.window), dy.dtype)
    for (k, l), place in places(cache.window, dy.shape[2:]):
        dxp[place] = dP[:, :, :, k, l]
    return unpad(dxp, cache.image, cache.window), dW, db


# --- padding ---


class Bordered(NamedTuple):
    """A cache, and where the image lies inside the border that was put around it by hand."""

    cache: Any
    inside: tuple[slice, slice]

    def cut(self, dxp: Array | None) -> Array | None:
        """dL/dx without the border."""
        return None if dxp is None else dxp[:, :, *self.inside]


Border = tuple[tuple[int, int], tuple[int, int]]


def same_border(image: tuple[int, ...], window: Window) -> Border:
    """SAME's zeros before and after rows and columns, where that gives as many windows; else the window's."""
    sizes = zip(image, window.kernel, window.stride, strict=True)
    totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in sizes]
    windows = tuple(-(-n // s) for n, s in zip(image, window.stride, strict=True))
    if window.output(*image) != windows or max(window.stride) == 1:
        return symmetric(image, window)
    top, left = totals[0] // 2, totals[1] // 2
    return (top, totals[0] - top), (left, totals[1] - left)


def symmetric(image: tuple[int, ...], window: Window) -> Border:
    """The window's own padding."""
    (p, q) = window.padding
    return (p, p), (q, q)


def _bordered(x: Array, window: Window, border: Any, value: float) -> tuple[Array, Window, Any]:
    rows, columns = border(x.shape[2:], window)
    padded = np.pad(x, ((0, 0), (0, 0), rows, columns), constant_values=value)
    inside = slice(rows[0], rows[0] + x.shape[2]), slice(columns[0], columns[0] + x.shape[3])
    return padded, Window(window.kernel, window.stride), inside


def _conv_same(x: Array, W: Array, b: Array | None, window: Window) -> Any:
    padded, bare, inside = _bordered(x, window, same_border, 0)
    y, cache = FORWARD(padded, W, b, bare)
    return y, Bordered(cache, inside)


def _conv_same_backward(dy: Array, bordered: Bordered, W: Array, need_dx: bool = True) -> Any:
    dxp, dW, db = BACKWARD(dy, bordered.cache, W, need_dx)
    return bordered.cut(dxp), dW, db


def _pool_with(border: Any, value: float) -> list[Patch]:
    def forward(x: Array, window: Window) -> Any:
        padded, bare, inside = _bordered(x, window, border, value)
        y, cache = POOL(padded, bare)
        return y, Bordered(cache, inside)

    def backward(dy: Array, bordered: Bordered) -> Any:
        return bordered.cut(POOL_BACKWARD(dy, bordered.cache))

    return [Patch(fast, "max_pool2d", forward), Patch(fast, "max_pool2d_backward", backward)]


# --- ties ---


class Maxima(NamedTuple):
    """What a backward needs that looks for the maxima again."""

    x: Array
    y: Array
    window: Window
    image: tuple[int, ...]


def _remembering(x: Array, window: Window) -> Any:
    y, _ = POOL(x, window)
    return y, Maxima(x, y, window, x.shape)


def _ties(split: bool) -> list[Patch]:
    """Every maximum of a window gets the gradient: an equal share of it, or all."""

    def backward(dy: Array, cache: Any) -> Any:
        padded, size = pad(cache.x, cache.window, -np.inf), dy.shape[2:]
        upstream, y = dy.transpose(0, 2, 3, 1), cache.y.transpose(0, 2, 3, 1)
        all_places = list(places(cache.window, size))
        count = sum((padded[place] == y).astype(dy.dtype) for _, place in all_places)
        dxp = np.zeros(padded.shape, dy.dtype)
        for _, place in all_places:
            dxp[place] += np.where(padded[place] == y, upstream / count if split else upstream, 0)
        return unpad(dxp, cache.image, cache.window)

    return [Patch(fast, "max_pool2d", _remembering), Patch(fast, "max_pool2d_backward", backward)]


def _last_maximum(x: Array, window: Window) -> Any:
    """>= for > in the search."""
    y, cache = POOL(x, window)
    padded, size = pad(x, window, -np.inf), window.output(*x.shape[2:])
    last = cache.first.transpose(0, 2, 3, 1).copy()
    for (k, l), place in places(window, size):
        last[padded[place] >= y.transpose(0, 2, 3, 1)] = k * window.kernel[1] + l
    return y, cache._replace(first=last.transpose(0, 3, 1, 2))


PLANTINGS: Plantings = {
    "conv-rows-columns-swapped": _reordered(_rows_columns),
    "conv-flipped": _reordered(_flipped),
    "conv-dx-not-flipped": [Patch(fast, "conv2d_backward", _not_flipped)],
    "conv-channels-swapped": _reordered(_channels),
    "conv-same-padding": [
        Patch(fast, "conv2d", _conv_same),
        Patch(fast, "conv2d_backward", _conv_same_backward),
    ],
    "conv-bias-gradient-averages-width": [Patch(fast, "conv2d_backward", _averages_width)],
    "conv-dw-last-image": [Patch(fast, "conv2d_backward", _last_image)],
    "conv-dx-overwritten": [Patch(fast, "conv2d_backward", _overwritten)],
    "conv-tf32": [Patch(fast, "conv2d", lambda x, W, b, window: FORWARD(tf32(x), tf32(W), b, window))],
    "pool-splits-ties": _ties(split=True),
    "pool-counts-ties": _ties(split=False),
    "pool-last-maximum": [Patch(fast, "max_pool2d", _last_maximum)],
    "pool-padding-wins": _pool_with(symmetric, 0),
    "pool-same-padding": _pool_with(same_border, -np.inf),
}
