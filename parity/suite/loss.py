"""Softmax, the losses with their gradient by the logits, and the L2 penalty.

    e = exp(s - max s),  S = sum e,  p = e / S                                        eq. 5
    softmax backward      p (dp - sum dp p), or p dp - p sum dp p                     eq. 5-18
    cross-entropy         L = -sum_i t_i ((s_i - max s) - log S);  ds = (p - t) / B   eq. 1-4, 36, 45-46
                          there also p = exp((s - max s) - log S), as torch's backward has it
                          smoothed also as (1 - a) L_label + a / K sum_i L_i
    squared error         L = sum_i (p_i - t_i)^2;  ds = softmax backward of 2 (p - t) / B
    hinge                 L = sum_{i != y} max(0, 1 - s_y + s_i) / K;  ds counts violated margins
    L2                    l/2 sum W^2;  dW = l W

The maximum leaves before anything is exponentiated or added. log S + max s - s_y, which rounds at the
size of the largest logit rather than of the loss, is not among the admitted forms. By hand: a formula's
gradient goes through exp and log step by step, up to 1.4 times as loosely, and knows no exact margin.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either, where
from parity.bounds.rounding import Array, Rounding
from parity.suite.dense import normal
from parity.suite.draws import NAME, Draws
from parity.suite.operator import Operator
from parity.verification.case import Case, Layout, generator, planted
from parity.verification.judge import Item, Truth
from parity.verification.place import Inputs, Settings

KINDS = ("cross_entropy", "squared_error", "hinge")


def softmax(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """s and dp (B, K) to p and ds."""
    s, dp = Bounded.exact(inputs["s"], r), Bounded.exact(inputs["dp"], r)
    p = _probabilities(s)
    return {"p": p, "ds": _through_softmax(dp, p)}


def cross_entropy(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """s (B, K), labels (B,) to L (B,) and ds (B, K) of the batch mean."""
    s, labels, smoothing = Bounded.exact(inputs["s"], r), inputs["labels"], settings["smoothing"]
    t, p = _targets(labels, s, smoothing), _probabilities(s)
    # Automatic differentiation keeps the factor sum t = 1, and puts 1/B first or last.
    weight = _number(1.0, r) / len(s)
    ds = either(
        (p - t) / len(s),
        weight * p * t.sum(axis=1, keepdims=True) - weight * t,
        p * (weight * t).sum(axis=1, keepdims=True) - weight * t,
        # torch keeps log p and exponentiates it: two more roundings at the size of the exponent.
        _log_p(s).exp() * (weight * t).sum(axis=1, keepdims=True) - weight * t,
    )
    return {"L": cross_entropies(s, labels, smoothing), "ds": ds}


def cross_entropies(s: Bounded, labels: Array, smoothing: float) -> Bounded:
    """L (B,), of logits that may carry errors."""
    log_p, t, hot = _log_p(s), _targets(labels, s, smoothing), _targets(labels, s, 0.0)
    blend = -(hot * log_p).sum(axis=1) * _number(1.0 - smoothing, s.r)
    uniform = -log_p.sum(axis=1) * _number(smoothing / s.shape[1], s.r)
    return either(-(t * log_p).sum(axis=1), blend + uniform)


def squared_error(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """s (B, K), labels (B,) to L (B,) and ds (B, K) of the batch mean."""
    s = Bounded.exact(inputs["s"], r)
    p, t = _probabilities(s), _targets(inputs["labels"], s, settings["smoothing"])
    apart = p - t
    dp = either(2 * apart / len(s), 2 * apart * (_number(1.0, r) / len(s)))
    return {"L": (apart * apart).sum(axis=1), "ds": _through_softmax(dp, p)}


def hinge(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """s (B, K), labels (B,) to L (B,) and ds (B, K) of the batch mean; a margin of exactly 0 counts not."""
    s, labels = Bounded.exact(inputs["s"], r), inputs["labels"]
    rows, K = np.arange(len(s)), s.shape[1]
    true = s[rows, labels].reshape(-1, 1)
    margin = either(1 - true + s, 1 + (s - true), (1 + s) - true)
    known = (s.error == 0) & (true.error == 0) & _never_rounded(s.value, true.value, r)
    margin = Bounded(margin.value, np.where(known, 0, margin.error), r)
    others = np.arange(K) != labels[:, None]
    loss = where(others, margin.maximum(0.0), 0.0).sum(axis=1) / K
    # Each violated margin adds 1/(K B) to its class and takes it from the label's.
    step = either(_number(1.0, r) / K / len(s), _number(1.0, r) / (K * len(s)))
    violated = (margin.value > 0) & others
    ds = where(violated, step.broadcast_to(margin.shape), 0.0)
    # Nobody can say which side a margin lies on that is nearer to 0 than its error.
    unsure = (np.abs(margin.value).astype(np.float64) <= margin.error) & (margin.error > 0) & others
    ds = Bounded(ds.value, np.where(unsure, _size(step), ds.error), r)
    taken = -ds.sum(axis=1)
    value, error = ds.value.copy(), ds.error.copy()
    value[rows, labels], error[rows, labels] = taken.value, (taken / 1.0).error
    return {"L": loss, "ds": Bounded(value, error, r)}


def l2(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """W of any shape to the penalty (1,) and dW."""
    W, half = Bounded.exact(inputs["W"], r), _number(0.5 * settings["l2"], r)
    flat = W.reshape(-1)
    penalty = half * flat.inner(flat, axis=0)
    return {"penalty": penalty.reshape(1), "dW": either(_number(settings["l2"], r) * W, half * W * 2)}


def _number(value: float, r: Rounding) -> Bounded:
    return Bounded.constant(value, r)


def _size(b: Bounded) -> float:
    return float(np.abs(b.value)) + float(b.error)


def _top(s: Bounded) -> Bounded:
    """The row's maximum; a maximum of numbers with errors is off by no more than the largest of them."""
    return Bounded(s.value.max(axis=1, keepdims=True), s.error.max(axis=1, keepdims=True), s.r)


