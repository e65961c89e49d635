"""Evaluation of a network, layer by layer, on inputs that may themselves carry errors.

Dropout is the identity, Flatten only moves; what the other layers admit stands in their own files. A bfloat16
network holds float32 parameters: products see its weights rounded, a bias is added rounded or as it is, batch
norm computes in float32.
"""

from __future__ import annotations

from collections.abc import Mapping

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding
from parity.suite.truth import conv, dense, norm
from triptych.describe.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d


def evaluate(layer: Layer, own: Mapping[str, Array], x: Bounded, by_batch: bool = False) -> Bounded:
    """The layer's output; `own` are its canonical arrays by the last part of their names. Batch norm takes
    running statistics, or with `by_batch` those of x.
    """
    r = x.r
    match layer:
        case Linear():
            return dense.affine(x, _weight(own["weight"], r), dense.bias(own["bias"], r))
        case Conv2d(_, _, _, window):
            b = dense.bias(own["bias"], r) if "bias" in own else None
            return conv.convolved(x, _weight(own["weight"], r), b, window)
        case MaxPool2d(_, window):
            return conv.pooled(x, window)
        case Flatten():
            return x.reshape(len(x), -1)
        case LeakyReLU(_, slope):
            return dense.rectified(x, slope)
        case BatchNorm(_, _, eps):
            return _normalized(x, own, eps, by_batch)
        case Dropout():
            return x


def _weight(W: Array, r: Rounding) -> Bounded:
    return Bounded.exact(r.nearest(W), r)


def _normalized(x: Bounded, own: Mapping[str, Array], eps: float, by_batch: bool) -> Bounded:
    wide, r = x.r.wide, x.r
    columns = norm.columns(x.to(wide))
    exact = {key: Bounded.exact(wide.nearest(array), wide) for key, array in own.items()}
    gamma, beta = exact["gamma"], exact["beta"]
    if by_batch:
        y = norm.by_batch(columns, gamma, beta, eps)
    else:
        y = norm.by_running(columns, gamma, beta, exact["running_mean"], exact["running_var"], eps)
    return norm.image(y, x.shape).to(r)
