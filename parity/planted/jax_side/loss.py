"""Losses, wrong, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_models import backend, loss
from parity.planted import Patch, Plantings
from parity.planted.jax_side.dense import with_backward

Array = jax.Array
PER_SAMPLE, OBJECTIVE = loss.per_sample, backend.JaxBackend._objective


def _summed(self: Any, *arguments: Any) -> Any:
    value, rest = OBJECTIVE(self, *arguments)
    return value * self.experiment.data.batch_size, rest


def _shifted(kind: str, s: Array, labels: Array, smoothing: float = 0.0) -> Array:
    return PER_SAMPLE(kind, s, (labels + 1) % s.shape[1], smoothing)


def _to_others(labels: Array, classes: int, smoothing: float, dtype: Any) -> Array:
    hot = jax.nn.one_hot(labels, classes, dtype=dtype)
    return hot * (1.0 - smoothing) + (1 - hot) * (smoothing / max(classes - 1, 1))


def _log_sum(s: Array, t: Array) -> Array:
    return jnp.sum(t * (jnp.log(jnp.sum(jnp.exp(s), axis=1, keepdims=True)) - s), axis=1)


def _softmax(backward: Callable[[Array, Array], Array]) -> list[Patch]:
    """The squared error of a softmax with its gradient written by hand: ds from dp and p."""
    softmax = with_backward(jax.nn.softmax, lambda dp, s: (backward(dp, jax.nn.softmax(s)),))

    def squared_error(s: Array, t: Array) -> Array:
        return jnp.sum(jnp.square(softmax(s) - t), axis=1)

    return [Patch(loss, "squared_error", squared_error)]


def _plus(dp: Array, p: Array) -> Array:
    return p * (dp - 2 * dp * p + (dp * p).sum(axis=1, keepdims=True))


def _hinge(s: Array, labels: Array) -> Array:
    """`maximum`, whose derivative is 1/2 at a tie."""
    true = jax.nn.one_hot(labels, s.shape[1], dtype=bool)
    margins = 1 - jnp.take_along_axis(s, labels[:, None], axis=1) + s
    return jnp.sum(jnp.where(true, 0, jnp.maximum(margins, 0)), axis=1) / s.shape[1]


def _penalty(weights: list[Array], l2: float) -> Array:
    return l2 * sum((jnp.vdot(W, W) for W in weights), start=jnp.zeros((), weights[0].dtype))


PLANTINGS: Plantings = {
    "loss-sum-for-mean": [Patch(backend.JaxBackend, "_objective", _summed)],
    "loss-labels-shifted": [Patch(loss, "per_sample", _shifted)],
    "loss-smoothing-over-others": [Patch(loss, "targets", _to_others)],
    "softmax-without-maximum": [Patch(loss, "softmax_cross_entropy", _log_sum)],
    "softmax-jacobian-sign": _softmax(_plus),
    "softmax-zero-gradient": _softmax(lambda dp, p: 0 * dp),
    "softmax-jacobian-diagonal": _softmax(lambda dp, p: dp * p * (1 - p)),
    "hinge-counts-zero-margins": [Patch(loss, "hinge", _hinge)],
    "l2-without-half": [Patch(loss, "l2_penalty", _penalty)],
}
