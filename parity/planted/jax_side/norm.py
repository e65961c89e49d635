"""Batch normalization, wrong, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jax_models import norm
from parity.planted import Patch, Plantings

Array = jax.Array
BACKWARD = norm._manual_backward


def _two_pass(x: Array, mu: Array, axes: tuple[int, ...]) -> Array:
    return jnp.mean(jnp.square(x - mu), axis=axes)


def _one_pass(x: Array, mu: Array, axes: tuple[int, ...]) -> Array:
    """Flax's default."""
    return jnp.maximum(jnp.mean(x * x, axis=axes) - mu * mu, 0)


def _root(variance: Array, eps: float, n: int) -> Array:
    return 1 / jnp.sqrt(variance + eps)


def _forward(
    inverse: Callable[[Array, float, int], Array] = _root,
    variance: Callable[..., Array] = _two_pass,
    statistic: Callable[[Array], Array] = lambda statistic: statistic,
) -> list[Patch]:
    """The forward pass with another 1 / deviation of (variance, eps, n), another variance, or statistics
    that gradients see otherwise.
    """

    def forward(x: Array, gamma: Array, beta: Array, eps: float) -> Any:
        axes = norm._axes(x, gamma)
        mu = statistic(jnp.mean(x, axis=axes))
        sigma2 = statistic(variance(x, mu, axes))
        i = inverse(sigma2, eps, x.size // gamma.size)
        xhat = (x - mu) * i
        return gamma * xhat + beta, (xhat, i, gamma), mu, sigma2

    return [Patch(norm, "_forward", forward)]


def _manual(backward: Callable[..., Any]) -> list[Patch]:
    """`custom_vjp` keeps the backward that it was given, so it is made anew."""

    @partial(jax.custom_vjp, nondiff_argnums=(3,))
    def function(x: Array, gamma: Array, beta: Array, eps: float) -> Any:
        y, _, mu, variance = norm._forward(x, gamma, beta, eps)
        return y, mu, variance

    function.defvjp(norm._manual_forward, backward)
    return [Patch(norm, "batch_norm_manual", function)]


def _dx(formula: Callable[..., Array]) -> Callable[..., Any]:
    """dx from (dy, xhat, scale = gamma / deviation, mean of dy, mean of dy xhat)."""

    def backward(eps: float, cache: Any, d: Any) -> Any:
        (xhat, inverse, gamma), dy = cache, d[0]
        _, dgamma, dbeta = BACKWARD(eps, cache, d)
        n = dy.size // gamma.size
        return formula(dy, xhat, gamma * inverse, dbeta / n, dgamma / n), dgamma, dbeta

    return backward


def _without_gamma(eps: float, cache: Any, d: Any) -> Any:
    xhat, inverse, gamma = cache
    dx, _, _ = BACKWARD(eps, (xhat, inverse, jnp.ones_like(gamma)), d)
    return dx, *BACKWARD(eps, cache, d)[1:]


def _evaluate_by_batch(
    x: Array, gamma: Array, beta: Array, mean: Array, variance: Array, eps: float
) -> Array:
    return norm._forward(x, gamma, beta, eps)[0]


PLANTINGS: Plantings = {
    "norm-biased-running-variance": [Patch(norm, "unbiased", lambda variance, n: variance)],
    "norm-running-deviation": [
        Patch(norm, "unbiased", lambda variance, n: jnp.sqrt(variance * (n / (n - 1))))
    ],
    "norm-momentum-reversed": [
        Patch(norm, "running_update", lambda running, now, m: m * running + (1.0 - m) * now)
    ],
    "norm-without-xhat-term": _manual(_dx(lambda dy, xhat, scale, mean, inner: scale * (dy - mean))),
    "norm-without-mean-term": _manual(_dx(lambda dy, xhat, scale, mean, inner: scale * (dy - xhat * inner))),
    "norm-statistics-detached": [
        *_forward(statistic=jax.lax.stop_gradient),
        *_manual(_dx(lambda dy, xhat, scale, mean, inner: scale * dy)),
    ],
    "norm-zero-gradient": _manual(_dx(lambda dy, xhat, scale, mean, inner: 0 * dy)),
    "norm-gamma-left-out": _manual(_without_gamma),
    "norm-eps-outside-root": _forward(lambda variance, eps, n: 1 / (jnp.sqrt(variance) + eps)),
    "norm-eps-missing": _forward(lambda variance, eps, n: 1 / jnp.sqrt(variance)),
    "norm-one-pass-variance": _forward(variance=_one_pass),
    "norm-unbiased-normalizes": _forward(lambda variance, eps, n: _root(variance * (n / (n - 1)), eps, n)),
    "norm-evaluates-by-batch": [Patch(norm, "normalize", _evaluate_by_batch)],
}
