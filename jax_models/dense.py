"""Linear, LeakyReLU and dropout as Flax NNX modules; the gradients are JAX's.

Symbols: x^(l-1) input of a layer, x~(l) = W(l) x^(l-1) + b(l) its affine output, a the slope.
Rows are samples: x (B, d_in), W (d_out, d_in), b (d_out,). What autodiff must give back:

    dx~/dx = W                                    eq. 25-29
    dx~_i/dW_jk = [i = j] x_k                     eq. 30-32
    dx~/db = I                                    eq. 33-35
    dLeakyReLU/dx~ = diag([x~ > 0] + a [x~ <= 0]) eq. 19-24
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jax_models import precision
from triptych.describe import layers
from triptych.describe.given import Given

Array = jax.Array


def linear(x: Array, W: Array, b: Array) -> Array:
    """x (B, d_in), W (d_out, d_in), b (d_out,) to x W^T + b (B, d_out).

    Parameters are cast to x's dtype, so bfloat16 activations meet float32 master weights.
    """
    return precision.add_bias(x @ W.astype(x.dtype).T, b)  # eq. 25; backward 26-35, 38-44


def leaky_relu(x: Array, slope: float) -> Array:
    """max(0, x) + a min(0, x). Not `jax.nn.leaky_relu`: its derivative at exactly 0 is 1, not a."""
    return jnp.where(x > 0, x, slope * x)  # eq. 19; backward 20-24, 37


def dropout(x: Array, keep: Array, rate: float) -> Array:
    """x with the entries not in `keep` (bool, x's shape) at 0 and the others over 1 - rate.

    Not `nnx.Dropout`: the mask comes from the shared NumPy source, the same for all backends.
    """
    return jnp.where(keep, x * (1.0 / (1.0 - rate)), 0)


class Linear(nnx.Module):
    """`linear` with its parameters.

    Not `nnx.Linear`: same numbers, but its kernel is (in, out), whose gradient x^T dL/dx~ is slower on a CPU
    (forward, gradient and update of 3072-100 took 1.36 times as long, of 3072-2048 1.05 times). Ours is
    canonical, (out, in): no transpose at the border.
    """

    def __init__(self, layer: layers.Linear) -> None:
        self.weight = nnx.Param(jnp.zeros((layer.out_features, layer.in_features)))
        self.bias = nnx.Param(jnp.zeros((layer.out_features,)))

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        return linear(x, self.weight[...], self.bias[...])


class LeakyReLU(nnx.Module):
    """`leaky_relu` with its slope."""

    def __init__(self, layer: layers.LeakyReLU) -> None:
        self.slope = layer.slope

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        return leaky_relu(x, self.slope)


class Dropout(nnx.Module):
    """`dropout` by the mask given; without one, in evaluation, the identity."""

    def __init__(self, layer: layers.Dropout) -> None:
        self.rate = layer.rate

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        return x if given.keep is None else dropout(x, given.keep, self.rate)


LAYERS: dict[type, Any] = {layers.Linear: Linear, layers.LeakyReLU: LeakyReLU, layers.Dropout: Dropout}
