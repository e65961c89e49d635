"""Convolution, pooling, resizing and layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evidence.real_bugs.bug import Bug
from parity import Jax, Numpy, Torch

IMAGE: dict[str, Any] = {"x": (2, 2, 6, 6)}
"""Channels first; channels last where a port takes them so."""


def strided(padding: Any) -> Jax:
    """A 3 x 3 convolution, stride 2, channels first."""
    return Jax(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (2, 2), padding, dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
    )


def transposed(flip: bool) -> Jax:
    """The kernel as torch's, (in, out, h, w); turned by 180 degrees, it convolves the dilated image."""

    def function(x: jax.Array, kernel: jax.Array) -> jax.Array:
        turned = kernel[:, :, ::-1, ::-1] if flip else kernel
        return jax.lax.conv_general_dilated(
            x,
            turned.transpose(1, 0, 2, 3),
            (1, 1),
            ((2, 2), (2, 2)),
            lhs_dilation=(2, 2),
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )

    return Jax(function)


def kernel_layout(axes: tuple[int, ...]) -> Torch:
    """The kernel as Keras stores it, (h, w, in, out), brought to torch's."""
    return Torch(lambda x, kernel: F.conv2d(x, kernel.permute(axes)))


def taps(x: Tensor, kernel: Tensor) -> Tensor:
    """The convolution, one kernel position after another."""
    return sum(
        torch.einsum("nchw,co->nohw", x[:, :, i : i + 4, j : j + 4], kernel[i, j])
        for i in range(3)
        for j in range(3)
    )  # type: ignore[return-value]


def flattened(channels_last: bool) -> Torch:
    """A linear layer after a convolution; the weight (out, channels * h * w) expects channels first."""

    def function(x: Tensor, weight: Tensor) -> Tensor:
        order = (0, 2, 3, 1) if channels_last else (0, 1, 2, 3)
        return x.permute(order).reshape(x.shape[0], -1) @ weight.T

    return Torch(function)


def average(count_padding: bool) -> Torch:
    return Torch(lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=count_padding))


