"""Losses: smoothing, means, directions, stability."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from evidence.real_bugs.bug import Bug
from parity import Jax, Torch
from parity.formula import exp, log, row_maximum

LABELS = np.array([2, 0, 1, 2, 3])
PADDED = np.array([2, 0, -100, 2, -100])
LOGITS: dict[str, Any] = {"z": (5, 4), "label": LABELS}
PAIRS: dict[str, Any] = {"student": (5, 4), "teacher": (5, 4)}


def smoothed(on: float, off: float) -> Torch:
    """Each sample's cross-entropy with targets `on` + `off` for the label and `off` for every other class."""

    def function(z: Tensor, label: Tensor) -> Tensor:
        targets = on * F.one_hot(label, 4).to(z) + off
        return -(targets * z.log_softmax(-1)).sum(-1)

    return Torch(function)


def padded(divisor: float) -> Jax:
    """The mean cross-entropy where the label is not -100."""

    def function(z: jax.Array, label: jax.Array) -> jax.Array:
        kept = label != -100
        picked = jnp.take_along_axis(jax.nn.log_softmax(z), jnp.where(kept, label, 0)[:, None], -1)[:, 0]
        return -jnp.where(kept, picked, 0).sum()[None] / divisor

    return Jax(function)


def cross_entropy(naive: bool) -> Jax:
    """Each sample's."""

    def function(z: jax.Array, label: jax.Array) -> jax.Array:
        shifted = z if naive else z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
        total = jnp.log(jnp.exp(shifted).sum(-1))
        return total - jnp.take_along_axis(shifted, label[:, None], -1)[:, 0]

    return Jax(function)


def divergence(forward: bool, mean: bool = False) -> Torch:
    """KL(teacher, student) of each sample, or the reverse."""

    def function(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = teacher.log_softmax(-1), student.log_softmax(-1)
        terms = p.exp() * (p - q) if forward else q.exp() * (q - p)
        return terms.mean(-1) if mean else terms.sum(-1)

    return Torch(function)


def log_softmax(x: Any) -> Any:
    shifted = x - row_maximum(x)
    return shifted - log(exp(shifted).sum(-1, keepdims=True))


def divergence_truth(student: Any, teacher: Any) -> Any:
    p, q = log_softmax(teacher), log_softmax(student)
    return (exp(p) * (p - q)).sum(-1)


def smoothed_truth(z: Any, label: np.ndarray) -> Any:
    targets = 0.9 * np.eye(4)[label] + 0.1 / 4
    return -(targets * log_softmax(z)).sum(-1)


BUGS = (
    Bug(
        "smoothing_forgets_its_rate",
        "TimDettmers/ConvE/issues/55",
        "label smoothing",
        "1 / classes was added to the targets instead of rate / classes.",
        right=smoothed(0.9, 0.1 / 4),
        wrong=smoothed(0.9, 1 / 4),
        inputs=LOGITS,
        original=Torch(lambda z, label: F.cross_entropy(z, label, label_smoothing=0.1, reduction="none")),
    ),
    Bug(
        "smoothing_takes_too_little",
        "ildoonet/pytorch-randaugment/issues/30",
        "label smoothing",
        "The label's own target was scaled by 1 - rate / classes instead of 1 - rate.",
        right=smoothed(0.9, 0.1 / 4),
        wrong=smoothed(1 - 0.1 / 4, 0.1 / 4),
        inputs=LOGITS,
        original=Torch(lambda z, label: F.cross_entropy(z, label, label_smoothing=0.1, reduction="none")),
    ),
    Bug(
        "smoothing_over_the_others",
        "fastai/fastai/pull/1814",
        "label smoothing",
        "The rate was divided by classes - 1 and taken from the label, too: it became rate * c / (c - 1).",
        right=smoothed(0.9, 0.1 / 4),
        wrong=smoothed(1 - 0.1 * 4 / 3, 0.1 / 3),
        inputs=LOGITS,
        truth=smoothed_truth,
    ),
    Bug(
        "padding_in_the_mean",
        "tracel-ai/burn/issues/5568",
        "ignored labels",
        "Padded labels were left out of the sum and still counted in the mean.",
        right=padded(3),
        wrong=padded(5),
        inputs={"z": (5, 4), "label": PADDED},
        original=Torch(lambda z, label: F.cross_entropy(z, label)[None]),
        without=("one sample",),
    ),
    Bug(
        "ignore_index_unused",
        "lucidrains/DALLE-pytorch/issues/57",
        "ignored labels",
        "ignore_index was defined and never handed to the loss, which learned to predict the padding.",
        right=Torch(lambda z, label: F.cross_entropy(z, label, ignore_index=0, reduction="none")),
        wrong=Torch(lambda z, label: F.cross_entropy(z, label, reduction="none")),
        inputs=LOGITS,
        original=Torch(lambda z, label: -(z.log_softmax(-1) * F.one_hot(label, 4))[:, 1:].sum(-1)),
    ),
    Bug(
        "cross_entropy_overflows",
        "GustikS/NeuraLogic/issues/6",
        "stability",
        "log(sum(exp(z))) overflows for large logits: nothing was subtracted first.",
        right=cross_entropy(naive=False),
        wrong=cross_entropy(naive=True),
        inputs=LOGITS,
        original=Torch(lambda z, label: F.cross_entropy(z, label, reduction="none")),
    ),
    Bug(
        "binary_cross_entropy_overflows",
        "huggingface/candle/issues/2561",
        "stability",
        "log(1 - sigmoid(z)) is log(0) for large logits.",
        right=Torch(lambda z, target: F.softplus(z) - target * z),
        wrong=Torch(
            lambda z, target: (
                -(target * torch.log(torch.sigmoid(z)) + (1 - target) * torch.log(1 - torch.sigmoid(z)))
            )
        ),
        inputs={"z": (5, 4), "target": (5, 4)},
        original=Torch(lambda z, target: F.binary_cross_entropy_with_logits(z, target, reduction="none")),
    ),
    Bug(
        "divergence_reversed",
        "paiml/aprender/pull/2153",
        "KL direction",
        "Distillation measured the divergence of the student from the teacher the wrong way around.",
        right=divergence(forward=True),
        wrong=divergence(forward=False),
        inputs=PAIRS,
        truth=divergence_truth,
    ),
    Bug(
        "divergence_averaged",
        "HikariTJU/LD/issues/74",
        "mean or sum",
        "The terms of the divergence were averaged over the classes, which makes it that many times smaller.",
        right=divergence(forward=True),
        wrong=divergence(forward=True, mean=True),
        inputs=PAIRS,
        truth=divergence_truth,
    ),
    Bug(
        "latent_divergence_averaged",
        "maxhodak/keras-molecules/issues/59",
        "mean or sum",
        "A variational autoencoder's KL term was averaged over the latent dimensions instead of summed.",
        right=Torch(lambda mean, logvar: -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(-1)),
        wrong=Torch(lambda mean, logvar: -0.5 * (1 + logvar - mean**2 - logvar.exp()).mean(-1)),
        inputs={"mean": (5, 4), "logvar": (5, 4)},
        truth=lambda mean, logvar: -0.5 * (1 + logvar - mean**2 - exp(logvar)).sum(-1),
    ),
)
