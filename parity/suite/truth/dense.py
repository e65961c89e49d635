"""Linear, LeakyReLU, dropout and flatten.

    y = x W^T + b, dx = dy W, dW = dy^T x, db = sum_s dy                      eq. 25-44
    LeakyReLU: y = [x > 0] x + [x <= 0] a x, dx = [x > 0] dy + [x <= 0] a dy  eq. 19-24, 37
    dropout: y = [kept] x / (1 - rate), or times 1 / (1 - rate)

Linear's limit is gamma_K |x| |W^T| and one rounding for the bias, whether it is added before, among or
after the products. LeakyReLU rounds the slope and the product, dropout the factor and the product or
quotient: 1 ULP and the second-order rest.
"""

from __future__ import annotations

import numpy as np

from parity.bounds.bounded import UP, Bounded, either, where
from parity.bounds.rounding import Array, Rounding
from parity.verification.place import Inputs, Settings


def linear(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, d_in), W (d_out, d_in), b (d_out,) to y, and with dy (B, d_out) also dx, dW, db."""
    x, W, b = (Bounded.exact(inputs[name], r) for name in ("x", "W", "b"))
    found = {"y": affine(x, W, b)}
    if "dy" in inputs:
        dy = Bounded.exact(inputs["dy"], r)
        found |= {"dW": dy.T @ x, "db": dy.sum(axis=0)}
        if settings.get("need_dx", True):
            found["dx"] = dy @ W
    return found


def affine(x: Bounded, W: Bounded, b: Bounded) -> Bounded:
    """x W^T + b, of an x that may carry errors."""
    after = x @ W.T + b
    # A sum that starts from the bias has one term more.
    return either(after, Bounded(after.value, _with_bias(x, W, b), x.r))


def bias(b: Array, r: Rounding) -> Bounded:
    """A bias in bfloat16: rounded to it, or added as the float32 number that it is."""
    held = Bounded.exact(r.wide.nearest(b), r)
    return Bounded(held.value, held.error + np.abs(r.nearest(b) - held.value).astype(np.float64), r)


def _with_bias(x: Bounded, W: Bounded, b: Bounded) -> Array:
    """The error of [x 1] [W b]^T as one inner product of K + 1 terms."""
    one = Bounded.exact(1.0, x.r).broadcast_to((len(x), 1))
    longer = _joined(x, one) @ _joined(W, b.reshape(-1, 1)).T
    return longer.error


def _joined(a: Bounded, b: Bounded) -> Bounded:
    parts = ((a.value, b.value), (a.error, b.error))
    value, error = (np.concatenate(pair, axis=1) for pair in parts)
    return Bounded(value, error, a.r)


def leaky_relu(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x and dy of any shape to y, dx; the slope counts at exactly 0.

    An x that is known no better than to lie around 0 may have either derivative.
    """
    x, dy = Bounded.exact(inputs["x"], r), Bounded.exact(inputs["dy"], r)
    slope = Bounded.constant(settings["slope"], r)
    positive = x.value > 0
    y, dx = where(positive, x, slope * x), where(positive, dy, slope * dy)
    if isinstance(inputs["x"], Bounded):
        unsure = np.abs(x.value).astype(np.float64) <= x.error
        y = where(unsure, either(y, where(positive, slope * x, x)), y)
        dx = where(unsure, either(dx, where(positive, slope * dy, dy)), dx)
    return {"y": y, "dx": dx}


def rectified(x: Bounded, slope: float) -> Bounded:
    """LeakyReLU of an x that carries errors, and may lie on either side of 0: on both it is no steeper than
    the larger of 1 and the slope, and below 0 its product is rounded.
    """
    scaled = x * slope
    same_side = np.abs(x.value).astype(np.float64) > x.error
    error = np.where(x.value > 0, x.error, scaled.error)
    across = (x.error * max(1.0, slope) + scaled.error) * UP
    error = np.where(same_side | (x.error == 0), error, across)
    return Bounded(np.where(x.value > 0, x.value, scaled.value), error, x.r)


def dropout(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x, dy and keep (bool), of one shape, to y, dx."""
    kept = 1.0 - settings["rate"]  # Python's float64, as in every backend
    factor, divisor = Bounded.constant(1.0 / kept, r), Bounded.constant(kept, r)

    def scaled(z: Bounded) -> Bounded:
        return where(inputs["keep"], either(z * factor, z / divisor), Bounded.exact(0.0, r))

    return {"y": scaled(Bounded.exact(inputs["x"], r)), "dx": scaled(Bounded.exact(inputs["dy"], r))}


def flatten(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), dy (B, C H W) to y, channel by channel, and dx; nothing is rounded."""
    x, dy = Bounded.exact(inputs["x"], r), Bounded.exact(inputs["dy"], r)
    return {"y": x.reshape(len(x), -1), "dx": dy.reshape(x.shape)}