def average_same(x: np.ndarray) -> Any:
    """TensorFlow's average over what lies inside the image."""
    inside = np.pad(np.ones_like(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    sums, counts = (
        sum(a[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i in range(3) for j in range(3))
        for a in (padded, inside)
    )
    return sums / counts, counts


def average_same_backward(dy: np.ndarray, counts: np.ndarray) -> np.ndarray:
    padded = np.pad(dy / counts, ((0, 0), (0, 0), (1, 1), (1, 1)))
    found: np.ndarray = sum(
        padded[:, :, i : i + dy.shape[2], j : j + dy.shape[3]] for i in range(3) for j in range(3)
    )  # type: ignore[assignment]
    return found


def last_window(divisor: int) -> Torch:
    """Windows of 3, stride 2, over 6 numbers and 1 of padding at each end; the last window has 2 of its 3."""

    def function(x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1))
        whole = padded.unfold(-1, 3, 2).sum(-1) / 3
        return torch.cat([whole, padded[..., 6:].sum(-1, keepdim=True) / divisor], -1)

    return Torch(function)


def max_pool(share_ties: bool) -> Numpy:
    """2 x 2, stride 2."""

    def windows(x: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        return (
            x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, c, h // 2, w // 2, 4)
        )

    def forward(x: np.ndarray) -> Any:
        return windows(x).max(-1), x

    def backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        n, c, h, w = x.shape
        four = windows(x)
        first = np.arange(4) == four.argmax(-1)[..., None]
        hit = (four == four.max(-1, keepdims=True)) if share_ties else first
        back = (dy[..., None] * hit).reshape(n, c, h // 2, w // 2, 2, 2).transpose(0, 1, 2, 4, 3, 5)
        return back.reshape(x.shape).astype(x.dtype)

    return Numpy(forward, backward)


def resized(source: Callable[[np.ndarray], np.ndarray], blend: bool) -> Torch:
    """Rows of 4 to 6 (nearest) or 8 (linear); `source` maps an output's position to the input's."""

    def function(x: Tensor) -> Tensor:
        at = source(np.arange(8 if blend else 6))
        low = np.clip(np.floor(at), 0, 3).astype(int)
        if not blend:
            return x[..., low]
        share = torch.from_numpy(np.clip(at, 0, 3) - low).to(x)
        return x[..., low] * (1 - share) + x[..., np.minimum(low + 1, 3)] * share

    return Torch(function)


BUGS = (
    Bug(
        "flatten_channels_last",
        "microsoft/MMdnn/issues/250",
        "flatten order",
        "A channels-last image was flattened as it lies, in front of a weight that expects channels first.",
        right=flattened(channels_last=False),
        wrong=flattened(channels_last=True),
        inputs={"x": (2, 3, 2, 2)},
        parameters={"weight": (5, 12)},
        original=Torch(lambda x, weight: torch.einsum("nchw,ochw->no", x, weight.reshape(5, 3, 2, 2))),
    ),
    Bug(
        "same_padding_at_stride_2",
        "taehoonlee/tensornets/issues/25",
        "padding",
        "SAME pads only right and bottom at stride 2; the original pads all sides by 1.",
        right=strided(((1, 1), (1, 1))),
        wrong=strided("SAME"),
        inputs=IMAGE,
        parameters={"kernel": (3, 2, 3, 3)},
        original=Torch(lambda x, kernel: F.conv2d(x, kernel, stride=2, padding=1)),
    ),
    Bug(
        "transposed_kernel_not_flipped",
        "google/flax/issues/3137",
        "kernel layout",
        "JAX's transposed convolution does not turn the kernel around unless it is told to, torch's does.",
        right=transposed(True),
        wrong=transposed(False),
        inputs={"x": (2, 2, 4, 4)},
        parameters={"kernel": (2, 3, 3, 3)},
        original=Torch(lambda x, kernel: F.conv_transpose2d(x, kernel, stride=2)),
    ),
    Bug(
        "kernel_reversed",
        "voxelmorph/voxelmorph/issues/425",
        "kernel layout",
        "Keras' kernel (h, w, in, out) was reversed to (out, in, w, h): height and width changed places.",
        right=kernel_layout((3, 2, 0, 1)),
        wrong=kernel_layout((3, 2, 1, 0)),
        inputs=IMAGE,
        parameters={"kernel": (3, 3, 2, 3)},
        original=Torch(taps),
    ),
    Bug(
        "average_pool_counts_padding",
        "apache/mxnet/issues/10194",
        "average pooling",
        "At the border the sum was divided by the whole window; TensorFlow does not count the padding.",
        right=average(count_padding=False),
        wrong=average(count_padding=True),
        inputs=IMAGE,
        original=Numpy(average_same, average_same_backward),
    ),
    Bug(
        "average_pool_last_window",
        "microsoft/onnxruntime/issues/16203",
        "average pooling",
        "With ceil_mode the last window reaches beyond the padding and was still divided by its full size.",
        right=last_window(2),
        wrong=last_window(3),
        inputs={"x": (2, 2, 6)},
        original=Torch(lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True)),
    ),
    Bug(
        "pool_ceil_mode",
        "xxradon/PytorchToCaffe/issues/4",
        "ceil_mode",
        "Caffe rounds a pool's output size up, torch down: one row and column more.",
        right=Torch(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-np.inf), 3, 2)),
        wrong=Torch(lambda x: F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-np.inf), 3, 2, ceil_mode=True)),
        inputs=IMAGE,
        original=Torch(lambda x: F.max_pool2d(x, 3, 2, 1)),
    ),
    Bug(
        "max_pool_counts_ties",
        "Theano/Theano/issues/5248",
        "ties",
        "Each of several equal maxima in a window got the whole gradient; cuDNN gives it to one.",
        right=max_pool(share_ties=False),
        wrong=max_pool(share_ties=True),
        inputs=IMAGE,
        original=Torch(lambda x: F.max_pool2d(x, 2)),
    ),
    Bug(
        "align_corners",
        "pytorch/pytorch/issues/10604",
        "resizing",
        "Bilinear resizing agrees with align_corners only; without it, one framework shifts by half a pixel.",
        right=resized(lambda i: (i + 0.5) / 2 - 0.5, blend=True),
        wrong=resized(lambda i: i / 2, blend=True),
        inputs={"x": (2, 3, 4)},
        original=Torch(lambda x: F.interpolate(x, size=8, mode="linear", align_corners=False)),
    ),
    Bug(
        "nearest_without_the_half",
        "flagos-ai/FlagGems/issues/5228",
        "resizing",
        "The kernels of nearest-exact lacked the + 0.5 and did what nearest does.",
        right=resized(lambda i: (i + 0.5) * 4 / 6, blend=False),
        wrong=resized(lambda i: i * 4 / 6, blend=False),
        inputs={"x": (2, 3, 4)},
        original=Torch(lambda x: F.interpolate(x, size=6, mode="nearest-exact")),
    ),
)