def _log_p(s: Bounded) -> Bounded:
    shifted = s - _top(s)
    # The largest shifted logit is 0 exactly, so that the sum is 1 or more, but for the error of exp there.
    least = 1 - 2 * s.r.exp_ulps * s.r.u
    return shifted - shifted.exp().sum(axis=1, keepdims=True).log(least)


def _probabilities(s: Bounded) -> Bounded:
    e = (s - _top(s)).exp()
    total = e.sum(axis=1, keepdims=True)
    return either(e / total, e * (1 / total))


def _targets(labels: Array, s: Bounded, smoothing: float) -> Bounded:
    """t: smoothing / K everywhere, and 1 - smoothing more on the label."""
    hot = Bounded.exact(np.arange(s.shape[1]) == labels[:, None], s.r)
    if not smoothing:
        return hot
    return hot * _number(1.0 - smoothing, s.r) + _number(smoothing / s.shape[1], s.r)


def _through_softmax(dp: Bounded, p: Bounded) -> Bounded:
    inner = dp.inner(p, axis=1).reshape(-1, 1)
    return either(p * (dp - inner), p * dp - p * inner)


def _never_rounded(s: Array, true: Array, r: Rounding) -> Array:
    """Where 1 - s_y + s_i is exact in whichever order: each partial sum is a number of the format."""
    return (
        r.represents(1 - true)
        & r.represents(s - true)
        & r.represents(1 + s)
        & r.represents(1 - true + s)
        & (1 - true + s == 1 + (s - true))
    )


# --- cases ---


