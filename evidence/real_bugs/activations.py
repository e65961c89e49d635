"""Activations, their derivatives at special points, and backward passes by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evidence.real_bugs.bug import Bug
from parity import Jax, Numpy, Torch
from parity.formula import PI, erf, exp, row_maximum, sigmoid, sqrt, stop_gradient, tanh, where

X: dict[str, Any] = {"x": (4, 6)}
KEPT = np.random.default_rng(0).random((4, 6)) > 0.2
"""A dropout mask at rate 0.2."""
ROWS = np.arange(4) % 3
"""Which row of a codebook each vector takes."""


def gelu_truth(x: Any) -> Any:
    return x / 2 * (1 + erf(x / sqrt(2)))


def tanh_gelu_truth(x: Any) -> Any:
    return x / 2 * (1 + tanh(sqrt(2 / PI) * (x + 0.044715 * x**3)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    found: np.ndarray = e / e.sum(-1, keepdims=True)
    return found


def softmax_truth(x: Any) -> Any:
    e = exp(x - row_maximum(x))
    return e / e.sum(-1, keepdims=True)


def exponentials(subtracted: Callable[[Tensor], Any]) -> Torch:
    """Softmax, with something subtracted first."""

    def function(x: Tensor) -> Tensor:
        e = torch.exp(x - subtracted(x.detach()))
        return e / e.sum(-1, keepdim=True)

    return Torch(function)


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def by_hand(forward: Callable[..., Any], backward: Callable[..., Any]) -> Numpy:
    """The output is all that the backward pass keeps."""

    def keep(x: np.ndarray) -> Any:
        y = forward(x)
        return y, y

    return Numpy(keep, backward)


def largest(share: Callable[[np.ndarray], np.ndarray]) -> Numpy:
    """The maximum of each row; `share` gives each element's part of the gradient, from x == max."""

    def backward(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
        return dy[:, None] * share(x == x.max(-1, keepdims=True)).astype(x.dtype)

    return Numpy(lambda x: (x.max(-1), x), backward)


def dropout(scale: float, masked: bool = True) -> Numpy:
    def backward(dy: np.ndarray, cache: Any) -> np.ndarray:
        found: np.ndarray = dy * cache if masked else dy * dy.dtype.type(scale)
        return found

    def forward(x: np.ndarray) -> Any:
        kept = KEPT * x.dtype.type(scale)
        return x * kept, kept

    return Numpy(forward, backward)


def quantized(x: Tensor, book: Tensor) -> tuple[Tensor, Tensor]:
    """Codebook rows, and the same with the straight-through gradient."""
    rows = book[ROWS]
    return rows, x + (rows - x).detach()


def quantizer(codebook_sees: str) -> Torch:
    """Its loss: the codebook's term on the plain rows or on the straight-through ones, and the commitment."""

    def function(x: Tensor, book: Tensor) -> Tensor:
        rows, through = quantized(x, book)
        seen = {"rows": rows, "through": through}[codebook_sees]
        return (seen - x.detach()).square() + (rows.detach() - x).square() / 4 + 0 * book.sum()

    return Torch(function)


def commitment(codebook: float, encoder: float) -> Torch:
    """Weights of the codebook's term and of the encoder's."""

    def function(x: Tensor, book: Tensor) -> Tensor:
        rows = book[ROWS]
        return codebook * (rows - x.detach()).square() + encoder * (rows.detach() - x).square()

    return Torch(function)


def loss_truth(x: Any, book: Any) -> Any:
    rows = np.eye(3)[ROWS] @ book
    to_book, to_encoder = rows - stop_gradient(x), stop_gradient(rows) - x
    return to_book**2 + 0.25 * to_encoder**2


BUGS = (
    Bug(
        "gelu_tanh_for_erf",
        "goodfire-ai/spd/issues/624",
        "GELU",
        "JAX's default GELU is the tanh approximation, and the original's is exact.",
        right=Jax(lambda x: jax.nn.gelu(x, approximate=False)),
        wrong=Jax(jax.nn.gelu),
        inputs=X,
        truth=gelu_truth,
    ),
    Bug(
        "gelu_erf_for_tanh",
        "google/gemma_pytorch/issues/33",
        "GELU",
        "Gemma was trained in JAX with the tanh approximation, and the PyTorch code took torch's default.",
        right=Torch(lambda x: F.gelu(x, approximate="tanh")),
        wrong=Torch(F.gelu),
        inputs=X,
        truth=tanh_gelu_truth,
    ),
    Bug(
        "quick_gelu",
        "huggingface/transformers/issues/26584",
        "GELU",
        "MetaCLIP's checkpoints need x sigmoid(1.702 x); they were converted with the ordinary GELU.",
        right=Torch(lambda x: x * torch.sigmoid(1.702 * x)),
        wrong=Torch(F.gelu),
        inputs=X,
        truth=lambda x: x * sigmoid(1.702 * x),
    ),
    Bug(
        "swish_missing",
        "kuangliu/pytorch-cifar/issues/83",
        "SiLU",
        "EfficientNet was ported with another activation than the paper's x sigmoid(x).",
        right=Torch(F.silu),
        wrong=Torch(F.relu),
        inputs=X,
        truth=lambda x: x * sigmoid(x),
    ),
    Bug(
        "leaky_relu_slope",
        "Dobiasd/frugally-deep/pull/446",
        "LeakyReLU slope",
        "The activation function's slope is 0.2 and the layer's 0.3; the port used the layer's.",
        right=Torch(lambda x: F.leaky_relu(x, 0.2)),
        wrong=Torch(lambda x: F.leaky_relu(x, 0.3)),
        inputs=X,
        truth=lambda x: where(x > 0, x, 0.2 * x),
    ),
    Bug(
        "relu_as_maximum",
        "jax-ml/jax/issues/37821",
        "derivative at a kink",
        "jnp.maximum(x, 0) gives the gradient 1/2 at 0, where every ReLU gives 0.",
        right=Jax(jax.nn.relu),
        wrong=Jax(lambda x: jnp.maximum(x, 0)),
        inputs=X,
        truth=lambda x: where(x > 0, x, 0 * x),
    ),
    Bug(
        "abs_at_zero",
        "jax-ml/jax/issues/37820",
        "derivative at a kink",
        "JAX's abs has the gradient 1 at 0, torch's and NumPy's sign 0.",
        right=Jax(lambda x: x * jax.lax.stop_gradient(jnp.sign(x))),
        wrong=Jax(jnp.abs),
        inputs=X,
        truth=lambda x: where(x > 0, x, where(x < 0, -x, stop_gradient(x))),
    ),
    Bug(
        "l1_loss_at_zero",
        "pytorch/pytorch/issues/7172",
        "derivative at a kink",
        "An L1 loss whose gradient is 1 where prediction and target agree never comes to rest.",
        right=Torch(torch.abs),
        wrong=Torch(lambda x: torch.where(x < 0, -x, x)),
        inputs=X,
        truth=lambda x: where(x > 0, x, where(x < 0, -x, stop_gradient(x))),
    ),
    Bug(
        "relu6_as_clamp",
        "pytorch/pytorch/issues/184574",
        "derivative at a kink",
        "clamp(x, 0, 6) lets the gradient pass at the bounds, ReLU6 does not.",
        right=Torch(F.relu6),
        wrong=Torch(lambda x: x.clamp(0, 6)),
        inputs=X,
        truth=lambda x: where(x > 0, where(x < 6, x, 6 + 0 * x), 0 * x),
    ),
    Bug(
        "maximum_counts_ties",
        "apache/mxnet/issues/18563",
        "ties",
        "Each of several equal maxima got the whole gradient.",
        right=largest(lambda hit: hit / hit.sum(-1, keepdims=True)),
        wrong=largest(lambda hit: hit),
        inputs=X,
        original=Torch(lambda x: x.amax(-1)),
    ),
    Bug(
        "squared_norm_at_zero",
        "jax-ml/jax/issues/4177",
        "NaN gradient",
        "The square of linalg.norm has a NaN gradient at a zero vector; the sum of squares has 0.",
        right=Jax(lambda x: (x**2).sum(-1)),
        wrong=Jax(lambda x: jnp.linalg.norm(x, axis=-1) ** 2),
        inputs=X,
        truth=lambda x: (x**2).sum(-1),
    ),
    Bug(
        "softmax_backward_diagonal",
        "deeplearning4j/libnd4j/issues/440",
        "backward pass",
        "The softmax's derivative had only its diagonal, y (1 - y).",
        right=by_hand(softmax, lambda dy, y: y * (dy - (dy * y).sum(-1, keepdims=True))),
        wrong=by_hand(softmax, lambda dy, y: dy * y * (1 - y)),
        inputs=X,
        truth=softmax_truth,
    ),
    Bug(
        "softmax_overflows",
        "deeplearning4j/deeplearning4j/issues/6039",
        "stability",
        "A rewritten softmax took exp of what came in, without subtracting the row's maximum.",
        right=exponentials(lambda x: x.amax(-1, keepdim=True)),
        wrong=exponentials(lambda x: 0),
        inputs=X,
        truth=softmax_truth,
    ),
    Bug(
        "softmax_subtracts_at_least_zero",
        "FluxML/NNlib.jl/pull/43",
        "stability",
        "The larger of 0 and the row's maximum was subtracted, so very negative rows came out 0 / 0.",
        right=exponentials(lambda x: x.amax(-1, keepdim=True)),
        wrong=exponentials(lambda x: x.amax(-1, keepdim=True).clamp(min=0)),
        inputs=X,
        truth=softmax_truth,
        cases={"negative rows": {"x": np.full((4, 6), -1e4) + np.arange(6.0)}},
    ),
    Bug(
        "log_softmax_backward",
        "mlpack/mlpack/issues/2360",
        "backward pass",
        "The log-softmax's backward pass added the softmax where it must be subtracted, times the sum of dy.",
        right=by_hand(log_softmax, lambda dy, y: dy - np.exp(y) * dy.sum(-1, keepdims=True)),
        wrong=by_hand(log_softmax, lambda dy, y: dy + np.exp(y)),
        inputs=X,
        original=Torch(lambda x: x.log_softmax(-1)),
    ),
    Bug(
        "dropout_scale",
        "lmjohns3/theanets/pull/123",
        "dropout",
        "What dropout keeps was divided by the rate instead of by 1 - rate.",
        right=dropout(1 / (1 - 0.2)),
        wrong=dropout(1 / 0.2),
        inputs=X,
        original=Torch(lambda x: torch.where(torch.from_numpy(KEPT), x * (1 / (1 - 0.2)), 0.0)),
        without=("one sample",),
    ),
    Bug(
        "dropout_backward_unmasked",
        "ddbourgin/numpy-ml/issues/94",
        "dropout",
        "The backward pass scaled the gradient and did not mask it.",
        right=dropout(1 / (1 - 0.2)),
        wrong=dropout(1 / (1 - 0.2), masked=False),
        inputs=X,
        original=Torch(lambda x: torch.where(torch.from_numpy(KEPT), x * (1 / (1 - 0.2)), 0.0)),
        without=("one sample",),
    ),
    Bug(
        "codebook_loss_through_the_estimator",
        "andylolu2/jax-vqvae-gpt/issues/2",
        "stop gradient",
        "The codebook's loss was computed after the straight-through step, so the codebook got no gradient.",
        right=quantizer("rows"),
        wrong=quantizer("through"),
        inputs=X,
        parameters={"book": (3, 6)},
        truth=loss_truth,
        without=("one sample",),
    ),
    Bug(
        "commitment_terms_exchanged",
        "CompVis/taming-transformers/issues/57",
        "stop gradient",
        "The factor 1/4 went to the codebook's term instead of the commitment's.",
        right=commitment(1, 0.25),
        wrong=commitment(0.25, 1),
        inputs=X,
        parameters={"book": (3, 6)},
        truth=loss_truth,
        without=("one sample",),
    ),
)
