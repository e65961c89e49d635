"""Evaluation of a network, layer by layer, on inputs that may themselves carry errors.

Linear, Conv2d   inner products, the bias added last or among the products         eq. 25, 64
LeakyReLU        f(x') - f(x) is at most max(1, slope) |x' - x|; then the product is rounded
MaxPool2d        the largest value, with the largest error in the window            eq. 75
BatchNorm        by running statistics, s = gamma / sqrt(var + eps):
                 x s + (beta - mean s), (x - mean) / sqrt(...) gamma + beta, or (x - mean) s + beta
Dropout          the identity; Flatten only moves
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiment.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d, Window
from parity.bounded import UP, Bounded, either
from parity.rounding import Array, Rounding
from parity.truth.dense import with_bias


def evaluate(layer: Layer, own: Mapping[str, Array], x: Bounded) -> Bounded:
    """The layer's output in evaluation; `own` are its canonical arrays by the last part of their names."""
    r = x.r
    exact = {name: Bounded.exact(array, r) for name, array in own.items()}
    match layer:
        case Linear():
            return _affine(x, exact["weight"], exact.get("bias"))
        case Conv2d(_, _, out, window):
            rows, columns = window.output(*x.shape[2:])
            patches = _patches(x, window, 0.0)  # (B, H' W', C, kh kw)
            flat = patches.reshape(len(x) * rows * columns, -1)
            y = _affine(flat, exact["weight"].reshape(out, -1), exact.get("bias"))
            return y.reshape(len(x), rows, columns, out).transpose(0, 3, 1, 2)
        case MaxPool2d(_, window):
            rows, columns = window.output(*x.shape[2:])
            patches = _patches(x, window, -np.inf)
            largest = Bounded(patches.value.max(axis=-1), patches.error.max(axis=-1), r)
            return largest.reshape(len(x), rows, columns, -1).transpose(0, 3, 1, 2)
        case Flatten():
            return x.reshape(len(x), -1)
        case LeakyReLU(_, slope):
            return _leaky_relu(x, slope)
        case BatchNorm(_, _, eps):
            return _batch_norm(x, exact, eps)
        case Dropout():
            return x


def _affine(x: Bounded, W: Bounded, b: Bounded | None) -> Bounded:
    """x (n, K), W (out, K) and perhaps b (out,)."""
    if b is None:
        return x @ W.T
    after = x @ W.T + b
    return either(after, Bounded(after.value, with_bias(x, W, b), x.r))


def _patches(x: Bounded, window: Window, border: float) -> Bounded:
    """(B, C, H, W) to (B, H' W', C, kh kw)."""

    def cut(array: Array, around: float) -> Array:
        (p, q), (k, l), (s, t) = window.padding, window.kernel, window.stride
        padded = np.pad(array, ((0, 0), (0, 0), (p, p), (q, q)), constant_values=around)
        slid = np.lib.stride_tricks.sliding_window_view(padded, (k, l), axis=(2, 3))[:, :, ::s, ::t]
        batch, channels, rows, columns = slid.shape[:4]
        return slid.transpose(0, 2, 3, 1, 4, 5).reshape(batch, rows * columns, channels, k * l)

    return Bounded(cut(x.value, border), cut(x.error, 0.0), x.r)


def _leaky_relu(x: Bounded, slope: float) -> Bounded:
    scaled = x * slope
    kept = np.abs(x.value).astype(np.float64) > x.error  # every admitted x' has the sign of x
    moved = x.error * max(1.0, slope)
    error = np.where(x.value > 0, x.error, scaled.error)
    error = np.where(kept | (x.error == 0), error, (moved + scaled.error) * UP)
    return Bounded(np.where(x.value > 0, x.value, scaled.value), error, x.r)


def _batch_norm(x: Bounded, own: Mapping[str, Bounded], eps: float) -> Bounded:
    r: Rounding = x.r
    along = (-1,) if x.ndim == 2 else (-1, 1, 1)
    gamma, beta, mean, variance = (
        own[name].reshape(along) for name in ("gamma", "beta", "running_mean", "running_var")
    )
    i = (variance + Bounded.constant(eps, r)).rsqrt(least=eps * (1 - 3 * r.u))
    s, centred = gamma * i, x - mean
    return either(x * s + (beta - mean * s), centred * i * gamma + beta, centred * s + beta)
