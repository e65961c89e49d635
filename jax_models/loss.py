"""Losses and L2 regularization; softmax and cross-entropy are optax's, the gradients JAX's.

Symbols: s (B, K) logits x~^(N), p = softmax(s) = x^(N), t (B, K) target distribution (one-hot, or
smoothed), L the loss as the mean over the batch (eq. 45-46). Cross-entropy is in nats.

    dL/dx^(N) = -t^T diag(1 / x^(N))                    eq. 1-4
    dx^(N)/dx~^(N) = diag(x) - x x^T                    eq. 5-18
    dL/dx~^(N) = x - t for a t that sums to one         eq. 36
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def targets(labels: Array, classes: int, smoothing: float, dtype: jnp.dtype) -> Array:
    """t (B, K): 1 - smoothing on the label, and smoothing / K on every class."""
    return optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=dtype), smoothing)


def softmax(s: Array) -> Array:
    """exp(s) over its sum, row by row."""
    return jax.nn.softmax(s, axis=1)  # eq. 5; backward 6-18


def softmax_cross_entropy(s: Array, t: Array) -> Array:
    """Per sample (B,): -sum_i t_i log softmax(s)_i. optax's form for integer labels is twice as far off
    (5e-7 against 3e-7 in float32 at losses near 5), and has no smoothing.
    """
    return optax.softmax_cross_entropy(s, t)  # eq. 1, 5; backward 2-18, 36


def squared_error(s: Array, t: Array) -> Array:
    """sum_i (p_i - t_i)^2 per sample (B,): the Brier score (Brier 1950)."""
    return optax.squared_error(softmax(s), t).sum(axis=1)


def hinge(s: Array, labels: Array) -> Array:
    """sum over i != y of max(0, 1 - s_y + s_i) / K per sample (B,): torch's MultiMarginLoss."""
    true = jax.nn.one_hot(labels, s.shape[1], dtype=bool)
    margins = 1 - jnp.take_along_axis(s, labels[:, None], axis=1) + s
    # `where`, not `maximum`: a margin of exactly 0 has gradient 0, as in torch.
    return jnp.sum(jnp.where((margins > 0) & ~true, margins, 0), axis=1) / s.shape[1]


def per_sample(kind: str, s: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Losses (B,) of logits s (B, K) and integer labels (B,).

    A label that is none of the K has loss NaN: compiled code cannot raise, and its one-hot row of zeros
    would pass for a loss of 0.
    """
    if kind == "hinge":
        losses = hinge(s, labels)
    else:
        t = targets(labels, s.shape[1], smoothing, s.dtype)
        losses = softmax_cross_entropy(s, t) if kind == "cross_entropy" else squared_error(s, t)
    return jnp.where((labels >= 0) & (labels < s.shape[1]), losses, jnp.nan)


def l2_penalty(weights: list[Array], l2: float) -> Array:
    """l2 / 2 times the sum of all squared weights."""
    return 0.5 * l2 * optax.tree.norm(weights, squared=True)
