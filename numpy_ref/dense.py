"""Linear, LeakyReLU and dropout, forward and backward by hand.

Symbols: x^(l-1) input of a layer, x~(l) = W(l) x^(l-1) + b(l) its affine output, a the slope,
L the loss. Rows are samples: x (B, d_in), W (d_out, d_in), b (d_out,). Every `backward` takes
dy = dL/d(output) and returns dL/d(inputs); the batch mean's 1/B (eq. 45-46) is already in dy.

    dx~/dx = W                                    eq. 25-29
    dx~_i/dW_jk = [i = j] x_k                     eq. 30-32
    dx~/db = I                                    eq. 33-35
    dLeakyReLU/dx~ = diag([x~ > 0] + a [x~ <= 0]) eq. 19-24
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def linear_forward(x: Array, W: Array, b: Array) -> tuple[Array, Array]:
    """x (B, d_in), W (d_out, d_in), b (d_out,) to x W^T + b (B, d_out); the cache is x."""
    y = x @ W.T  # eq. 25, each row W x
    y += b
    return y, x


def linear_backward(dy: Array, x: Array, W: Array, need_dx: bool = True) -> tuple[Array | None, Array, Array]:
    """dy (B, d_out) to (dx (B, d_in) or None, dW (d_out, d_in), db (d_out,))."""
    dx = dy @ W if need_dx else None  # eq. 38, from 25-29
    dW = dy.T @ x  # eq. 39-43: (dL/dx~)^T x^T summed over the batch
    db = dy.sum(axis=0)  # eq. 44
    return dx, dW, db


def leaky_relu_forward(x: Array, slope: float) -> tuple[Array, Array]:
    """max(0, x) + a min(0, x), elementwise, any shape; the cache is x."""
    # Sums and products, exact here: np.where would choose value by value, many times slower on mixed signs.
    y = np.maximum(x, 0)  # eq. 19
    if slope:
        y += slope * np.minimum(x, 0)
    return y, x


def leaky_relu_backward(dy: Array, x: Array, slope: float) -> Array:
    """dy times [x > 0] + a [x <= 0]: the slope is used at exactly 0."""
    right = x > 0
    derivative = right + x.dtype.type(slope) * ~right if slope else right
    return dy * derivative  # eq. 37, from 19-24


def dropout_forward(x: Array, keep: Array, rate: float) -> Array:
    """x with the entries not in `keep` (bool, x's shape) at 0 and the others over 1 - rate."""
    return np.where(keep, x * (1.0 / (1.0 - rate)), 0)


def dropout_backward(dy: Array, keep: Array, rate: float) -> Array:
    """The same linear map as forward: it is diagonal, so its own transpose."""
    return dropout_forward(dy, keep, rate)
