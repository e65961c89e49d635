"""Dense layers, wrong, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from parity.planted import Patch, Plantings
from torch_models import conv, dense

DROPOUT = dense.dropout


class _WithBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forward: Any, backward: Any, *tensors: Tensor) -> Tensor:
        ctx.pull = backward
        ctx.save_for_backward(*tensors)
        y: Tensor = forward(*tensors)
        return y

    @staticmethod
    def backward(ctx: Any, *dy: Any) -> Any:
        return None, None, *ctx.pull(dy[0], *ctx.saved_tensors)


def with_backward(forward: Callable[..., Tensor], backward: Callable[..., Any], *tensors: Tensor) -> Tensor:
    """`forward(*tensors)` with the gradients `backward(dy, *tensors)`."""
    y: Tensor = _WithBackward.apply(forward, backward, *tensors)
    return y


def tf32(tensor: Tensor) -> Tensor:
    """float32 rounded to ten fraction bits, half up in magnitude; other formats as they are."""
    if tensor.dtype != torch.float32:
        return tensor
    cut = ((tensor.detach().contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
    return tensor + (cut - tensor).detach()


def _linear(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Patch]:
    def linear(x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return function(x, W.to(x.dtype), b.to(x.dtype))

    return [Patch(dense, "linear", linear)]


def _gradients(dW: Callable[..., Tensor], db: Callable[[Tensor], Tensor]) -> list[Patch]:
    def backward(dy: Tensor, x: Tensor, W: Tensor, b: Tensor) -> Any:
        return dy @ W, dW(dy, x, W), db(dy)

    return _linear(lambda x, W, b: with_backward(functional.linear, backward, x, W, b))


def _activation(forward: Callable[..., Tensor], backward: Callable[..., Tensor]) -> list[Patch]:
    """From x and the slope; dx from dy, x and the slope."""

    def leaky_relu(x: Tensor, slope: float) -> Tensor:
        return with_backward(lambda x: forward(x, slope), lambda dy, x: (backward(dy, x, slope),), x)

    return [Patch(dense, "leaky_relu", leaky_relu)]


def _from_output(dy: Tensor, x: Tensor, slope: float) -> Tensor:
    return torch.where(functional.leaky_relu(x, slope) >= 0, dy, slope * dy)


def _unmasked_backward(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    factor = 1.0 / (1.0 - rate)
    return with_backward(lambda x: torch.where(keep, x * factor, 0), lambda dy, x: (dy * factor,), x)


PLANTINGS: Plantings = {
    "linear-weight-transposed": _linear(
        lambda x, W, b: functional.linear(x, W.T if W.shape[0] == W.shape[1] else W, b)
    ),
    "linear-weight-gradient-transposed": _gradients(
        lambda dy, x, W: x.T @ dy if W.shape[0] == W.shape[1] else dy.T @ x, lambda dy: dy.sum(0)
    ),
    "linear-bias-gradient-averaged": _gradients(lambda dy, x, W: dy.T @ x, lambda dy: dy.mean(0)),
    "linear-tf32": _linear(lambda x, W, b: functional.linear(tf32(x), tf32(W), b)),
    "linear-float16": _linear(lambda x, W, b: functional.linear(x.half().to(x.dtype), W, b)),
    "bfloat16-sums": [Patch(conv, "_wide_on_cpu", lambda x: x)],
    "leaky-relu-slope-1-at-zero": [
        Patch(dense, "leaky_relu", lambda x, slope: torch.where(x >= 0, x, slope * x))
    ],
    "leaky-relu-slope-forgotten": [Patch(dense, "leaky_relu", lambda x, slope: functional.relu(x))],
    "leaky-relu-derivative-from-output": _activation(functional.leaky_relu, _from_output),
    "activation-derivative-skipped": _activation(functional.leaky_relu, lambda dy, x, slope: dy),
    "dropout-unscaled": [Patch(dense, "dropout", lambda x, keep, rate: torch.where(keep, x, 0))],
    "dropout-mask-inverted": [Patch(dense, "dropout", lambda x, keep, rate: DROPOUT(x, ~keep, rate))],
    "dropout-mask-not-in-backward": [Patch(dense, "dropout", _unmasked_backward)],
    "flatten-channels-last": [Patch(conv, "flatten", lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1))],
}
