"""Convolution and max-pooling of images as Flax NNX modules, with hand-derived backward passes.

Symbols: x the input (B, H, W, C), xp x surrounded by zeros (padding p), W (kh, kw, C, O), b (O,), y the
output (B, H', W', O), s the stride; (i, j) a place in y, (k, l) one in the kernel, (u, v) one in xp.
P, the patches, is a matrix with one row for each (image, i, j) and one column for each (k, l, c); Y, dY and
M are y, dL/dy and W as matrices (rows of P, O) and (columns of P, O).

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                               eq. 64
    P_(ij),(klc) = xp_c,si+k,sj+l,  Y = P M + b                               eq. 65
    dL/dW_ockl = sum_ij dL/dy_oij xp_c,si+k,sj+l,  so dM = P^T dY             eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                eq. 68
    dy_oij/dxp_cuv = W_oc,u-si,v-sj inside the kernel, else 0                 eq. 69
    dL/dP = dY M^T;  dL/dxp_cuv = the sum of dL/dP where P copied xp_cuv      eq. 70-71
    dL/dx is dL/dxp without its border                                        eq. 72
    y_cij = max_kl x_c,si+k-p,sj+l-p over places inside the image             eq. 75
    (k*, l*) = the first place in reading order that attains it               eq. 76
    dL/dx_cuv = the sum of dL/dy_cij over windows whose (k*, l*) is (u, v)    eq. 77-78

Sums run over the batch too. Arrays are channels-last and kernels (kh, kw, C, O), the layout that both XLA's
CPU code and its vendors' convolutions want; `to_internal` and `to_canonical` translate weights.

A GPU and a TPU get XLA's own operations and their gradients. On a CPU those lose an order of magnitude and
more (the gradient of a convolution inside a loop body, select-and-scatter, images of 2x2), so it gets the
equations above, written in products and slices.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models import dense, winograd
from jax_models.windows import at, collect, pad, places
from triptych.describe.layers import Window
from triptych.errors import UserError

Array = jax.Array
AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


class Conv2d(nnx.Module):
    """x (B, H, W, C) to y (B, H', W', O). Parameters are cast to x's dtype, as in `dense.Linear`."""

    def __init__(self, in_channels: int, out_channels: int, window: Window, bias: bool) -> None:
        self.weight = nnx.Param(jnp.zeros((*window.kernel, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros((out_channels,))) if bias else None
        self.window = window

    def __call__(self, x: Array) -> Array:
        y = conv2d(x, self.weight[...].astype(x.dtype), self.window)
        return y if self.bias is None else dense.add_bias(y, self.bias[...])  # eq. 64; backward 68


class MaxPool2d(nnx.Module):
    """x (B, H, W, C) to the largest value of each window (B, H', W', C)."""

    def __init__(self, window: Window) -> None:
        self.window = window

    def __call__(self, x: Array) -> Array:
        return max_pool2d(x, self.window)


def to_internal(W: AnyArray) -> AnyArray:
    """Canonical (O, C, kh, kw) to (kh, kw, C, O)."""
    return W.transpose(2, 3, 1, 0)


def to_canonical(W: AnyArray) -> AnyArray:
    """(kh, kw, C, O) to canonical (O, C, kh, kw)."""
    return W.transpose(3, 2, 0, 1)


# --- convolution ---


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv2d(x: Array, W: Array, window: Window) -> Array:
    """x (B, H, W, C) and W (kh, kw, C, O), of one dtype, to y (B, H', W', O).

    Raises UserError for shapes that do not fit each other or the window.
    """
    _check(x, W, window)
    cpu, default = partial(cpu_conv2d, window=window), partial(vendor_conv2d, window=window)
    return jax.lax.platform_dependent(x, W, cpu=cpu, default=default)


def _conv2d_forward(x: Array, W: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    return conv2d(x, W, window), (x, W)


def _conv2d_backward(window: Window, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    cpu, default = partial(cpu_conv2d_backward, window=window), partial(vendor_conv2d_backward, window=window)
    return jax.lax.platform_dependent(dy, *cache, cpu=cpu, default=default)


conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def cpu_conv2d(x: Array, W: Array, window: Window) -> Array:
    """`conv2d` as one product of patches, or by Winograd's algorithm."""
    if _suits_winograd(x, W, window):
        return winograd.forward(x, W)
    size = window.output(*x.shape[1:3])
    Y = _product(_patches(x, window), W.reshape(-1, W.shape[3]))  # eq. 65
    return Y.astype(x.dtype).reshape(len(x), *size, W.shape[3])


def cpu_conv2d_backward(dy: Array, x: Array, W: Array, window: Window) -> tuple[Array, Array]:
    """dy (B, H', W', O) to (dx, dW)."""
    if _suits_winograd(x, W, window):
        return winograd.backward(dy, x, W)
    dY, M = dy.reshape(-1, dy.shape[3]), W.reshape(-1, W.shape[3])
    dM = _product(_patches(x, window).T, dY)  # eq. 67
    dP = _product(dY, M.T).reshape(*dy.shape[:3], *W.shape[:3])  # eq. 70
    dx = collect(lambda place, dP: dP[:, :, :, *place], (dP,), window, x.shape)  # eq. 71-72
    return dx.astype(x.dtype), dM.astype(W.dtype).reshape(W.shape)


def vendor_conv2d(x: Array, W: Array, window: Window) -> Array:
    """`conv2d` by XLA's convolution."""
    padding = [(p, p) for p in window.padding]
    return jax.lax.conv_general_dilated(
        x, W, window.stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def vendor_conv2d_backward(dy: Array, x: Array, W: Array, window: Window) -> tuple[Array, Array]:
    """dy (B, H', W', O) to (dx, dW), by XLA's gradients."""
    dx, dW = jax.vjp(partial(vendor_conv2d, window=window), x, W)[1](dy)
    return dx, dW


def _suits_winograd(x: Array, W: Array, window: Window) -> bool:
    """Whether it is fast (transforms cost as much for few channels) and precise enough."""
    shape = window == Window((3, 3), (1, 1), (1, 1)) and x.shape[1] % 2 == x.shape[2] % 2 == 0
    return x.dtype == jnp.float32 and shape and min(W.shape[2:]) >= 16


def _check(x: Array, W: Array, window: Window) -> None:
    if x.ndim != 4 or W.ndim != 4 or x.shape[3] != W.shape[2] or W.shape[:2] != window.kernel:
        kh, kw = window.kernel
        raise UserError(
            f"convolution: expected x (B, H, W, C) and W ({kh}, {kw}, C, O) with the same C, got x {x.shape} "
            f"and W {W.shape}"
        )
    window.output(*x.shape[1:3])


def _product(a: Array, b: Array) -> Array:
    """A B, in float32 also for bfloat16: sums are rounded once, by the caller."""
    wide = jnp.float32 if a.dtype == jnp.bfloat16 else a.dtype
    return jnp.matmul(a, b, preferred_element_type=wide)


def _patches(x: Array, window: Window) -> Array:
    """P (B H' W', kh kw C)."""
    padded, size = pad(x, window, 0), window.output(*x.shape[1:3])
    columns = [at(padded, place, window, size) for place in places(window)]
    return jnp.concatenate(columns, axis=3).reshape(-1, len(columns) * x.shape[3])


# --- max-pooling ---


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool2d(x: Array, window: Window) -> Array:
    """x (B, H, W, C) to y (B, H', W', C). Padding never wins; NaN does.

    Raises UserError for a shape that the window does not fit.
    """
    return _max_pool2d_forward(x, window)[0]


def _max_pool2d_forward(x: Array, window: Window) -> tuple[Array, tuple[Array, Array]]:
    if x.ndim != 4:
        raise UserError(f"max-pool: expected x (B, H, W, C), got {x.shape}")
    window.output(*x.shape[1:3])

    def default(x: Array) -> tuple[Array, Array]:
        y = vendor_max_pool2d(x, window)
        return y, jnp.zeros(y.shape, _index_type(window))  # its backward finds the maxima again

    y, first = jax.lax.platform_dependent(x, cpu=partial(cpu_max_pool2d, window=window), default=default)
    return y, (x, first)


def _max_pool2d_backward(window: Window, cache: tuple[Array, Array], dy: Array) -> tuple[Array]:
    def cpu(dy: Array, x: Array, first: Array) -> Array:
        return cpu_max_pool2d_backward(dy, first, x.shape, window)

    def default(dy: Array, x: Array, first: Array) -> Array:
        return jax.vjp(partial(vendor_max_pool2d, window=window), x)[1](dy)[0]

    return (jax.lax.platform_dependent(dy, *cache, cpu=cpu, default=default),)


max_pool2d.defvjp(_max_pool2d_forward, _max_pool2d_backward)


def cpu_max_pool2d(x: Array, window: Window) -> tuple[Array, Array]:
    """x to (y, (k*, l*) of each window as k* kw + l*)."""
    size = window.output(*x.shape[1:3])
    padded = pad(x, window, -jnp.inf)
    # Where every value is -inf the first place inside the image wins, not the border before it.
    first = jnp.broadcast_to(_first_inside(window, size)[:, :, None], (len(x), *size, x.shape[3]))
    y = jnp.full(first.shape, -jnp.inf, x.dtype)
    for index, place in enumerate(places(window)):
        here = at(padded, place, window, size)
        greater = ~(here <= y) & (y == y)  # strictly, so that the first stays; a NaN wins once and for all
        first = jnp.where(greater, first.dtype.type(index), first)  # eq. 76
        y = jnp.maximum(y, here)  # eq. 75
    return jax.lax.optimization_barrier((y, first))


def cpu_max_pool2d_backward(dy: Array, first: Array, shape: tuple[int, ...], window: Window) -> Array:
    """dy (B, H', W', C) to dx of `shape`: each window's gradient goes to its first maximum."""
    wide = dy.astype(dense.at_least_float32(dy.dtype))  # sums are rounded to bfloat16 once
    kw = window.kernel[1]

    def part(place: tuple[int, int], dy: Array, first: Array) -> Array:
        return jnp.where(first == place[0] * kw + place[1], dy, 0)

    return collect(part, (wide, first), window, shape).astype(dy.dtype)  # eq. 78


def vendor_max_pool2d(x: Array, window: Window) -> Array:
    """`max_pool2d` by XLA's windowed reduction. Its gradient, too, goes to the first maximum; of a window
    of nothing but -inf it may go to the border.
    """
    padding = [(0, 0), *((p, p) for p in window.padding), (0, 0)]
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, *window.kernel, 1), (1, *window.stride, 1), padding
    )


def _first_inside(window: Window, size: tuple[int, int]) -> np.ndarray:
    """For each window the first place that lies inside the image, as k kw + l; (H', W')."""
    down, across = (
        np.maximum(0, p - s * np.arange(n))
        for p, s, n in zip(window.padding, window.stride, size, strict=True)
    )
    return (down[:, None] * window.kernel[1] + across).astype(_index_type(window))


def _index_type(window: Window) -> np.dtype:
    """The smallest that numbers the places of a window."""
    return np.min_scalar_type(window.kernel[0] * window.kernel[1] - 1)
