"""SGD with momentum, Adam and AdamW as chains of optax, in torch's conventions.

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

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from triptych.describe.spec import Optimization

Array = jax.Array
Scalars = Mapping[str, Array]
"""One step's row of `step_scalars`."""

SLOTS = {
    "momentum": "trace",
    "first_moment": "mu",
    "second_moment": "nu",
    "largest_second_moment": "nu_max",
}
"""Canonical slot name to optax's."""


def step_scalars(o: Optimization, learning_rates: np.ndarray, first: int) -> dict[str, np.ndarray]:
    """Per-step numbers for the compiled step, float64 (n,): eta, 1 - b1^t and 1 - b2^t.

    The host computes the bias corrections because in float32 1 - b2^t is 1e-5 off at t = 1.
    """
    t = np.arange(first + 1, first + len(learning_rates) + 1, dtype=np.float64)
    scalars = {"learning_rate": learning_rates}
    if o.optimizer != "sgd":
        scalars |= {"correction1": 1.0 - o.beta1**t, "correction2": 1.0 - o.beta2**t}
    return scalars


def init(o: Optimization, theta: Any) -> Any:
    """The optimizer's state before the first step: slots of zeros, trees like the parameters `theta`."""
    row = {name: jnp.zeros(()) for name in step_scalars(o, np.zeros(1), 0)}
    return create(o, row).init(theta)


def create(
    o: Optimization, scalars: Scalars, weight_decay: float | Array | None = None
) -> optax.GradientTransformation:
    """One step's optimizer. It holds no state, so it is made anew inside the compiled step, from the step's
    own numbers.

    `weight_decay` replaces the description's by a traced value, for many runs in one program.
    """
    decay = o.weight_decay if weight_decay is None else weight_decay
    return (sgd if o.optimizer == "sgd" else adam)(o, scalars, decay)


def sgd(o: Optimization, scalars: Scalars, decay: float | Array) -> optax.GradientTransformation:
    """optax's own."""
    return optax.chain(_decay(decay), optax.sgd(scalars["learning_rate"], o.momentum or None, o.nesterov))


def adam(o: Optimization, scalars: Scalars, decay: float | Array) -> optax.GradientTransformation:
    """Adam and AdamW as optax chains them, around `scale_by_adam` of ours."""
    order = [_decay(decay), scale_by_adam(o, scalars)]
    if o.optimizer == "adamw":
        order.reverse()
    return optax.chain(*order, optax.scale_by_learning_rate(scalars["learning_rate"]))


class Moments(NamedTuple):
    """Adam's running means of the gradient and of its square; trees like the parameters."""

    mu: Any
    nu: Any
    nu_max: Any = None
    """AMSGrad's largest mean of the square so far."""


def scale_by_adam(o: Optimization, scalars: Scalars) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with the bias corrections given: equal in float64, exact in float32.

    optax's own computes 1 - b2^t in float32: 1.3e-5 off at t = 1, and the first step 6e-6 (it is as fast).
    AMSGrad is torch's (module docstring), not `optax.scale_by_amsgrad`.
    """

    def new(theta: optax.Params) -> Moments:
        zeros = optax.tree.zeros_like(theta)
        return Moments(zeros, zeros, zeros if o.amsgrad else None)

    def update(g: optax.Updates, state: Any, theta: Any = None) -> tuple[Any, Any]:
        m = optax.tree.update_moment(g, state.mu, o.beta1, 1)
        v = optax.tree.update_moment(g, state.nu, o.beta2, 2)
        largest = jax.tree.map(jnp.maximum, state.nu_max, v) if o.amsgrad else None
        c1, c2 = scalars["correction1"], scalars["correction2"]
        under = largest if o.amsgrad else v
        direction = jax.tree.map(lambda m, v: m / c1 / (jnp.sqrt(v / c2) + o.epsilon), m, under)
        return direction, Moments(m, v, largest)

    return optax.GradientTransformation(new, update)


def _decay(decay: float | Array) -> optax.GradientTransformation:
    none = isinstance(decay, float) and decay == 0.0
    return optax.identity() if none else optax.add_decayed_weights(decay)


def get_slots(state: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """Canonical slot name to its tree, from an optimizer's state."""
    return {name: optax.tree.get(state, SLOTS[name]) for name in names}


def set_slots(state: Any, slots: Mapping[str, Any]) -> Any:
    """An optimizer's state with the slots' trees put in place."""
    return optax.tree.set(state, **{SLOTS[name]: tree for name, tree in slots.items()})
