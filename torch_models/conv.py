"""Convolution and max-pooling as PyTorch modules; the gradients are autograd's.

Symbols: x the input (B, C, H, W), xp x surrounded by zeros (padding p), W (O, C, kh, kw), b (O,), y the
output (B, O, H', W'), s the stride; (i, j) a place in y, (k, l) one in the kernel, (u, v) one in xp.
P, the patches, holds for each place (i, j) of y what the window sees there; torch's library makes it or not.

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

Sums run over the batch too. Weights are channels-last in memory, which makes cuDNN and oneDNN run on
channels-last images without reordering them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.describe import layers
from triptych.describe.given import Given
from triptych.describe.layers import Window
from triptych.errors import UserError


def conv2d(x: Tensor, W: Tensor, b: Tensor | None, window: Window) -> Tensor:
    """x (B, C, H, W), W (O, C, kh, kw), b (O,) or None to y (B, O, H', W'). Parameters are cast to x's dtype.

    Raises UserError for shapes that do not fit each other or the window.
    """
    _check(x, W, window)
    wide = _wide_on_cpu(x)
    kernel = W.to(x.dtype).to(wide.dtype)
    offset = None if b is None else b.to(wide.dtype)
    y = functional.conv2d(wide, kernel, offset, window.stride, window.padding)  # eq. 64-65; backward 66-72
    return y.to(x.dtype)


def max_pool2d(x: Tensor, window: Window) -> Tensor:
    """x (B, C, H, W) to y (B, C, H', W'). Padding never wins; NaN does.

    Raises UserError for a shape that the window does not fit.
    """
    if x.ndim != 4:
        raise UserError(f"max-pool: expected x (B, C, H, W), got {tuple(x.shape)}")
    window.output(*x.shape[2:])
    wide = _wide_on_cpu(x)
    y = functional.max_pool2d(wide, window.kernel, window.stride, window.padding)  # eq. 75; backward 76-78
    return y.to(x.dtype)


def flatten(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C H W), channel by channel: the study's order."""
    return torch.flatten(x, 1)


def _check(x: Tensor, W: Tensor, window: Window) -> None:
    if x.ndim != 4 or W.ndim != 4 or x.shape[1] != W.shape[1] or W.shape[2:] != window.kernel:
        kh, kw = window.kernel
        raise UserError(
            f"convolution: expected x (B, C, H, W) and W (O, C, {kh}, {kw}) with the same C, got x "
            f"{tuple(x.shape)} and W {tuple(W.shape)}"
        )
    window.output(*x.shape[2:])


def _wide_on_cpu(x: Tensor) -> Tensor:
    """bfloat16 as float32 on a CPU: there torch rounds a gradient's sum to bfloat16 at every term, and gets
    0 for 0.0198. On a GPU sums are float32 anyway.
    """
    return x.float() if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x


# --- as layers of a network ---


class Conv2d(nn.Module):
    """`conv2d` with its parameters. Not `nn.Conv2d`: see `dense.Linear`."""

    def __init__(self, layer: layers.Conv2d, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.window = layer.window
        W = torch.zeros(layer.out_channels, layer.in_channels, *layer.window.kernel, dtype=dtype)
        self.weight = nn.Parameter(W.contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(layer.out_channels, dtype=dtype)) if layer.bias else None

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.window)


class MaxPool2d(nn.Module):
    """`max_pool2d` with its window."""

    def __init__(self, layer: layers.MaxPool2d, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.window = layer.window

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        return max_pool2d(x, self.window)


class Flatten(nn.Module):
    """`flatten`."""

    def __init__(self, layer: layers.Flatten, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        return flatten(x)


LAYERS: dict[type, Any] = {layers.Conv2d: Conv2d, layers.MaxPool2d: MaxPool2d, layers.Flatten: Flatten}
