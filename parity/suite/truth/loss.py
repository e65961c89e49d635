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
size of the largest logit rather than of the loss, is not among the admitted forms.
"""

from __future__ import annotations

import numpy as np

from parity.bounds.bounded import Bounded, either, where
from parity.bounds.rounding import Array, Rounding
from parity.verification.place import Inputs, Settings


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