def _cases() -> Iterator[Case]:
    rng = generator("loss")
    whole = rng.integers(-2, 3, (6, 10)).astype(float)
    logits: dict[str, Array] = {
        "ordinary": 3 * rng.normal(size=(7, 10)),
        "whole numbers: margins of exactly 0, equal logits": whole,
        "one sample": rng.normal(size=(1, 10)),
        "one class": rng.normal(size=(4, 1)),
        "all equal": np.full((3, 10), 0.3),
        "near 1000": 1000 + rng.normal(size=(5, 10)),
        "huge": 1e4 * rng.normal(size=(5, 10)),
        "tiny": 1e-30 * rng.normal(size=(5, 10)),
        "the study's batch": rng.normal(size=(200, 10)),
        "far apart, yet above underflow": rng.uniform(-70, 0, (60, 10)),
        "not contiguous": rng.normal(size=(6, 7)),
    }
    quick = {"cross_entropy": "near 1000", "squared_error": "ordinary", "hinge": "whole numbers"}
    for name, s in logits.items():
        labels = generator("labels", name).integers(0, s.shape[1], len(s))
        layout: Layout = "strided" if name == "not contiguous" else "plain"
        for kind in KINDS:
            settings: dict[str, Any] = {} if kind == "hinge" else {"smoothing": 0.0}
            fast = name.startswith(quick[kind])
            yield Case(kind, name, {"s": s, "labels": labels}, settings, layout, fast)
            if kind != "hinge" and name in ("ordinary", "near 1000", "one class"):
                smooth = {"smoothing": 0.1}
                fast = (kind, name) == ("cross_entropy", "ordinary")
                yield Case(kind, f"{name}, smoothed", {"s": s, "labels": labels}, smooth, layout, fast)
        dp = generator("dp", name).normal(size=(len(s), s.shape[1]))
        yield Case("softmax", name, {"s": s, "dp": dp}, {}, layout, name == "ordinary")
    yield from _not_finite()


def _not_finite() -> Iterator[Case]:
    """Not among the cases: a NaN in the hinge loss."""
    s = normal(5, 4)
    s[0, 1], s[1, 2], s[1, 3], s[2, 0] = np.nan, -np.inf, -np.inf, np.inf
    yield Case("softmax", "NaN, infinities, excluded classes", {"s": s, "dp": normal(5, 4)})
    s = normal(5, 4)
    s[1, 1], s[3, 0] = np.nan, np.inf
    for kind in ("cross_entropy", "squared_error"):
        inputs = {"s": s, "labels": np.array([0, 1, 2, 3, 0])}
        yield Case(kind, "NaN and infinity", inputs, {"smoothing": 0.0})


def _penalties() -> Iterator[Case]:
    rows = (("ordinary", (7, 5), 1.0), ("kernel", (3, 2, 3, 3), 1.0), ("tiny", (4, 4), 1e-25))
    for name, shape, scale in rows:
        W = planted(scale * generator("l2", name).normal(size=shape), generator("l2"), 0.0)
        yield Case("l2", name, {"W": W}, {"l2": 3e-3}, quick=name == "ordinary")
    yield Case("l2", "huge", {"W": 1e12 * normal(5, 4)}, {"l2": 3e-3})
    yield Case("l2", "not contiguous", {"W": normal(5, 4)}, {"l2": 3e-3}, "strided")
    odd = normal(3, 4)
    odd[1, 1] = np.nan
    yield Case("l2", "NaN", {"W": odd}, {"l2": 3e-3})


def _logits(d: Draws) -> Array:
    """From tiny to far apart."""
    shape = (d.size(), d.one_of(1, 10) if d.few else d.integer(1, 12))
    return d.values(shape, ties=d.flag()) * d.one_of(1.0, 30.0)


def _drawn_softmax(d: Draws) -> Case:
    s = _logits(d)
    return Case("softmax", NAME, {"s": s, "dp": d.upstream(s.shape)}, layout=d.layout())


def _drawn(item: str, d: Draws) -> Case:
    """Labels among the classes, smoothed or not."""
    s = _logits(d)
    labels = d.rng().integers(0, s.shape[1], len(s))
    smoothing = 0.0 if item == "hinge" else d.one_of(0.0, 0.1)
    return Case(item, NAME, {"s": s, "labels": labels}, {"smoothing": smoothing}, d.layout())


def _drawn_l2(d: Draws) -> Case:
    W = d.values((d.size(), d.size()))
    return Case("l2", NAME, {"W": W}, {"l2": d.one_of(1e-4, 3e-3, 0.5)}, d.layout())


def _operator(name: str, expected: Truth) -> Operator:
    return Operator(Item(name, expected), _cases, partial(_drawn, name))


OPERATORS = (
    Operator(Item("softmax", softmax), _cases, _drawn_softmax),
    _operator("cross_entropy", cross_entropy),
    _operator("squared_error", squared_error),
    _operator("hinge", hinge),
    Operator(Item("l2", l2), _penalties, _drawn_l2),
)
