"""Linear, LeakyReLU and dropout, forward and backward by hand.

Symbols: x^(l-1) input of a layer, x~(l) = W(l) x^(l-1) + b(l) its affine output, a the slope,
L the loss. Rows are samples: x (B, d_in), W (d_out, d_in), b (d_out,). Every `_backward` takes
dy = dL/d(output) and returns dL/d(inputs); the batch mean's 1/B (eq. 45-46) is already in dy.

    dx~/dx = W                                    eq. 25-29
    dx~_i/dW_jk = [i = j] x_k                     eq. 30-32
    dx~/db = I                                    eq. 33-35
    dLeakyReLU/dx~ = diag([x~ > 0] + a [x~ <= 0]) eq. 19-24
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_ref import fast
from triptych.describe import layers
from triptych.describe.given import Given

Array = np.ndarray
Arrays = dict[str, Array]
"""A layer's own parameters or their gradients, by short name (`weight`)."""


def linear(x: Array, W: Array, b: Array) -> tuple[Array, Array]:
    """x (B, d_in), W (d_out, d_in), b (d_out,) to x W^T + b (B, d_out); the cache is x."""
    return x @ W.T + b, x  # eq. 25, each row W x + b


def linear_backward(dy: Array, x: Array, W: Array, need_dx: bool = True) -> tuple[Array | None, Array, Array]:
    """dy (B, d_out) to (dx (B, d_in) or None, dW (d_out, d_in), db (d_out,))."""
    dx = dy @ W if need_dx else None  # eq. 38, from 25-29
    dW = dy.T @ x  # eq. 39-43, from 30-32: (dL/dx~)^T x^T summed over the batch
    db = dy.sum(axis=0)  # eq. 44, from 33-35
    return dx, dW, db


def leaky_relu(x: Array, slope: float) -> tuple[Array, Array]:
    """max(0, x) + a min(0, x), elementwise, any shape; the cache is x."""
    return np.where(x > 0, x, slope * x), x  # eq. 19


def leaky_relu_backward(dy: Array, x: Array, slope: float) -> Array:
    """dy times [x > 0] + a [x <= 0]: the slope is used at exactly 0."""
    return np.where(x > 0, dy, slope * dy)  # eq. 37, from 19-24


def dropout(x: Array, keep: Array, rate: float) -> Array:
    """x with the entries not in `keep` (bool, x's shape) at 0 and the others over 1 - rate."""
    return np.where(keep, x * (1.0 / (1.0 - rate)), 0)


def dropout_backward(dy: Array, keep: Array, rate: float) -> Array:
    """The same linear map as forward: it is diagonal, so its own transpose."""
    return dropout(dy, keep, rate)


# --- as layers of a network: forward from the layer's own parameters, backward to their gradients ---


class Linear:
    """Keeps x."""

    def __init__(self, layer: layers.Linear) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        return linear(x, theta["weight"], theta["bias"])

    def backward(
        self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True
    ) -> tuple[Array | None, Arrays]:
        dx, dW, db = linear_backward(dy, cache, theta["weight"], need_dx)
        return dx, {"weight": dW, "bias": db}


class LeakyReLU:
    """Trains by `fast.leaky_relu`; keeps x."""

    def __init__(self, layer: layers.LeakyReLU) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        return fast.leaky_relu(x, self.layer.slope)

    def backward(self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True) -> tuple[Array, Arrays]:
        return fast.leaky_relu_backward(dy, cache, self.layer.slope), {}


class Dropout:
    """Keeps the mask; without one, in evaluation, the identity."""

    def __init__(self, layer: layers.Dropout) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        return (x if given.keep is None else dropout(x, given.keep, self.layer.rate)), given.keep

    def backward(self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True) -> tuple[Array, Arrays]:
        return (dy if cache is None else dropout_backward(dy, cache, self.layer.rate)), {}


LAYERS: dict[type, Any] = {layers.Linear: Linear, layers.LeakyReLU: LeakyReLU, layers.Dropout: Dropout}
