"""Convolution and max-pooling of images as Flax NNX modules, with hand-derived backward passes.

Symbols: x the input (B, H, W, C), xp x surrounded by zeros (padding p), W (kh, kw, C, O), b (O,), y the
output (B, H', W', O), s the stride; (i, j) a place in y, (k, l) one in the kernel, (u, v) one in xp.
P, the patches, holds for each place (i, j) of y what the window sees there.

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                               eq. 64
    P_ijklc = xp_c,si+k,sj+l,  y_oij = b_o + sum_klc P_ijklc W_ockl           eq. 65
    dL/dW_ockl = sum_ij dL/dy_oij P_ijklc                                     eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                eq. 68
    dy_oij/dxp_cuv = W_oc,u-si,v-sj inside the kernel, else 0                 eq. 69
    dL/dP_ijklc = sum_o dL/dy_oij W_ockl                                      eq. 70
    dL/dxp_cuv = the sum of dL/dP where P copied xp_cuv                       eq. 71
    dL/dx is dL/dxp without its border                                        eq. 72
    y_cij = max_kl x_c,si+k-p,sj+l-p over places inside the image             eq. 75
    (k*, l*) = the first place in reading order that attains it               eq. 76
    dL/dx_cuv = the sum of dL/dy_cij over windows whose (k*, l*) is (u, v)    eq. 77-78

Sums run over the batch too. Arrays are channels-last and kernels (kh, kw, C, O), the layout that both XLA's
CPU code and its vendors' convolutions want; `to_internal` and `to_canonical` translate weights.

A GPU and a TPU get XLA's own operations and their gradients. On a CPU those lose an order of magnitude and
more (the gradient of a convolution inside a loop body, select-and-scatter, images of 2x2), so it gets
`jax_models.cpu`: the equations above, written in products and slices.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models import precision
from jax_models.cpu import conv as cpu_conv
from triptych.describe import layers
from triptych.describe.given import Given
from triptych.describe.layers import Window
from triptych.errors import UserError

Array = jax.Array
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


def to_internal(W: AnyArray) -> AnyArray:
    """Canonical (O, C, kh, kw) to (kh, kw, C, O)."""
    return W.transpose(2, 3, 1, 0)


def to_canonical(W: AnyArray) -> AnyArray:
    """(kh, kw, C, O) to canonical (O, C, kh, kw)."""
    return W.transpose(3, 2, 0, 1)


# --- convolution ---


def conv2d(x: Array, W: Array, b: Array | None, window: Window) -> Array:
    """x (B, H, W, C), W (kh, kw, C, O), b (O,) or None to y (B, H', W', O). Parameters are cast to x's dtype.

    Raises UserError for shapes that do not fit each other or the window.
    """
    _check(x, W, window)
    y = _conv2d(x, W.astype(x.dtype), window)  # eq. 64-65; backward 66-67, 69-72
    return y if b is None else precision.add_bias(y, b)  # backward 68


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: Array, W: Array, window: Window) -> Array:
    cpu, default = partial(cpu_conv.conv2d, window=window), partial(vendor_conv2d, window=window)
    return jax.lax.platform_dependent(x, W, cpu=cpu, default=default)


def _conv2d_forward(x: Array, W: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return _conv2d(x, W, window), (x, W)


def _conv2d_backward(window: Window, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    cpu, default = (
        partial(cpu_conv.conv2d_backward, window=window),
        partial(vendor_conv2d_backward, window=window),
    )
    return jax.lax.platform_dependent(dy, *cache, cpu=cpu, default=default)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def vendor_conv2d(x: Array, W: Array, window: Window) -> Array:
    """Convolution by XLA's own operation."""
    padding = [(p, p) for p in window.padding]
    return jax.lax.conv_general_dilated(
        x, W, window.stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def vendor_conv2d_backward(dy: Array, x: Array, W: Array, window: Window) -> tuple[Array, Array]:
    """dy (B, H', W', O) to (dx, dW), by XLA's gradients."""
    dx, dW = jax.vjp(partial(vendor_conv2d, window=window), x, W)[1](dy)
    return dx, dW


def _check(x: Array, W: Array, window: Window) -> None:
    if x.ndim != 4 or W.ndim != 4 or x.shape[3] != W.shape[2] or W.shape[:2] != window.kernel:
        kh, kw = window.kernel
        raise UserError(
            f"convolution: expected x (B, H, W, C) and W ({kh}, {kw}, C, O) with the same C, got x {x.shape} "
            f"and W {W.shape}"
        )
    window.output(*x.shape[1:3])


# --- max-pooling ---


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool2d(x: Array, window: Window) -> Array:
    """x (B, H, W, C) to y (B, H', W', C). Padding never wins; NaN does.

    Raises UserError for a shape that the window does not fit.
    """
    return _max_pool2d_forward(x, window)[0]  # eq. 75; backward 76-78


def _max_pool2d_forward(x: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    if x.ndim != 4:
        raise UserError(f"max-pool: expected x (B, H, W, C), got {x.shape}")
    window.output(*x.shape[1:3])

    def default(x: Array) -> tuple[Array, Array]:
        y = vendor_max_pool2d(x, window)
        return y, jnp.zeros(y.shape, cpu_conv.index_type(window))  # its backward finds the maxima again

    y, first = jax.lax.platform_dependent(x, cpu=partial(cpu_conv.max_pool2d, window=window), default=default)
    return y, (x, first)


def _max_pool2d_backward(window: Window, cache: tuple[Array, Array], dy: Array) -> tuple[Array]:
    def cpu(dy: Array, x: Array, first: Array) -> Array:
        return cpu_conv.max_pool2d_backward(dy, first, x.shape, window)

    def default(dy: Array, x: Array, first: Array) -> Array:
        return jax.vjp(partial(vendor_max_pool2d, window=window), x)[1](dy)[0]

    return (jax.lax.platform_dependent(dy, *cache, cpu=cpu, default=default),)


max_pool2d.defvjp(_max_pool2d_forward, _max_pool2d_backward)


def vendor_max_pool2d(x: Array, window: Window) -> Array:
    """`max_pool2d` by XLA's windowed reduction. Its gradient, too, goes to the first maximum; of a window
    of nothing but -inf it may go to the border.
    """
    padding = [(0, 0), *((p, p) for p in window.padding), (0, 0)]
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, *window.kernel, 1), (1, *window.stride, 1), padding
    )


