"""Linear, LeakyReLU and dropout as PyTorch modules; the gradients are autograd's.

Symbols: x^(l-1) input of a layer, x~(l) = W(l) x^(l-1) + b(l) its affine output, a the slope.
Rows are samples: x (B, d_in), W (d_out, d_in), b (d_out,). What autograd must give back:

    dx~/dx = W                                    eq. 25-29
    dx~_i/dW_jk = [i = j] x_k                     eq. 30-32
    dx~/db = I                                    eq. 33-35
    dLeakyReLU/dx~ = diag([x~ > 0] + a [x~ <= 0]) eq. 19-24
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """`torch.nn.Linear`, its parameters cast to x's dtype: bfloat16 activations meet float32 weights."""

    def forward(self, input: Tensor) -> Tensor:
        W, b = self.weight.to(input.dtype), self.bias.to(input.dtype)
        return functional.linear(input, W, b)  # eq. 25; backward 30-35, 38-44


class LeakyReLU(nn.LeakyReLU):
    """max(0, x) + a min(0, x); torch uses the slope at exactly 0, as the study does (eq. 19-24, 37)."""


class Dropout(nn.Module):
    """x with the entries not in `keep` (bool, x's shape) at 0 and the others over 1 - rate.

    Not `nn.Dropout`: the mask comes from the shared NumPy source, the same for all backends.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return torch.where(keep, x * (1.0 / (1.0 - self.rate)), 0)
