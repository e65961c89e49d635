"""Which dtype sums are kept in when a network computes in bfloat16."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of parameters, sums, loss and updates for a network that computes in `dtype`."""
    return jnp.dtype(jnp.float32) if dtype == jnp.bfloat16 else dtype


def add_bias(y: Array, b: Array) -> Array:
    """y + b along the last axis, in at least float32: the gradient of b is a sum over all of y's places,
    and a sum kept in bfloat16 loses every term below 1/256 of it.
    """
    wide = at_least_float32(y.dtype)
    return (y.astype(wide) + b.astype(wide)).astype(y.dtype)
