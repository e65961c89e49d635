"""Convolution and pooling, wrong, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn import grad as gradients

from parity.planted import Patch, Plantings
from parity.planted.numpy_side.conv import same_border
from parity.planted.torch_side.dense import tf32, with_backward
from torch_models import conv
from triptych.describe.layers import Window


def _convolution(function: Callable[..., Tensor]) -> list[Patch]:
    """From x, W, b (or None), stride and padding."""

    def conv2d(x: Tensor, W: Tensor, b: Tensor | None, window: Window) -> Tensor:
        wide = conv._wide_on_cpu(x)
        offset = None if b is None else b.to(wide.dtype)
        return function(wide, W.to(wide.dtype), offset, window.stride, window.padding).to(x.dtype)

    return [Patch(conv, "conv2d", conv2d)]


def _reordered(order: Callable[[Tensor], Tensor]) -> list[Patch]:
    return _convolution(lambda x, W, b, stride, padding: functional.conv2d(x, order(W), b, stride, padding))


def _gradients(change: Callable[..., Any]) -> list[Patch]:
    """dx and dW as `change(dy, x, W, stride, padding)` has them."""

    def function(x: Tensor, W: Tensor, b: Any, stride: Any, padding: Any) -> Tensor:
        def forward(x: Tensor, W: Tensor) -> Tensor:
            return functional.conv2d(x, W, None, stride, padding)

        def backward(dy: Tensor, x: Tensor, W: Tensor) -> Any:
            return change(dy, x, W, stride, padding)

        y = with_backward(forward, backward, x, W)
        return y if b is None else y + b[:, None, None]

    return _convolution(function)


def _image_gradient(dy: Tensor, x: Tensor, W: Tensor, stride: Any, padding: Any) -> Tensor:
    return gradients.conv2d_input(x.shape, W, dy, stride, padding)


def _weight_gradient(dy: Tensor, x: Tensor, W: Tensor, stride: Any, padding: Any) -> Tensor:
    return gradients.conv2d_weight(x, W.shape, dy, stride, padding)


def _rows_columns(W: Tensor) -> Tensor:
    return W.transpose(2, 3) if W.shape[2] == W.shape[3] else W


def _channels(W: Tensor) -> Tensor:
    return W.transpose(0, 1) if W.shape[0] == W.shape[1] else W


def _overwritten(dy: Tensor, x: Tensor, W: Tensor, stride: Any, padding: Any) -> Any:
    (p, q), (sh, sw), (rows, columns) = padding, stride, dy.shape[2:]
    dxp = functional.pad(torch.zeros_like(x), (q, q, p, p))
    for k in range(W.shape[2]):
        for l in range(W.shape[3]):
            down, across = slice(k, k + sh * (rows - 1) + 1, sh), slice(l, l + sw * (columns - 1) + 1, sw)
            dxp[:, :, down, across] = torch.einsum("boij,oc->bcij", dy, W[:, :, k, l])
    dx = dxp[:, :, p : p + x.shape[2], q : q + x.shape[3]]
    return dx, _weight_gradient(dy, x, W, stride, padding)


def _averages_width(x: Tensor, W: Tensor, b: Any, stride: Any, padding: Any) -> Tensor:
    y = functional.conv2d(x, W, None, stride, padding)
    if b is None:
        return y
    add: Callable[..., Tensor] = lambda y, b: y + b[:, None, None]  # noqa: E731
    return with_backward(add, lambda dy, y, b: (dy, dy.sum((0, 2)).mean(-1)), y, b)


def _border(x: Tensor, kernel: Any, stride: Any, padding: Any) -> list[int]:
    """`functional.pad`'s order of SAME's border."""
    rows, columns = same_border(tuple(x.shape[2:]), Window(tuple(kernel), tuple(stride), tuple(padding)))
    return [*columns, *rows]


def _conv_same(x: Tensor, W: Tensor, b: Any, stride: Any, padding: Any) -> Tensor:
    return functional.conv2d(functional.pad(x, _border(x, W.shape[2:], stride, padding)), W, b, stride)


# --- pooling ---


def _pool(function: Callable[..., Tensor]) -> list[Patch]:
    """From x, kernel, stride and padding."""

    def max_pool2d(x: Tensor, window: Window) -> Tensor:
        wide = conv._wide_on_cpu(x)
        return function(wide, window.kernel, window.stride, window.padding).to(x.dtype)

    return [Patch(conv, "max_pool2d", max_pool2d)]


def _windows(x: Tensor, kernel: Any, stride: Any, padding: Any, value: float = -torch.inf) -> Tensor:
    """Every window's values (B, C, H', W', places)."""
    (p, q) = padding
    padded = functional.pad(x, (q, q, p, p), value=value)
    found = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    return found.reshape(*found.shape[:4], -1)


def _splits_ties(x: Tensor, kernel: Any, stride: Any, padding: Any) -> Tensor:
    """`amax`, which does that."""
    return _windows(x, kernel, stride, padding).amax(dim=-1)


def _counts_ties(x: Tensor, kernel: Any, stride: Any, padding: Any) -> Tensor:
    def maximum(values: Tensor) -> Tensor:
        return values.amax(dim=-1)

    def backward(dy: Tensor, values: Tensor) -> Any:
        return (torch.where(values == values.amax(dim=-1, keepdim=True), dy[..., None], 0),)

    return with_backward(maximum, backward, _windows(x, kernel, stride, padding))


def _last_maximum(x: Tensor, kernel: Any, stride: Any, padding: Any) -> Tensor:
    return _windows(x, kernel, stride, padding).flip(-1).max(dim=-1).values


def _padding_wins(x: Tensor, kernel: Any, stride: Any, padding: Any) -> Tensor:
    (p, q) = padding
    return functional.max_pool2d(functional.pad(x, (q, q, p, p)), kernel, stride)


def _pool_same(x: Tensor, kernel: Any, stride: Any, padding: Any) -> Tensor:
    padded = functional.pad(x, _border(x, kernel, stride, padding), value=-torch.inf)
    return functional.max_pool2d(padded, kernel, stride)


PLANTINGS: Plantings = {
    "conv-rows-columns-swapped": _reordered(_rows_columns),
    "conv-flipped": _reordered(lambda W: W.flip(2, 3)),
    "conv-dx-not-flipped": _gradients(
        lambda dy, x, W, *rest: (
            _image_gradient(dy, x, W.flip(2, 3), *rest),
            _weight_gradient(dy, x, W, *rest),
        )
    ),
    "conv-channels-swapped": _reordered(_channels),
    "conv-same-padding": _convolution(_conv_same),
    "conv-bias-gradient-averages-width": _convolution(_averages_width),
    "conv-dw-last-image": _gradients(
        lambda dy, x, W, *rest: (
            _image_gradient(dy, x, W, *rest),
            _weight_gradient(dy[-1:], x[-1:], W, *rest),
        )
    ),
    "conv-dx-overwritten": _gradients(_overwritten),
    "conv-tf32": _convolution(lambda x, W, *rest: functional.conv2d(tf32(x), tf32(W), *rest)),
    "pool-splits-ties": _pool(_splits_ties),
    "pool-counts-ties": _pool(_counts_ties),
    "pool-last-maximum": _pool(_last_maximum),
    "pool-padding-wins": _pool(_padding_wins),
    "pool-same-padding": _pool(_pool_same),
}
