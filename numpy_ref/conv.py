"""Convolution and max-pooling of images, forward and backward by hand.

Symbols: x the input (B, C, H, W), xp x surrounded by zeros (padding p), W (O, C, kh, kw), b (O,), y the
output (B, O, H', W'), s the stride; (i, j) a place in y, (k, l) one in the kernel, (u, v) one in xp.
P, the patches, holds for each place (i, j) of y what the window sees there: P (B, H', W', kh, kw, C).

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                               eq. 64
    P_ijklc = xp_c,si+k,sj+l,  y_oij = b_o + sum_klc P_ijklc W_ockl           eq. 65
    dL/dW_ockl = sum_ij dL/dy_oij P_ijklc                                     eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                eq. 68
    dy_oij/dxp_cuv = W_oc,u-si,v-sj inside the kernel, else 0                 eq. 69
    dL/dP_ijklc = sum_o dL/dy_oij W_ockl                                      eq. 70
    dL/dxp_cuv = the sum of dL/dP where P copied xp_cuv                       eq. 71
    dL/dx is dL/dxp without its border                                        eq. 72
    y_cij = max_kl x_c,si+k-p,sj+l-p over places inside the image             eq. 75
    (k*, l*) = the first place in reading order that attains it               eq. 76
    dL/dx_cuv = the sum of dL/dy_cij over windows whose (k*, l*) is (u, v)    eq. 77-78

Sums run over the batch too. These are the plain forms; a network trains with those of `fast`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from numpy_ref import fast
from numpy_ref.windows import Image, pad, padded_shape, places, unpad, windows
from triptych.describe import layers
from triptych.describe.given import Given
from triptych.describe.layers import Window
from triptych.errors import UserError

Array = np.ndarray
Arrays = dict[str, Array]
"""A layer's own parameters or their gradients, by short name (`weight`)."""


class ConvCache(NamedTuple):
    """What `conv2d_backward` needs of the forward pass."""

    patches: Array
    """P (B, H', W', kh, kw, C), a view of the padded image."""
    image: Image
    window: Window


def conv2d(x: Array, W: Array, b: Array | None, window: Window) -> tuple[Array, ConvCache]:
    """x (B, C, H, W), W (O, C, kh, kw), b (O,) or None to (y (B, O, H', W'), cache).

    Raises UserError for shapes that do not fit each other or the window.
    """
    _check(x, W, window)
    P = windows(pad(x, window, 0), window)
    y = np.einsum("bijklc,ockl->boij", P, W)  # eq. 64-65
    if b is not None:
        y = y + b[:, None, None]
    return y, ConvCache(P, x.shape, window)


def conv2d_backward(
    dy: Array, cache: ConvCache, W: Array, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """dy (B, O, H', W') to (dx (B, C, H, W) or None, dW (O, C, kh, kw), db (O,))."""
    dW = np.einsum("boij,bijklc->ockl", dy, cache.patches)  # eq. 66-67
    db = np.einsum("boij->o", dy)  # eq. 68
    if not need_dx:
        return None, dW, db
    dP = np.einsum("boij,ockl->bijklc", dy, W)  # eq. 69-70
    dxp = np.zeros(padded_shape(cache.image, cache.window), dy.dtype)
    for (k, l), place in places(cache.window, dy.shape[2:]):
        dxp[place] += dP[:, :, :, k, l]  # eq. 71
    return unpad(dxp, cache.image, cache.window), dW, db  # eq. 72


class PoolCache(NamedTuple):
    """What `max_pool2d_backward` needs of the forward pass."""

    first: Array
    """(k*, l*) of each window as k* kw + l*, y's shape."""
    image: Image
    window: Window


def max_pool2d(x: Array, window: Window) -> tuple[Array, PoolCache]:
    """x (B, C, H, W) to (y (B, C, H', W'), cache). Padding never wins; NaN does.

    Raises UserError for a shape that the window does not fit.
    """
    _check_image(x, window)
    P = windows(pad(x, window, -np.inf), window)
    y = P.max(axis=(3, 4))  # eq. 75
    real = windows(pad(np.ones(x.shape, bool), window, False), window)
    attains = real & ((y[:, :, :, None, None] == P) | np.isnan(P))
    first = attains.reshape(*y.shape[:3], -1, y.shape[3]).argmax(
        axis=3
    )  # eq. 76: argmax takes the first True
    return y.transpose(0, 3, 1, 2), PoolCache(first.transpose(0, 3, 1, 2), x.shape, window)


def max_pool2d_backward(dy: Array, cache: PoolCache) -> Array:
    """dy (B, C, H', W') to dx (B, C, H, W): each window's gradient goes to its first maximum."""
    upstream, first = dy.transpose(0, 2, 3, 1), cache.first.transpose(0, 2, 3, 1)
    dxp = np.zeros(padded_shape(cache.image, cache.window), dy.dtype)
    for (k, l), place in places(cache.window, dy.shape[2:]):
        dxp[place] += np.where(first == k * cache.window.kernel[1] + l, upstream, 0)  # eq. 77-78
    return unpad(dxp, cache.image, cache.window)


def flatten(x: Array) -> Array:
    """(B, C, H, W) to (B, C H W), channel by channel."""
    return x.reshape(len(x), -1)


def _check(x: Array, W: Array, window: Window) -> None:
    if x.ndim != 4 or W.ndim != 4 or x.shape[1] != W.shape[1] or W.shape[2:] != window.kernel:
        kh, kw = window.kernel
        raise UserError(
            f"convolution: expected x (B, C, H, W) and W (O, C, {kh}, {kw}) with the same C, got x {x.shape} "
            f"and W {W.shape}"
        )
    window.output(*x.shape[2:])


def _check_image(x: Array, window: Window) -> None:
    if x.ndim != 4:
        raise UserError(f"max-pool: expected x (B, C, H, W), got {x.shape}")
    window.output(*x.shape[2:])


# --- as layers of a network: forward from the layer's own parameters, backward to their gradients ---


class Conv2d:
    """Trains by `fast.conv2d`."""

    def __init__(self, layer: layers.Conv2d) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        _check(x, theta["weight"], self.layer.window)
        return fast.conv2d(x, theta["weight"], theta.get("bias"), self.layer.window)

    def backward(
        self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True
    ) -> tuple[Array | None, Arrays]:
        dx, dW, db = fast.conv2d_backward(dy, cache, theta["weight"], need_dx)
        return dx, {"weight": dW, "bias": db} if self.layer.bias else {"weight": dW}


class MaxPool2d:
    """Trains by `fast.max_pool2d`."""

    def __init__(self, layer: layers.MaxPool2d) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        _check_image(x, self.layer.window)
        return fast.max_pool2d(x, self.layer.window)

    def backward(self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True) -> tuple[Array, Arrays]:
        return fast.max_pool2d_backward(dy, cache), {}


class Flatten:
    """Keeps x's shape."""

    def __init__(self, layer: layers.Flatten) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        return flatten(x), x.shape

    def backward(self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True) -> tuple[Array, Arrays]:
        return dy.reshape(cache), {}


LAYERS: dict[type, Any] = {layers.Conv2d: Conv2d, layers.MaxPool2d: MaxPool2d, layers.Flatten: Flatten}
