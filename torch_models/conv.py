"""Convolution and max-pooling as PyTorch modules; the gradients are autograd's.

Symbols: x the input (B, C, H, W), xp x surrounded by zeros (padding p), W (O, C, kh, kw), b (O,), y the
output (B, O, H', W'), s the stride; (i, j) a place in y, (k, l) one in the kernel, (u, v) one in xp.
What autograd must give back:

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                               eq. 64
    dL/dW_ockl = sum_ij dL/dy_oij xp_c,si+k,sj+l                              eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                eq. 68
    dL/dxp_cuv = sum_oij dL/dy_oij W_oc,u-si,v-sj inside the kernel           eq. 69-71
    dL/dx is dL/dxp without its border                                        eq. 72
    y_cij = max_kl x_c,si+k-p,sj+l-p over places inside the image             eq. 75
    (k*, l*) = the first place in reading order that attains it               eq. 76
    dL/dx_cuv = the sum of dL/dy_cij over windows whose (k*, l*) is (u, v)    eq. 77-78

Sums run over the batch too. Weights are channels-last in memory, which makes cuDNN and oneDNN run on
channels-last images without reordering them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.describe.layers import Window
from triptych.errors import UserError


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, its parameters cast to x's dtype: bfloat16 images meet float32 weights."""

    def __init__(
        self, in_channels: int, out_channels: int, window: Window, bias: bool, dtype: torch.dtype
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            window.kernel,
            window.stride,
            window.padding,
            bias=bias,
            dtype=dtype,
        )
        self.weight.data = self.weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4 or input.shape[1] != self.in_channels:
            raise UserError(
                f"convolution: expected x (B, {self.in_channels}, H, W), got {tuple(input.shape)}"
            )
        x = _wide_on_cpu(input)
        b = None if self.bias is None else self.bias.to(x.dtype)
        W = self.weight.to(input.dtype).to(x.dtype)
        y = functional.conv2d(x, W, b, self.stride, self.padding)  # eq. 64; backward 66-72
        return y.to(input.dtype)


class MaxPool2d(nn.MaxPool2d):
    """`torch.nn.MaxPool2d`: of equal values the first gets the gradient, padding never wins (eq. 75-78)."""

    def __init__(self, window: Window) -> None:
        super().__init__(window.kernel, window.stride, window.padding)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 4:
            raise UserError(f"max-pool: expected x (B, C, H, W), got {tuple(input.shape)}")
        return super().forward(_wide_on_cpu(input)).to(input.dtype)


def _wide_on_cpu(x: Tensor) -> Tensor:
    """bfloat16 as float32 on a CPU: there torch rounds a gradient's sum to bfloat16 at every term, and gets
    0 for 0.0198. On a GPU sums are float32 anyway.
    """
    return x.float() if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x
