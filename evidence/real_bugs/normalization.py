"""Normalization: eps, the variance's divisor, running statistics, the offset of a weight."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from evidence.real_bugs.bug import Bug
from parity import Jax, Numpy, Torch
from parity.formula import rsqrt, sqrt

ROWS: dict[str, Any] = {"x": (6, 8)}
SCALE = {"weight": (8,)}
AFFINE = {"weight": (8,), "bias": (8,)}


def layer_norm(eps: float, n: float = 8, inside: bool = True) -> Torch:
    """`n` is what the sum of squares is divided by."""

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().sum(-1, keepdim=True) / n
        scale = torch.sqrt(variance + eps) if inside else torch.sqrt(variance) + eps
        return centred / scale * weight + bias

    return Torch(function)


def layer_norm_truth(x: Any, weight: Any, bias: Any) -> Any:
    return (x - x.mean(-1, keepdims=True)) * rsqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def rms_norm(eps: float = 1e-6, offset: float = 0.0) -> Torch:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (offset + weight)

    return Torch(function)


def rms_norm_truth(offset: float = 0.0) -> Any:
    return lambda x, weight: x * rsqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (offset + weight)


def rms_norm_by_deviation(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt(x.std(-1, keepdim=True) + 1e-6) * weight


def rms_forward(x: np.ndarray, weight: np.ndarray, place: np.ndarray | None = None) -> Any:
    inverse = 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + x.dtype.type(1e-6))
    xhat = np.multiply(x, inverse, out=place)
    return weight * xhat, (xhat, inverse, weight)


def rms_backward(dy: np.ndarray, cache: Any) -> Any:
    xhat, inverse, weight = cache
    g = dy * weight
    return inverse * (g - xhat * (g * xhat).mean(-1, keepdims=True)), (dy * xhat).sum(0)


def layer_forward(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + x.dtype.type(1e-5))
    return weight * (centred * inverse) + bias, (centred * inverse, inverse, weight)


def layer_backward(times: int) -> Any:
    """Subtracts the mean gradient so many times."""

    def backward(dy: np.ndarray, cache: Any) -> Any:
        xhat, inverse, weight = cache
        g = dy * weight
        along = xhat * (g * xhat).mean(-1, keepdims=True)
        return inverse * (g - times * g.mean(-1, keepdims=True) - along), (dy * xhat).sum(0), dy.sum(0)

    return backward


def batch_norm(eps: float = 1e-5, two_passes: bool = True) -> Jax:
    def function(x: Any, weight: Any, bias: Any) -> Any:
        mean = x.mean(0)
        variance = jnp.square(x - mean).mean(0) if two_passes else (x**2).mean(0) - mean**2
        return (x - mean) / jnp.sqrt(variance + eps) * weight + bias

    return Jax(function)


def batch_norm_truth(x: Any, weight: Any, bias: Any) -> Any:
    return (x - x.mean(0)) * rsqrt(x.var(0) + 1e-5) * weight + bias


def running_mean(old: float, new: float) -> Torch:
    return Torch(lambda x, running: old * running + new * x.mean(0))


def running_variance(correction: int) -> Torch:
    return Torch(lambda x, running: 0.9 * running + 0.1 * x.var(0, correction=correction))


def standardized(correction: int) -> Torch:
    return Torch(
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=correction, keepdim=True) + 1e-3)
    )


def normalized(axes: tuple[int, ...]) -> Torch:
    """(batch, height, width, channels), over these axes."""

    def function(x: Tensor) -> Tensor:
        centred = x - x.mean(axes, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)

    return Torch(function)


def normalized_truth(axes: tuple[int, ...]) -> Any:
    def formula(x: Any) -> Any:
        centred = x - x.mean(axes, keepdims=True)
        return centred * rsqrt((centred**2).mean(axes, keepdims=True) + 1e-5)

    return formula


def group_norm(split: Any, back: Any) -> Torch:
    """Channels last; `split` brings (n, h, w, c) to (n, groups, ...), `back` undoes it."""

    def function(x: Tensor) -> Tensor:
        groups = split(x)
        axes = tuple(range(2, groups.ndim))
        centred = groups - groups.mean(axes, keepdim=True)
        return back(centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + 1e-5)).reshape(x.shape)

    return Torch(function)


def group_norm_truth(x: Any) -> Any:
    n, h, w, c = x.shape
    groups = x.reshape(n, h * w, 2, c // 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    return (centred * rsqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)).reshape(n, h, w, c)


def standardized_truth(x: Any) -> Any:
    variance = x.var(-1, keepdims=True) * (8 / 7)
    return (x - x.mean(-1, keepdims=True)) / (sqrt(variance) + 1e-3)


BUGS = (
    Bug(
        "layer_norm_eps_default",
        "mindspore-lab/mindone/pull/225",
        "eps",
        "CLIP's layer norms were trained with eps 1e-5; the port kept its framework's default of 1e-7.",
        right=layer_norm(1e-5),
        wrong=layer_norm(1e-7),
        inputs=ROWS,
        parameters=AFFINE,
        truth=layer_norm_truth,
    ),
    Bug(
        "rms_norm_eps",
        "huggingface/candle/pull/271",
        "eps",
        "Llama's RMS norm was ported with eps 1e-5 where the checkpoint says 1e-6.",
        right=rms_norm(1e-6),
        wrong=rms_norm(1e-5),
        inputs=ROWS,
        parameters=SCALE,
        truth=rms_norm_truth(),
    ),
    Bug(
        "batch_norm_eps",
        "jinyu121/DW2TF/issues/2",
        "eps",
        "Darknet's batch norm uses 1e-5 and TensorFlow's default is 1e-3; the converter did not say which.",
        right=batch_norm(1e-5),
        wrong=batch_norm(1e-3),
        inputs=ROWS,
        parameters=AFFINE,
        truth=batch_norm_truth,
        without=("one sample",),
    ),
    Bug(
        "eps_outside_the_root",
        "keras-team/keras/pull/8726",
        "eps",
        "Eps was added to the deviation in one place and to the variance in another.",
        right=layer_norm(1e-5),
        wrong=layer_norm(1e-5, inside=False),
        inputs=ROWS,
        parameters=AFFINE,
        truth=layer_norm_truth,
    ),
    Bug(
        "eps_in_the_count",
        "xlite-dev/LeetCUDA/pull/317",
        "eps",
        "A misplaced bracket added eps to the number of elements instead of to the variance.",
        right=layer_norm(1e-5),
        wrong=layer_norm(0.0, n=8 + 1e-5),
        inputs=ROWS,
        parameters=AFFINE,
        truth=layer_norm_truth,
    ),
    Bug(
        "layer_norm_bessel",
        "FluxML/Flux.jl/issues/529",
        "variance's divisor",
        "The layer norm called a std that divides by n - 1; every other layer norm divides by n.",
        right=layer_norm(1e-5),
        wrong=layer_norm(1e-5, n=7),
        inputs=ROWS,
        parameters=AFFINE,
        truth=layer_norm_truth,
    ),
    Bug(
        "std_ddof",
        "tensorflow/tensorflow/issues/43324",
        "variance's divisor",
        "torch.std divides by n - 1; the TensorFlow port called reduce_std, which divides by n.",
        right=standardized(1),
        wrong=standardized(0),
        inputs=ROWS,
        truth=standardized_truth,
    ),
    Bug(
        "rms_norm_by_deviation",
        "stanford-cs336/assignment1-basics/issues/93",
        "variance's divisor",
        "The RMS norm divided by the root of the deviation, which subtracts the mean first and is no square.",
        right=rms_norm(),
        wrong=Torch(rms_norm_by_deviation),
        inputs=ROWS,
        parameters=SCALE,
        truth=rms_norm_truth(),
    ),
    Bug(
        "rms_norm_plus_one",
        "linkedin/Liger-Kernel/issues/74",
        "weight's offset",
        "Gemma stores its RMS norm's weight minus 1; the kernel multiplied by the weight as it is.",
        right=rms_norm(offset=1.0),
        wrong=rms_norm(),
        inputs=ROWS,
        parameters=SCALE,
        truth=rms_norm_truth(1.0),
    ),
    Bug(
        "rms_norm_plus_one_twice",
        "utensils/mold/pull/1078",
        "weight's offset",
        "The file's weights already contained Gemma's + 1, and the loader added it again.",
        right=rms_norm(),
        wrong=rms_norm(offset=1.0),
        inputs=ROWS,
        parameters=SCALE,
        truth=rms_norm_truth(),
    ),
    Bug(
        "rms_norm_cut_to_float32",
        "huggingface/transformers/issues/24519",
        "float32 cast",
        "The norm casts to float32 whatever comes in: a float64 model is cut there.",
        right=rms_norm(),
        wrong=Torch(lambda x, weight: rms_norm().function(x.float(), weight.float()).to(x.dtype)),
        inputs=ROWS,
        parameters=SCALE,
        truth=rms_norm_truth(),
    ),
    Bug(
        "rms_norm_in_place",
        "GeeeekExplorer/nano-vllm/issues/170",
        "in place",
        "The norm wrote over its input where no cast had copied it, and the residual branch read the result.",
        right=Numpy(rms_forward, rms_backward),
        wrong=Numpy(lambda x, weight: rms_forward(x, weight, place=x), rms_backward),
        inputs=ROWS,
        parameters=SCALE,
        truth=rms_norm_truth(),
    ),
    Bug(
        "layer_norm_backward_mean_twice",
        "tenstorrent/tt-metal/pull/53215",
        "backward pass",
        "A register that was not cleared subtracted the mean gradient twice.",
        right=Numpy(layer_forward, layer_backward(1)),
        wrong=Numpy(layer_forward, layer_backward(2)),
        inputs=ROWS,
        parameters=AFFINE,
        truth=layer_norm_truth,
    ),
    Bug(
        "batch_norm_one_pass",
        "google/flax/issues/1491",
        "one-pass variance",
        "E[x^2] - E[x]^2 came out negative for a large mean, and the root gave NaN.",
        right=batch_norm(),
        wrong=batch_norm(two_passes=False),
        inputs=ROWS,
        parameters=AFFINE,
        truth=batch_norm_truth,
        without=("one sample",),
    ),
    Bug(
        "batch_norm_momentum",
        "pytorch/vision/issues/8250",
        "batch norm momentum",
        "TensorFlow's momentum of 0.99 weighs the old statistics; in torch it weighs the new ones.",
        right=running_mean(0.99, 0.01),
        wrong=running_mean(0.01, 0.99),
        inputs=ROWS,
        parameters={"running": (8,)},
        truth=lambda x, running: 0.99 * running + 0.01 * x.mean(0),
    ),
    Bug(
        "running_variance_biased",
        "brainpy/BrainPy/pull/843",
        "batch norm momentum",
        "The running variance was divided by n, where torch stores it divided by n - 1.",
        right=running_variance(1),
        wrong=running_variance(0),
        inputs=ROWS,
        parameters={"running": (8,)},
        truth=lambda x, running: 0.9 * running + 0.1 * (((x - x.mean(0)) ** 2).sum(0) / 5),
        without=("one sample",),
    ),
    Bug(
        "batch_norm_over_the_batch_alone",
        "Nico-Curti/NumPyNet/issues/7",
        "axes of the mean",
        "An image's batch norm averaged over the batch alone and kept height and width apart.",
        right=normalized((0, 1, 2)),
        wrong=normalized((0,)),
        inputs={"x": (3, 2, 2, 4)},
        truth=normalized_truth((0, 1, 2)),
    ),
    Bug(
        "group_norm_of_one_group",
        "onnx/onnx-tensorrt/pull/1052",
        "axes of the mean",
        "With one group the mean left the channels out, which is instance norm.",
        right=normalized((1, 2, 3)),
        wrong=normalized((1, 2)),
        inputs={"x": (3, 2, 2, 4)},
        truth=normalized_truth((1, 2, 3)),
    ),
    Bug(
        "group_norm_channels_last",
        "tensorflow/addons/issues/751",
        "memory layout",
        "Channels last, the reshape into groups needs a transpose; without it, groups mix rows of the image.",
        right=group_norm(
            lambda x: x.reshape(*x.shape[:3], 2, -1).permute(0, 3, 1, 2, 4),
            lambda y: y.permute(0, 2, 3, 1, 4),
        ),
        wrong=group_norm(lambda x: x.reshape(x.shape[0], 2, *x.shape[1:3], -1), lambda y: y),
        inputs={"x": (2, 4, 3, 6)},
        truth=group_norm_truth,
    ),
)
