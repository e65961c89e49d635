"""Losses, wrong, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from numpy_ref import loss
from parity.planted import Patch, Plantings

Array = np.ndarray[Any, Any]
FORWARD, BACKWARD, MARGINS = loss.per_sample, loss.per_sample_backward, loss._margins


def _to_others(labels: Array, classes: int, smoothing: float, dtype: Any) -> Array:
    t = np.full((len(labels), classes), smoothing / max(classes - 1, 1), dtype)
    t[np.arange(len(labels)), labels] = 1.0 - smoothing
    return t


def _softmax(s: Array) -> Array:
    e = np.exp(s)
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _log_sum(s: Array, t: Array) -> Array:
    return np.asarray((t * (np.log(np.exp(s).sum(axis=1, keepdims=True)) - s)).sum(axis=1))


def _zero_margins(s: Array, labels: Array) -> Array:
    ds = (MARGINS(s, labels) >= 0).astype(s.dtype)
    rows = np.arange(len(s))
    ds[rows, labels] = 0
    ds[rows, labels] = -ds.sum(axis=1)
    return ds / (s.shape[1] * len(s))


def _shifted(function: Any) -> Any:
    return lambda kind, s, labels, smoothing=0.0: function(kind, s, (labels + 1) % s.shape[1], smoothing)


PLANTINGS: Plantings = {
    "loss-sum-for-mean": [
        Patch(loss, "per_sample_backward", lambda kind, s, *rest: len(s) * BACKWARD(kind, s, *rest))
    ],
    "loss-labels-shifted": [
        Patch(loss, "per_sample", _shifted(FORWARD)),
        Patch(loss, "per_sample_backward", _shifted(BACKWARD)),
    ],
    "loss-smoothing-over-others": [Patch(loss, "targets", _to_others)],
    "softmax-without-maximum": [
        Patch(loss, "softmax", _softmax),
        Patch(loss, "softmax_cross_entropy", _log_sum),
    ],
    "softmax-jacobian-sign": [
        Patch(
            loss,
            "softmax_backward",
            lambda dp, p: p * (dp - 2 * dp * p + (dp * p).sum(axis=1, keepdims=True)),
        )
    ],
    "softmax-zero-gradient": [Patch(loss, "softmax_backward", lambda dp, p: 0 * dp)],
    "softmax-jacobian-diagonal": [Patch(loss, "softmax_backward", lambda dp, p: dp * p * (1 - p))],
    "hinge-counts-zero-margins": [Patch(loss, "hinge_backward", _zero_margins)],
    "l2-without-half": [
        Patch(loss, "l2_penalty", lambda weights, l2: l2 * sum(float(np.vdot(W, W)) for W in weights)),
        Patch(loss, "l2_penalty_backward", lambda W, l2: 2 * l2 * W),
    ],
}
