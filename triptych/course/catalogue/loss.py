"""Session 1: softmax and cross-entropy in one."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.formula import exp, log, row_maximum
from triptych.course.catalogue.stub import stub
from triptych.course.exercise import Array, Arrays, Exercise

B, K = 6, 5


def _truth(s: Any, labels: Array) -> Any:
    shifted = s - row_maximum(s)
    each = log(exp(shifted).sum(1, keepdims=True)) - shifted
    return (each * (np.arange(K) == labels[:, None])).sum(1).mean()


def _parts(arrays: Arrays) -> tuple[Array, Array, Array]:
    """s, p and one-hot t."""
    s = arrays["s"]
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return s, e / e.sum(axis=1, keepdims=True), np.eye(K)[arrays["labels"]]


def _right(arrays: Arrays, dy: Array) -> Arrays:
    s, p, t = _parts(arrays)
    shifted = s - s.max(axis=1, keepdims=True)
    each = np.log(np.exp(shifted).sum(axis=1)) - (t * shifted).sum(axis=1)
    return {"y": each.mean(), "ds": dy * (p - t) / len(s)}


def _other_axis(arrays: Arrays, dy: Array) -> Arrays:
    s, _, t = _parts(arrays)
    e = np.exp(s - s.max(axis=0))
    p = e / e.sum(axis=0)
    with np.errstate(divide="ignore"):
        return {"y": -np.log((p * t).sum(axis=1)).mean(), "ds": dy * (p - t) / len(s)}


def _untargeted(arrays: Arrays, dy: Array) -> Arrays:
    s, p, _ = _parts(arrays)
    with np.errstate(divide="ignore"):
        return {"y": -np.log(p.max(axis=1)).mean(), "ds": dy * p / len(s)}


def _diagonal(arrays: Arrays, dy: Array) -> Arrays:
    s, p, t = _parts(arrays)
    return {"ds": dy * -t * (1 - p) / len(s)}


def _probability(arrays: Arrays, dy: Array) -> Arrays:
    s, p, t = _parts(arrays)
    return {"y": -(p * t).sum(axis=1).mean(), "ds": dy * (s - t) / len(s)}


def _sum_of(arrays: Arrays) -> Array:
    _, p, t = _parts(arrays)
    return p + t


def _without_logarithm(arrays: Arrays, dy: Array) -> Arrays:
    s, _, t = _parts(arrays)
    shifted = s - s.max(axis=1, keepdims=True)
    return {"y": (np.exp(shifted).sum(axis=1) - (t * shifted).sum(axis=1)).mean()}


CROSS_ENTROPY = Exercise(
    name="cross_entropy",
    session=1,
    title="softmax and cross-entropy in one",
    equations="eq. 1 to 18, 36, 45, 46, 79, 80",
    stub=stub(
        "Cross-entropy of softmax(s): logits s (B, K), integer labels (B,) to the mean loss of the batch.",
        "s, labels",
        "ds",
    ),
    inputs={"s": np.random.default_rng(0).normal(size=(B, K)), "labels": np.array([0, 3, 1, 4, 2, 2])},
    truth=_truth,
    right=_right,
    wrong={
        "the softmax runs over the batch (axis 0), not over the classes": _other_axis,
        "the label is not used: the most probable class, or a target of 0": _untargeted,
        "only the diagonal of the softmax's derivative: every logit moves every probability": _diagonal,
        "logarithm and exponential are missing: the probability, or the logit, itself": _probability,
        "the target is added, not subtracted": lambda arrays, dy: {"ds": dy * _sum_of(arrays) / B},
        "the logarithm of the sum is missing": _without_logarithm,
    },
    probes={"large": lambda arrays: {**arrays, "s": 1000 * arrays["s"]}},
    large="right for ordinary logits, not for large ones: subtract each row's maximum before exp",
    without=("one sample",),
    factors={"B": B, "K": K},
)
