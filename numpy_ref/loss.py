"""Softmax, losses and L2 regularization, forward and backward by hand.

Symbols: s (B, K) logits x~^(N), p = softmax(s) = x^(N), t (B, K) target distribution (one-hot, or
smoothed), L the loss as the mean over the batch: each sample's gradient carries 1/B (eq. 45-46).
Cross-entropy is in nats.

    dL/dx^(N) = -t^T diag(1 / x^(N))                    eq. 1-4
    dx^(N)/dx~^(N) = diag(x) - x x^T                    eq. 5-18
    dL/dx~^(N) = x - t for a t that sums to one         eq. 36
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def targets(labels: Array, classes: int, smoothing: float, dtype: np.dtype) -> Array:
    """t (B, K): 1 - smoothing on the label, and smoothing / K on every class."""
    t = np.full((len(labels), classes), smoothing / classes, dtype)
    t[np.arange(len(labels)), labels] += 1.0 - smoothing
    return t


def softmax(s: Array) -> Array:
    """Each row's exp(s - max s) over its sum: the max leaves the value and removes the overflow."""
    e = np.exp(s - s.max(axis=1, keepdims=True))  # eq. 5
    return e / e.sum(axis=1, keepdims=True)


def softmax_backward(dp: Array, p: Array) -> Array:
    """dp (diag(p) - p p^T), row by row without forming the matrix."""
    return p * (dp - (dp * p).sum(axis=1, keepdims=True))  # eq. 5-18


def cross_entropy(p: Array, t: Array) -> Array:
    """-sum_i t_i log p_i for each sample (B,), of probabilities p; 0 log 0 counts as 0."""
    log_p = np.log(np.where(t > 0, p, 1))
    return -(t * log_p).sum(axis=1)  # eq. 1


def cross_entropy_backward(p: Array, t: Array) -> Array:
    """Gradient of the batch mean with respect to p."""
    return np.where(t > 0, -t / np.where(t > 0, p, 1), 0) / len(p)  # eq. 1-4, 45-46


def softmax_cross_entropy(s: Array, t: Array) -> Array:
    """Both in one, per sample: sum_i t_i (log sum_j exp s_j - s_i). Never takes log of 0."""
    shifted = s - s.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return -(t * log_p).sum(axis=1)


def softmax_cross_entropy_backward(s: Array, t: Array) -> Array:
    """(p - t) / B."""
    return (softmax(s) - t) / len(s)  # eq. 36, 45-46


def squared_error(s: Array, t: Array) -> Array:
    """sum_i (p_i - t_i)^2 per sample (B,): the Brier score (Brier 1950)."""
    return np.square(softmax(s) - t).sum(axis=1)


def squared_error_backward(s: Array, t: Array) -> Array:
    """2 (p - t) / B through the softmax."""
    p = softmax(s)
    return softmax_backward(2 * (p - t) / len(s), p)  # eq. 5-18, 45-46


def hinge(s: Array, labels: Array) -> Array:
    """sum over i != y of max(0, 1 - s_y + s_i) / K per sample (B,): torch's MultiMarginLoss."""
    return np.maximum(_margins(s, labels), 0).sum(axis=1) / s.shape[1]


def hinge_backward(s: Array, labels: Array) -> Array:
    """1 / (K B) for each violated margin, minus their count at y; a margin of exactly 0 counts not."""
    ds = (_margins(s, labels) > 0).astype(s.dtype)
    ds[np.arange(len(s)), labels] = -ds.sum(axis=1)
    return ds / (s.shape[1] * len(s))  # 45-46


def _margins(s: Array, labels: Array) -> Array:
    rows = np.arange(len(s))
    margins = 1 - s[rows, labels][:, None] + s
    margins[rows, labels] = 0
    return margins


def per_sample(kind: str, s: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Per-sample losses (B,) of logits s (B, K) and integer labels (B,)."""
    if kind == "hinge":
        return hinge(s, labels)
    t = targets(labels, s.shape[1], smoothing, s.dtype)
    return (softmax_cross_entropy if kind == "cross_entropy" else squared_error)(s, t)


def per_sample_backward(kind: str, s: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """dL/ds (B, K) of the batch mean."""
    if kind == "hinge":
        return hinge_backward(s, labels)
    t = targets(labels, s.shape[1], smoothing, s.dtype)
    return (softmax_cross_entropy_backward if kind == "cross_entropy" else squared_error_backward)(s, t)


def l2_penalty(weights: list[Array], l2: float) -> float:
    """l2 / 2 times the sum of all squared weights."""
    return 0.5 * l2 * sum(float(np.vdot(W, W)) for W in weights)


def l2_penalty_backward(W: Array, l2: float) -> Array:
    """d/dW of l2 / 2 W^2 = l2 W."""
    return l2 * W
