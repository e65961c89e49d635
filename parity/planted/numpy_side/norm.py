"""Batch normalization, wrong, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from numpy_ref import norm
from parity.planted import Patch, Plantings

Array = np.ndarray[Any, Any]
BACKWARD = norm.batch_norm_backward


def _two_pass(x: Array, mu: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.square(x - mu).mean(axis=axes, dtype=np.float64, keepdims=True).astype(x.dtype))


def _one_pass(x: Array, mu: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.maximum((x * x).mean(axis=axes, keepdims=True) - mu * mu, 0))


def _root(variance: Array, eps: float, n: int) -> Array:
    return 1 / np.sqrt(variance + eps)


def _forward(
    inverse: Callable[[Array, float, int], Array] = _root, variance: Callable[..., Array] = _two_pass
) -> list[Patch]:
    """The forward pass with another 1 / deviation of (variance, eps, n), or another variance."""

    def forward(x: Array, gamma: Array, beta: Array, eps: float) -> Any:
        axes, along = norm._axes(x, gamma)
        mu = x.mean(axis=axes, dtype=np.float64, keepdims=True).astype(x.dtype)
        sigma2 = variance(x, mu, axes)
        i = inverse(sigma2, eps, x.size // gamma.size).astype(x.dtype)
        xhat = (x - mu) * i
        y = gamma.reshape(along) * xhat + beta.reshape(along)
        return y, (xhat, i, gamma.reshape(along)), mu.reshape(-1), sigma2.reshape(-1)

    return [Patch(norm, "batch_norm", forward)]


def _dx(formula: Callable[..., Array]) -> list[Patch]:
    """The backward pass with dx from (dy, xhat, scale = gamma / deviation, mean of dy, mean of dy xhat)."""

    def backward(dy: Array, cache: Any) -> Any:
        _, dgamma, dbeta = BACKWARD(dy, cache)
        xhat, inverse, gamma = cache
        axes, _ = norm._axes(dy, gamma.reshape(-1))
        means = dy.mean(axis=axes, keepdims=True), (dy * xhat).mean(axis=axes, keepdims=True)
        return formula(dy, xhat, gamma * inverse, *means), dgamma, dbeta

    return [Patch(norm, "batch_norm_backward", backward)]


def _without_gamma(dy: Array, cache: Any) -> Any:
    xhat, inverse, gamma = cache
    dx, _, _ = BACKWARD(dy, (xhat, inverse, np.ones_like(gamma)))
    return dx, *BACKWARD(dy, cache)[1:]


PLANTINGS: Plantings = {
    "norm-biased-running-variance": [Patch(norm, "unbiased", lambda variance, n: variance)],
    "norm-running-deviation": [
        Patch(norm, "unbiased", lambda variance, n: np.sqrt(variance * (n / (n - 1))))
    ],
    "norm-momentum-reversed": [
        Patch(norm, "running_update", lambda running, now, m: m * running + (1.0 - m) * now)
    ],
    "norm-without-xhat-term": _dx(lambda dy, xhat, scale, mean, inner: scale * (dy - mean)),
    "norm-without-mean-term": _dx(lambda dy, xhat, scale, mean, inner: scale * (dy - xhat * inner)),
    "norm-statistics-detached": _dx(lambda dy, xhat, scale, mean, inner: scale * dy),
    "norm-zero-gradient": _dx(lambda dy, xhat, scale, mean, inner: 0 * dy),
    "norm-gamma-left-out": [Patch(norm, "batch_norm_backward", _without_gamma)],
    "norm-eps-outside-root": _forward(lambda variance, eps, n: 1 / (np.sqrt(variance) + eps)),
    "norm-eps-missing": _forward(lambda variance, eps, n: 1 / np.sqrt(variance)),
    "norm-one-pass-variance": _forward(variance=_one_pass),
    "norm-unbiased-normalizes": _forward(lambda variance, eps, n: _root(variance * (n / (n - 1)), eps, n)),
    "norm-evaluates-by-batch": [
        Patch(
            norm,
            "normalize",
            lambda x, gamma, beta, mean, variance, eps: norm.batch_norm(x, gamma, beta, eps)[0],
        )
    ],
}
