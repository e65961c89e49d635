"""Linear, LeakyReLU and dropout as PyTorch modules; the gradients are autograd's.

Symbols: x^(l-1) input of a layer, x~(l) = W(l) x^(l-1) + b(l) its affine output, a the slope.
Rows are samples: x (B, d_in), W (d_out, d_in), b (d_out,). What autograd must give back:

    dx~/dx = W                                    eq. 25-29
    dx~_i/dW_jk = [i = j] x_k                     eq. 30-32
    dx~/db = I                                    eq. 33-35
    dLeakyReLU/dx~ = diag([x~ > 0] + a [x~ <= 0]) eq. 19-24
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from triptych.describe import layers
from triptych.describe.given import Given


def linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """x (B, d_in), W (d_out, d_in), b (d_out,) to x W^T + b (B, d_out).

    Parameters are cast to x's dtype, so bfloat16 activations meet float32 master weights.
    """
    return functional.linear(x, W.to(x.dtype), b.to(x.dtype))  # eq. 25; backward 26-35, 38-44


def leaky_relu(x: Tensor, slope: float) -> Tensor:
    """max(0, x) + a min(0, x); torch uses the slope at exactly 0, as the study does."""
    return functional.leaky_relu(x, slope)  # eq. 19; backward 20-24, 37


def dropout(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """x with the entries not in `keep` (bool, x's shape) at 0 and the others over 1 - rate.

    Not `functional.dropout`: the mask comes from the shared NumPy source, the same for all backends.
    """
    return torch.where(keep, x * (1.0 / (1.0 - rate)), 0)


class Linear(nn.Module):
    """`linear` with its parameters. Not `nn.Linear`, which draws initial values that nobody uses, and has no
    place for the cast.
    """

    def __init__(self, layer: layers.Linear, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layer.out_features, layer.in_features, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(layer.out_features, dtype=dtype))

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        return linear(x, self.weight, self.bias)


class LeakyReLU(nn.Module):
    """`leaky_relu` with its slope."""

    def __init__(self, layer: layers.LeakyReLU, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.slope = layer.slope

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        return leaky_relu(x, self.slope)


class Dropout(nn.Module):
    """`dropout` by the mask given; without one, in evaluation, the identity."""

    def __init__(self, layer: layers.Dropout, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.rate = layer.rate

    def forward(self, x: Tensor, given: Given[Tensor]) -> Tensor:
        return x if given.keep is None else dropout(x, given.keep, self.rate)


LAYERS: dict[type, Any] = {layers.Linear: Linear, layers.LeakyReLU: LeakyReLU, layers.Dropout: Dropout}
