"""Losses and L2 regularization from torch's functions; the gradients are autograd's.

Symbols: s (B, K) logits x~^(N), p = softmax(s) = x^(N), t (B, K) target distribution (one-hot, or
smoothed), L the loss as the mean over the batch (eq. 45-46). Cross-entropy is in nats.

    dL/dx^(N) = -t^T diag(1 / x^(N))                    eq. 1-4
    dx^(N)/dx~^(N) = diag(x) - x x^T                    eq. 5-18
    dL/dx~^(N) = x - t for a t that sums to one         eq. 36
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def targets(labels: Tensor, classes: int, smoothing: float, dtype: torch.dtype) -> Tensor:
    """t (B, K): 1 - smoothing on the label, and smoothing / K on every class."""
    return functional.one_hot(labels, classes).to(dtype) * (1.0 - smoothing) + smoothing / classes


def softmax(s: Tensor) -> Tensor:
    """exp(s) over its sum, row by row."""
    return functional.softmax(s, dim=1)  # eq. 5; backward 6-18


def softmax_cross_entropy(s: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Per sample (B,): -sum_i t_i log softmax(s)_i; torch makes t from labels and smoothing."""
    return functional.cross_entropy(  # eq. 1, 5; backward 2-18, 36
        s, labels, reduction="none", label_smoothing=smoothing
    )


def squared_error(s: Tensor, t: Tensor) -> Tensor:
    """sum_i (p_i - t_i)^2 per sample (B,): the Brier score (Brier 1950)."""
    return (softmax(s) - t).square().sum(dim=1)


def hinge(s: Tensor, labels: Tensor) -> Tensor:
    """sum over i != y of max(0, 1 - s_y + s_i) / K per sample (B,)."""
    return functional.multi_margin_loss(s, labels, reduction="none")


def per_sample(kind: str, s: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Losses (B,) of logits s (B, K) and integer labels (B,)."""
    if kind == "hinge":
        return hinge(s, labels)
    if kind == "cross_entropy":
        return softmax_cross_entropy(s, labels, smoothing)
    return squared_error(s, targets(labels, s.shape[1], smoothing, s.dtype))


def l2_penalty(weights: Sequence[Tensor], l2: float) -> Tensor:
    """l2 / 2 times the sum of all squared weights."""
    return 0.5 * l2 * torch.stack([W.square().sum() for W in weights]).sum()
