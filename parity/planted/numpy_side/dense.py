"""Dense layers, wrong, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_ref import conv, dense, fast
from parity.planted import Patch, Plantings

Array = np.ndarray[Any, Any]
FORWARD, BACKWARD = dense.linear, dense.linear_backward
DROPOUT = dense.dropout


def tf32(array: Array) -> Array:
    """float32 rounded to ten fraction bits, half up in magnitude; other formats as they are."""
    if array.dtype != np.float32:
        return array
    return ((array.copy().view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _transposed(x: Array, W: Array, b: Array) -> tuple[Array, Array]:
    return x @ (W if W.shape[0] == W.shape[1] else W.T) + b, x


def _gradient_transposed(dy: Array, x: Array, W: Array, need_dx: bool = True) -> Any:
    dx, dW, db = BACKWARD(dy, x, W, need_dx)
    return dx, x.T @ dy if W.shape[0] == W.shape[1] else dW, db


def _averaged(dy: Array, x: Array, W: Array, need_dx: bool = True) -> Any:
    dx, dW, _ = BACKWARD(dy, x, W, need_dx)
    return dx, dW, dy.mean(axis=0)


def _in_tf32(x: Array, W: Array, b: Array) -> tuple[Array, Array]:
    return FORWARD(tf32(x), tf32(W), b)[0], x


def _in_float16(x: Array, W: Array, b: Array) -> tuple[Array, Array]:
    return FORWARD(x.astype(np.float16).astype(x.dtype), W, b)[0], x


def _cache_output(x: Array, slope: float) -> tuple[Array, Array]:
    y = np.where(x > 0, x, slope * x)
    return y, y


def _flatten_pixels(self: Any, x: Array, theta: Any, given: Any) -> Any:
    last = x.transpose(0, 2, 3, 1)
    return last.reshape(len(x), -1), last.shape


def _unflatten_pixels(self: Any, dy: Array, theta: Any, cache: Any, need_dx: bool = True) -> Any:
    return dy.reshape(cache).transpose(0, 3, 1, 2), {}


PLANTINGS: Plantings = {
    "linear-weight-transposed": [Patch(dense, "linear", _transposed)],
    "linear-weight-gradient-transposed": [Patch(dense, "linear_backward", _gradient_transposed)],
    "linear-bias-gradient-averaged": [Patch(dense, "linear_backward", _averaged)],
    "linear-tf32": [Patch(dense, "linear", _in_tf32)],
    "linear-float16": [Patch(dense, "linear", _in_float16)],
    "leaky-relu-slope-1-at-zero": [
        Patch(fast, "leaky_relu_backward", lambda dy, x, slope: np.where(x >= 0, dy, slope * dy))
    ],
    "leaky-relu-slope-forgotten": [
        Patch(fast, "leaky_relu", lambda x, slope: (np.maximum(x, 0), x)),
        Patch(fast, "leaky_relu_backward", lambda dy, x, slope: dy * (x > 0)),
    ],
    "leaky-relu-derivative-from-output": [
        Patch(fast, "leaky_relu", _cache_output),
        Patch(fast, "leaky_relu_backward", lambda dy, y, slope: np.where(y >= 0, dy, slope * dy)),
    ],
    "activation-derivative-skipped": [Patch(fast, "leaky_relu_backward", lambda dy, x, slope: dy)],
    "dropout-unscaled": [Patch(dense, "dropout", lambda x, keep, rate: np.where(keep, x, 0))],
    "dropout-mask-inverted": [Patch(dense, "dropout", lambda x, keep, rate: DROPOUT(x, ~keep, rate))],
    "dropout-mask-not-in-backward": [
        Patch(dense, "dropout_backward", lambda dy, keep, rate: dy * (1.0 / (1.0 - rate)))
    ],
    "flatten-channels-last": [
        Patch(conv.Flatten, "forward", _flatten_pixels),
        Patch(conv.Flatten, "backward", _unflatten_pixels),
    ],
}
