"""Batch normalization by autodiff and with a hand-derived backward, for (B, D) and images (B, H, W, C).

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

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from triptych.describe import layers
from triptych.describe.given import Given
from triptych.errors import UserError

Array = jax.Array
Output = tuple[Array, Array, Array]
"""y, mu (C,) and sigma^2 (C,). No gradient flows back through the two statistics."""


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Output:
    """The forward pass; JAX derives the backward."""
    y, _, mu, variance = _forward(x, gamma, beta, eps)  # backward 47-63
    return y, jax.lax.stop_gradient(mu), jax.lax.stop_gradient(variance)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm_manual(x: Array, gamma: Array, beta: Array, eps: float) -> Output:
    """The same forward pass with the backward of eq. 47-63."""
    y, _, mu, variance = _forward(x, gamma, beta, eps)
    return y, mu, variance


def _manual_forward(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Output, Any]:
    y, cache, mu, variance = _forward(x, gamma, beta, eps)
    return (y, mu, variance), cache


def _manual_backward(eps: float, cache: tuple[Array, Array, Array], d: Output) -> tuple[Array, Array, Array]:
    """From dL/dy; the statistics' cotangents are not passed on, as autodiff's are stopped."""
    xhat, inverse, gamma = cache
    dy = d[0]
    axes = tuple(range(dy.ndim - 1))
    n = dy.size // gamma.size
    dgamma = jnp.sum(dy * xhat, axis=axes)  # eq. 47
    dbeta = jnp.sum(dy, axis=axes)  # eq. 48
    # With g = gamma dy (eq. 51): sum g = gamma dbeta and sum g xhat = gamma dgamma.
    dx = gamma * inverse / n * (n * dy - dbeta - xhat * dgamma)  # eq. 61-63
    return dx, dgamma, dbeta


batch_norm_manual.defvjp(_manual_forward, _manual_backward)


def normalize(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float) -> Array:
    """Evaluation: y from given statistics (C,)."""
    _axes(x, gamma)
    scale = gamma / jnp.sqrt(variance + eps)
    return x * scale + (beta - mean * scale)


def running_update(running: Array, now: Array, momentum: float) -> Array:
    """torch's convention: (1 - momentum) running + momentum now."""
    return (1.0 - momentum) * running + momentum * now


def unbiased(variance: Array, n: int) -> Array:
    """The variance that the running average takes: n / (n - 1) times the biased one."""
    return variance * (n / (n - 1))


def _forward(
    x: Array, gamma: Array, beta: Array, eps: float
) -> tuple[Array, tuple[Array, Array, Array], Array, Array]:
    axes = _axes(x, gamma)
    if x.size // gamma.size < 2:
        raise UserError(
            f"batch norm: expected two values or more in each channel, got x {x.shape}; raise --batch-size"
        )
    mu = jnp.mean(x, axis=axes)
    centred = x - mu
    variance = jnp.mean(jnp.square(centred), axis=axes)
    inverse = 1 / jnp.sqrt(variance + eps)
    xhat = centred * inverse
    y = gamma * xhat + beta
    return y, (xhat, inverse, gamma), mu, variance


def _axes(x: Array, gamma: Array) -> tuple[int, ...]:
    """Axes of one channel's values: all but the last."""
    if x.ndim not in (2, 4) or gamma.shape != x.shape[-1:]:
        raise UserError(
            f"batch norm: expected x (B, {gamma.size}) or (B, H, W, {gamma.size}) for {gamma.size} channels, "
            f"got {x.shape}"
        )
    return tuple(range(x.ndim - 1))


class BatchNorm(nnx.Module):
    """gamma and beta; normalises by the batch's statistics or by those given. In at least float32.

    Not `nnx.BatchNorm`: its default variance cancels in float32; without that its running variance is still
    the biased one (1e-3 off at 100 values a channel), and a step took 1.2 to 1.3 times as long. Running
    averages live outside, so that a step is a pure function.
    """

    def __init__(self, layer: layers.BatchNorm) -> None:
        self.layer = layer
        self.gamma = nnx.Param(jnp.ones((layer.features,)))
        self.beta = nnx.Param(jnp.zeros((layer.features,)))

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        gamma, beta, eps = self.gamma[...], self.beta[...], self.layer.eps
        wide = x.astype(gamma.dtype)
        if not given.by_batch:
            running = given.statistics
            y = normalize(wide, gamma, beta, running["running_mean"], running["running_var"], eps)
            return y.astype(x.dtype)
        y, mu, variance = (batch_norm_manual if self.layer.manual else batch_norm)(wide, gamma, beta, eps)
        now = {"running_mean": mu, "running_var": unbiased(variance, x.size // gamma.size)}
        for name, before in given.statistics.items():
            given.updated[name] = running_update(before, now[name], self.layer.momentum)
        return y.astype(x.dtype)


LAYERS: dict[type, Any] = {layers.BatchNorm: BatchNorm}
