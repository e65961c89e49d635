"""Batch normalization, forward and backward by hand, for (B, D) and for images (B, C, H, W) per channel.

Symbols: x the input, mu and sigma^2 its mean and biased variance over the n values of a channel (the
batch; for images batch, height and width), xhat the normalised input, y the output, gamma and beta (C,)
scale and shift; g = dL/dxhat. Statistics take two passes: mean first, then the mean square of x - mu.

    xhat = (x - mu) / sqrt(sigma^2 + eps),  y = gamma xhat + beta
    dL/dgamma = sum dL/dy xhat                                                eq. 47
    dL/dbeta = sum dL/dy                                                      eq. 48
    g = dL/dxhat = gamma dL/dy                                                eq. 51
    dxhat/dx = 1/sqrt(sigma^2 + eps),  dxhat/dmu = -1/sqrt(sigma^2 + eps),
    dsigma^2/dmu = 0                                                          eq. 52-55
    dL/dsigma^2 = -1/2 (sigma^2 + eps)^(-3/2) sum g (x - mu)                  eq. 56-57
    dL/dmu = -sum g / sqrt(sigma^2 + eps)                                     eq. 58
    dmu/dx = 1/n,  dsigma^2/dx = 2 (x - mu) / n                               eq. 59-60
    dL/dx = (sigma^2 + eps)^(-1/2) / n (n g - sum g - xhat sum g xhat)        eq. 61-63
"""

from __future__ import annotations

from typing import Any

import numpy as np

from triptych.describe import layers
from triptych.describe.given import Given
from triptych.errors import UserError

Array = np.ndarray
Arrays = dict[str, Array]
"""A layer's own parameters or their gradients, by short name (`gamma`)."""
Cache = tuple[Array, Array, Array]
"""xhat, 1 / sqrt(sigma^2 + eps) and gamma, the last two shaped to meet x."""


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Cache, Array, Array]:
    """x to (y, cache, mu (C,), sigma^2 (C,)); raises UserError for a shape or batch that has none."""
    axes, along = _axes(x, gamma)
    n = x.size // gamma.size
    if n < 2:
        raise UserError(
            f"batch norm: expected two values or more in each channel, got x {x.shape}; raise --batch-size"
        )
    # Sums along the batch axis go one row at a time in NumPy: in float32 their error grows with n.
    mu = x.mean(axis=axes, dtype=np.float64, keepdims=True).astype(x.dtype)
    xhat = x - mu
    variance = np.square(xhat).mean(axis=axes, dtype=np.float64, keepdims=True).astype(x.dtype)
    inverse = 1 / np.sqrt(variance + eps)
    xhat *= inverse
    y = gamma.reshape(along) * xhat
    y += beta.reshape(along)
    return y, (xhat, inverse, gamma.reshape(along)), mu.reshape(-1), variance.reshape(-1)


def batch_norm_backward(dy: Array, cache: Cache) -> tuple[Array, Array, Array]:
    """dy, of x's shape, to (dx, dgamma (C,), dbeta (C,))."""
    xhat, inverse, gamma = cache
    axes, _ = _axes(dy, gamma.reshape(-1))
    n = dy.size // gamma.size
    dgamma = (dy * xhat).sum(axis=axes, keepdims=True)  # eq. 47
    dbeta = dy.sum(axis=axes, keepdims=True)  # eq. 48
    # With g = gamma dy (eq. 51): sum g = gamma dbeta and sum g xhat = gamma dgamma.
    dx = gamma * inverse / n * (n * dy - dbeta - xhat * dgamma)  # eq. 61-63
    return dx, dgamma.reshape(-1), dbeta.reshape(-1)