def flatten(x: Array) -> Array:
    """(B, H, W, C) to (B, C H W), channel by channel: the study's order."""
    return x.transpose(0, 3, 1, 2).reshape(len(x), -1)


# --- as layers of a network ---


class Conv2d(nnx.Module):
    """`conv2d` with its parameters.

    Not `nnx.Conv`: same numbers to 0.4 units of rounding, but in a compiled loop on a CPU a forward and
    backward pass took 95 times as long (64-128 channels at 16x16), or 20 times (512-512 at 2x2).
    """

    def __init__(self, layer: layers.Conv2d) -> None:
        self.window = layer.window
        shape = (*layer.window.kernel, layer.in_channels, layer.out_channels)
        self.weight = nnx.Param(jnp.zeros(shape))
        self.bias = nnx.Param(jnp.zeros(shape[-1:])) if layer.bias else None

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        return conv2d(x, self.weight[...], None if self.bias is None else self.bias[...], self.window)


class MaxPool2d(nnx.Module):
    """`max_pool2d` with its window. Not `nnx.max_pool`: it took 14 times as long there (3x3, stride 2)."""

    def __init__(self, layer: layers.MaxPool2d) -> None:
        self.window = layer.window

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        return max_pool2d(x, self.window)


class Flatten(nnx.Module):
    """`flatten`."""

    def __init__(self, layer: layers.Flatten) -> None:
        pass

    def __call__(self, x: Array, given: Given[Array]) -> Array:
        return flatten(x)


LAYERS: dict[type, Any] = {layers.Conv2d: Conv2d, layers.MaxPool2d: MaxPool2d, layers.Flatten: Flatten}
