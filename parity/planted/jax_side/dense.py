"""Dense layers, wrong, in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_models import conv, dense, precision
from parity.planted import Patch, Plantings

Array = jax.Array
DROPOUT = dense.dropout


def with_backward(forward: Callable[..., Array], backward: Callable[..., Any]) -> Callable[..., Array]:
    """`forward(*arrays)` with the gradients `backward(dy, *arrays)`."""

    @jax.custom_vjp
    def function(*arrays: Array) -> Array:
        return forward(*arrays)

    def keeping(*arrays: Array) -> tuple[Array, tuple[Array, ...]]:
        return forward(*arrays), arrays

    def pulling(arrays: tuple[Array, ...], dy: Array) -> Any:
        return backward(dy, *arrays)

    function.defvjp(keeping, pulling)
    return function


def tf32(array: Array) -> Array:
    """float32 rounded to ten fraction bits, half up in magnitude; other formats as they are."""
    if array.dtype != jnp.float32:
        return array
    bits = jax.lax.bitcast_convert_type(array, jnp.uint32)
    cut = (bits + jnp.uint32(0x1000)) & jnp.uint32(0xFFFFE000)
    return array + jax.lax.stop_gradient(jax.lax.bitcast_convert_type(cut, jnp.float32) - array)


def _linear(function: Callable[[Array, Array, Array], Array]) -> list[Patch]:
    def linear(x: Array, W: Array, b: Array) -> Array:
        return function(x, W.astype(x.dtype), b.astype(x.dtype))

    return [Patch(dense, "linear", linear)]


def _right(x: Array, W: Array, b: Array) -> Array:
    return x @ W.T + b


def _gradients(dW: Callable[..., Array], db: Callable[[Array], Array]) -> list[Patch]:
    return _linear(with_backward(_right, lambda dy, x, W, b: (dy @ W, dW(dy, x, W), db(dy))))


def _activation(forward: Callable[..., Array], backward: Callable[..., Array]) -> list[Patch]:
    """From x and the slope; dx from dy, x and the slope."""

    def leaky_relu(x: Array, slope: float) -> Array:
        return with_backward(lambda x: forward(x, slope), lambda dy, x: (backward(dy, x, slope),))(x)

    return [Patch(dense, "leaky_relu", leaky_relu)]


def _leaky(x: Array, slope: float) -> Array:
    return jnp.where(x > 0, x, slope * x)


def _from_output(dy: Array, x: Array, slope: float) -> Array:
    return jnp.where(_leaky(x, slope) >= 0, dy, slope * dy)


def _unmasked_backward(x: Array, keep: Array, rate: float) -> Array:
    factor = 1.0 / (1.0 - rate)
    forward = with_backward(lambda x: jnp.where(keep, x * factor, 0), lambda dy, x: (dy * factor,))
    return forward(x)


PLANTINGS: Plantings = {
    "linear-weight-transposed": _linear(lambda x, W, b: x @ (W if W.shape[0] == W.shape[1] else W.T) + b),
    "linear-weight-gradient-transposed": _gradients(
        lambda dy, x, W: x.T @ dy if W.shape[0] == W.shape[1] else dy.T @ x, lambda dy: dy.sum(0)
    ),
    "linear-bias-gradient-averaged": _gradients(lambda dy, x, W: dy.T @ x, lambda dy: dy.mean(0)),
    "linear-tf32": _linear(lambda x, W, b: tf32(x) @ tf32(W).T + b),
    "linear-float16": _linear(lambda x, W, b: _right(x.astype(jnp.float16).astype(x.dtype), W, b)),
    "bfloat16-sums": [Patch(precision, "add_bias", lambda y, b: y + b.astype(y.dtype))],
    "leaky-relu-slope-1-at-zero": [Patch(dense, "leaky_relu", jax.nn.leaky_relu)],
    "leaky-relu-slope-forgotten": [Patch(dense, "leaky_relu", lambda x, slope: jax.nn.relu(x))],
    "leaky-relu-derivative-from-output": _activation(_leaky, _from_output),
    "activation-derivative-skipped": _activation(_leaky, lambda dy, x, slope: dy),
    "dropout-unscaled": [Patch(dense, "dropout", lambda x, keep, rate: jnp.where(keep, x, 0))],
    "dropout-mask-inverted": [Patch(dense, "dropout", lambda x, keep, rate: DROPOUT(x, ~keep, rate))],
    "dropout-mask-not-in-backward": [Patch(dense, "dropout", _unmasked_backward)],
    "flatten-channels-last": [Patch(conv, "flatten", lambda x: x.reshape(len(x), -1))],
}
