"""Convolution and pooling, wrong, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jax_models import conv, precision
from jax_models.cpu.windows import at, collect, pad, places
from parity.planted import Patch, Plantings
from parity.planted.jax_side.dense import tf32, with_backward
from triptych.describe.layers import Window

Array = jax.Array
RIGHT = conv.vendor_conv2d


def _convolution(function: Callable[[Array, Array, Window], Array]) -> list[Patch]:
    return [Patch(conv, "_conv2d", function)]


def _reordered(order: Callable[[Array], Array]) -> list[Patch]:
    """Of W (kh, kw, C, O)."""
    return _convolution(lambda x, W, window: RIGHT(x, order(W), window))


def _gradients(change: Callable[..., Any]) -> list[Patch]:
    """dx and dW as `change(dy, x, W, window)` has them."""

    def function(x: Array, W: Array, window: Window) -> Array:
        forward = partial(RIGHT, window=window)
        return with_backward(forward, lambda dy, x, W: change(dy, x, W, window))(x, W)

    return _convolution(function)


def _rows_columns(W: Array) -> Array:
    return W.swapaxes(0, 1) if W.shape[0] == W.shape[1] else W


def _channels(W: Array) -> Array:
    return W.swapaxes(2, 3) if W.shape[2] == W.shape[3] else W


def _not_flipped(dy: Array, x: Array, W: Array, window: Window) -> Any:
    dx, _ = conv.vendor_conv2d_backward(dy, x, W[::-1, ::-1], window)
    return dx, conv.vendor_conv2d_backward(dy, x, W, window)[1]


def _last_image(dy: Array, x: Array, W: Array, window: Window) -> Any:
    dx, _ = conv.vendor_conv2d_backward(dy, x, W, window)
    return dx, conv.vendor_conv2d_backward(dy[-1:], x[-1:], W, window)[1]


def _overwritten(dy: Array, x: Array, W: Array, window: Window) -> Any:
    _, dW = conv.vendor_conv2d_backward(dy, x, W, window)
    dxp = jnp.zeros_like(pad(x, window, 0))
    size, (sh, sw) = dy.shape[1:3], window.stride
    for k, l in places(window):
        rows = slice(k, k + sh * (size[0] - 1) + 1, sh)
        columns = slice(l, l + sw * (size[1] - 1) + 1, sw)
        dxp = dxp.at[:, rows, columns].set(jnp.tensordot(dy, W[k, l], ((3,), (1,))))
    (p, q), (_, height, width, _) = window.padding, x.shape
    return dxp[:, p : p + height, q : q + width], dW


def _same(x: Array, W: Array, window: Window) -> Array:
    if not _fits_same(x, window):
        return RIGHT(x, W, window)
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, W, window.stride, "SAME", dimension_numbers=numbers)


def _fits_same(x: Array, window: Window) -> bool:
    """Whether SAME gives as many windows."""
    sizes = tuple(-(-n // s) for n, s in zip(x.shape[1:3], window.stride, strict=True))
    return max(window.stride) > 1 and window.output(*x.shape[1:3]) == sizes


def _add_bias(y: Array, b: Array) -> Array:
    if y.ndim == 2:
        return y + b
    return with_backward(jnp.add, lambda dy, y, b: (dy, dy.sum((0, 1)).mean(0)))(y, b)


# --- pooling ---


def _pool(function: Callable[[Array, Window], Array]) -> list[Patch]:
    return [Patch(conv, "max_pool2d", function)]


def _reduced(x: Array, window: Window, padding: Any, value: float = -jnp.inf) -> Array:
    return jax.lax.reduce_window(
        x, value, jax.lax.max, (1, *window.kernel, 1), (1, *window.stride, 1), padding
    )


def _padded_with_zeros(x: Array, window: Window) -> Array:
    """`jnp.pad` first, and a pool without padding."""
    border = [(0, 0), *((p, p) for p in window.padding), (0, 0)]
    return _reduced(jnp.pad(x, border), window, "VALID")


def _stacked(x: Array, window: Window) -> Array:
    """Every window's values (places, B, H', W', C)."""
    padded, size = pad(x, window, -jnp.inf), window.output(*x.shape[1:3])
    return jnp.stack([at(padded, place, window, size) for place in places(window)])


def _ties(split: bool) -> list[Patch]:
    """A maximum over an axis splits ties; a mask x == max counts each of them."""

    def backward(dy: Array, x: Array, window: Window) -> Any:
        values = _stacked(x, window)
        winners = values == values.max(axis=0)
        share = dy / winners.sum(axis=0) if split else dy
        parts = jnp.where(winners, share, 0).astype(dy.dtype)
        spread = partial(_stacked, window=window)
        return jax.vjp(spread, x)[1](parts)

    def function(x: Array, window: Window) -> Array:
        def forward(x: Array) -> Array:
            return _stacked(x, window).max(axis=0)

        return with_backward(forward, lambda dy, x: backward(dy, x, window))(x)

    return _pool(function)


def _last_maximum(x: Array, window: Window) -> Array:
    """The search takes >= for >."""

    def forward(x: Array) -> Array:
        return _stacked(x, window).max(axis=0)

    def backward(dy: Array, x: Array) -> Any:
        values = _stacked(x, window)
        last = len(values) - 1 - jnp.argmax(values[::-1], axis=0)

        def part(place: tuple[int, int], dy: Array, last: Array) -> Array:
            return jnp.where(last == place[0] * window.kernel[1] + place[1], dy, 0)

        return (collect(part, (dy, last), window, x.shape).astype(dy.dtype),)

    return with_backward(forward, backward)(x)


def _pool_same(x: Array, window: Window) -> Array:
    padding: Any = "SAME" if _fits_same(x, window) else [(0, 0), *((p, p) for p in window.padding), (0, 0)]
    return _reduced(x, window, padding)


PLANTINGS: Plantings = {
    "conv-rows-columns-swapped": _reordered(_rows_columns),
    "conv-flipped": _reordered(lambda W: W[::-1, ::-1]),
    "conv-dx-not-flipped": _gradients(_not_flipped),
    "conv-channels-swapped": _reordered(_channels),
    "conv-same-padding": _convolution(_same),
    "conv-bias-gradient-averages-width": [Patch(precision, "add_bias", _add_bias)],
    "conv-dw-last-image": _gradients(_last_image),
    "conv-dx-overwritten": _gradients(_overwritten),
    "conv-tf32": _convolution(lambda x, W, window: RIGHT(tf32(x), tf32(W), window)),
    "pool-splits-ties": _ties(split=True),
    "pool-counts-ties": _ties(split=False),
    "pool-last-maximum": _pool(_last_maximum),
    "pool-padding-wins": _pool(_padded_with_zeros),
    "pool-same-padding": _pool(_pool_same),
}