def batch_norm_staged_backward(dy: Array, x: Array, gamma: Array, eps: float) -> dict[int, Array]:
    """dy to each of eq. 51 to 62 under its number, one line an equation; 61 and 62 are dx.

    mu and sigma^2 count as variables of their own in 52, 54, 55 and 57. What is one number a channel keeps
    axes of length 1 to meet x. `batch_norm_backward` is the same dx simplified (eq. 63).
    """
    axes, along = _axes(x, gamma)
    n = x.size // gamma.size

    def total(a: Array) -> Array:
        return a.sum(axis=axes, keepdims=True)

    centred = x - total(x) / n
    inverse = (total(np.square(centred)) / n + eps) ** -0.5
    g = gamma.reshape(along) * dy  # eq. 51: dL/dxhat
    dxhat_dx = inverse  # eq. 52
    dxhat_dmu = -inverse  # eq. 54
    dvariance_dmu = -2 / n * total(centred)  # eq. 55: 0
    dxhat_dvariance = centred * -0.5 * inverse**3  # eq. 57
    dvariance = total(g * dxhat_dvariance)  # eq. 56
    dmu = total(g * dxhat_dmu) + dvariance * dvariance_dmu  # eq. 53
    dmu_short = -inverse * total(g)  # eq. 58: by eq. 55
    dmu_dx = np.full_like(inverse, 1 / n)  # eq. 59
    dvariance_dx = 2 / n * centred  # eq. 60
    dx = g * dxhat_dx + dmu * dmu_dx + dvariance * dvariance_dx  # eq. 61: the three paths
    dx_out = g * inverse - inverse / n * total(g) - centred * inverse**3 / n * total(g * centred)  # eq. 62
    return {
        51: g, 52: dxhat_dx, 53: dmu, 54: dxhat_dmu, 55: dvariance_dmu, 56: dvariance, 57: dxhat_dvariance,
        58: dmu_short, 59: dmu_dx, 60: dvariance_dx, 61: dx, 62: dx_out,
    }  # fmt: skip


def normalize(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float) -> Array:
    """Evaluation: y from given statistics (C,)."""
    _, along = _axes(x, gamma)
    scale = gamma / np.sqrt(variance + eps)
    return x * scale.reshape(along) + (beta - mean * scale).reshape(along)


def running_update(running: Array, now: Array, momentum: float) -> Array:
    """torch's convention: (1 - momentum) running + momentum now."""
    return (1.0 - momentum) * running + momentum * now


def unbiased(variance: Array, n: int) -> Array:
    """The variance that the running average takes: n / (n - 1) times the biased one."""
    return variance * (n / (n - 1))


def _axes(x: Array, gamma: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes of one channel's values, and the shape that lays (C,) along x."""
    if x.ndim not in (2, 4) or gamma.shape != x.shape[1:2]:
        raise UserError(
            f"batch norm: expected x (B, {gamma.size}) or (B, {gamma.size}, H, W) for {gamma.size} channels, "
            f"got {x.shape}"
        )
    if x.ndim == 2:
        return (0,), (1, -1)
    return (0, 2, 3), (1, -1, 1, 1)


class BatchNorm:
    """As a layer of a network: forward from its own parameters, backward to their gradients."""

    def __init__(self, layer: layers.BatchNorm) -> None:
        self.layer = layer

    def forward(self, x: Array, theta: Arrays, given: Given[Array]) -> tuple[Array, Any]:
        gamma, beta, eps = theta["gamma"], theta["beta"], self.layer.eps
        if not given.by_batch:
            running = given.statistics
            return normalize(x, gamma, beta, running["running_mean"], running["running_var"], eps), None
        y, cache, mu, variance = batch_norm(x, gamma, beta, eps)
        now = {"running_mean": mu, "running_var": unbiased(variance, x.size // gamma.size)}
        for name, before in given.statistics.items():
            given.updated[name] = running_update(before, now[name], self.layer.momentum)
        return y, cache

    def backward(self, dy: Array, theta: Arrays, cache: Any, need_dx: bool = True) -> tuple[Array, Arrays]:
        dx, dgamma, dbeta = batch_norm_backward(dy, cache)
        return dx, {"gamma": dgamma, "beta": dbeta}


LAYERS: dict[type, Any] = {layers.BatchNorm: BatchNorm}
