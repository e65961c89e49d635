"""Linear, LeakyReLU and dropout as Flax NNX modules; the gradients are JAX's.

Symbols: x^(l-1) input of a layer, x~(l) = W(l) x^(l-1) + b(l) its affine output, a the slope.
Rows are samples: x (B, d_in), W (d_out, d_in), b (d_out,). What autodiff must give back:

    dx~/dx = W                                    eq. 25-29
    dx~_i/dW_jk = [i = j] x_k                     eq. 30-32
    dx~/db = I                                    eq. 33-35
    dLeakyReLU/dx~ = diag([x~ > 0] + a [x~ <= 0]) eq. 19-24
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

Array = jax.Array


class Linear(nnx.Module):
    """x (B, d_in) to x W^T + b (B, d_out).

    Flax's own Linear keeps its kernel as (in, out). Ours is canonical, (out, in): no transpose at the
    border, and on a CPU the weight gradient (dL/dx~)^T x is twice as fast as x^T dL/dx~.
    Parameters are cast to x's dtype, so bfloat16 activations meet float32 master weights.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        self.weight = nnx.Param(jnp.zeros((out_features, in_features)))
        self.bias = nnx.Param(jnp.zeros((out_features,)))

    def __call__(self, x: Array) -> Array:
        return add_bias(x @ self.weight[...].astype(x.dtype).T, self.bias[...])  # eq. 25; 30-35, 38-44


def at_least_float32(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of parameters, sums, loss and updates for a network that computes in `dtype`."""
    return jnp.dtype(jnp.float32) if dtype == jnp.bfloat16 else dtype


def add_bias(y: Array, b: Array) -> Array:
    """y + b along the last axis, in at least float32: the gradient of b is a sum over all of y's places,
    and a sum kept in bfloat16 loses every term below 1/256 of it.
    """
    wide = at_least_float32(y.dtype)
    return (y.astype(wide) + b.astype(wide)).astype(y.dtype)


class LeakyReLU(nnx.Module):
    """max(0, x) + a min(0, x). Not `jax.nn.leaky_relu`: its derivative at exactly 0 is 1, not a."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, x: Array) -> Array:
        return jnp.where(x > 0, x, self.slope * x)  # eq. 19; backward 20-24, 37


class Dropout(nnx.Module):
    """x with the entries not in `keep` (bool, x's shape) at 0 and the others over 1 - rate.

    Not `nnx.Dropout`: the mask comes from the shared NumPy source, the same for all backends.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, x: Array, keep: Array) -> Array:
        return jnp.where(keep, x * (1.0 / (1.0 - self.rate)), 0)
