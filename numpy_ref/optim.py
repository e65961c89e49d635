"""SGD with momentum, Adam and AdamW, in torch's conventions.

Symbols: theta a parameter, g its gradient, eta the learning rate, lambda weight decay, t the step
counted from 1. SGD: Polyak 1964 / Sutskever et al. 2013 in torch.optim.SGD's form. Adam: Kingma & Ba
2015, algorithm 1. AdamW: Loshchilov & Hutter 2019, algorithm 2.

    SGD     g += lambda theta; buf = mu buf + g; theta -= eta (g + mu buf if nesterov else buf)
    Adam    g += lambda theta; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
            theta -= eta (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
    AdamW   theta -= eta lambda theta; then Adam without lambda
    AMSGrad (of either) w = max(w, v) in the place of v under the root: the largest before its correction

AMSGrad: Reddi et al. 2018, algorithm 2, with Adam's corrections where torch has them. optax corrects v first
and keeps the largest of that: a large gradient in the first steps then holds all later ones down.
"""

from __future__ import annotations

import numpy as np

from numpy_ref import fast
from triptych.describe.spec import Optimization

Array = np.ndarray
Slots = dict[str, Array]
"""One parameter's, by name; zeros before the first step."""


def update(theta: Array, g: Array, slots: Slots, o: Optimization, eta: float, t: int) -> None:
    """One parameter's step, in place on `theta` and its `slots`; `g` is left as it came."""
    fast.in_blocks(sgd if o.optimizer == "sgd" else adam, theta, g, slots, o, eta, t)


def sgd(theta: Array, g: Array, slots: Slots, o: Optimization, eta: float, t: int) -> None:
    """SGD, in place on `theta` and the slot `momentum`."""
    if o.weight_decay:
        g = g + o.weight_decay * theta
    if o.momentum:
        buffer = slots["momentum"]
        buffer *= o.momentum
        buffer += g
        g = g + o.momentum * buffer if o.nesterov else buffer
    theta -= eta * g


def adam(theta: Array, g: Array, slots: Slots, o: Optimization, eta: float, t: int) -> None:
    """Adam, AdamW and AMSGrad, in place on `theta` and the slots `first_moment`, `second_moment`, ..."""
    if o.weight_decay and o.optimizer == "adam":
        g = g + o.weight_decay * theta
    if o.weight_decay and o.optimizer == "adamw":
        theta *= 1.0 - eta * o.weight_decay
    m, v = slots["first_moment"], slots["second_moment"]
    # Two lines an equation, in place: in one, SGD's and Adam's steps take 15 to 40% longer.
    m *= o.beta1
    m += (1.0 - o.beta1) * g
    v *= o.beta2
    v += (1.0 - o.beta2) * (g * g)
    if o.amsgrad:
        v = np.maximum(slots["largest_second_moment"], v, out=slots["largest_second_moment"])
    # 1 - b^t in Python's float64: in float32 it would be 1e-5 off at t = 1.
    theta -= eta / (1.0 - o.beta1**t) * m / (np.sqrt(v / (1.0 - o.beta2**t)) + o.epsilon)
