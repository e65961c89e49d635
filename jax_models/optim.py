"""SGD with momentum, Adam and AdamW as optax chains, in torch's conventions.

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


def step_scalars(optimization: Optimization, learning_rates: np.ndarray, first: int) -> dict[str, np.ndarray]:
    """Per-step numbers for the compiled step, float64 (n,): eta, 1 - b1^t and 1 - b2^t.

    The host computes the bias corrections because in float32 1 - b2^t is 1e-5 off at t = 1.
    """
    t = np.arange(first + 1, first + len(learning_rates) + 1, dtype=np.float64)
    scalars = {"learning_rate": learning_rates}
    if optimization.optimizer != "sgd":
        scalars |= {"correction1": 1.0 - optimization.beta1**t, "correction2": 1.0 - optimization.beta2**t}
    return scalars


def chain(
    optimization: Optimization, weight_decay: float | Array | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer; `update(g, state, theta, scalars=...)` takes one step's `step_scalars`.

    `weight_decay` replaces the description's by a traced value, for many runs in one program.
    """
    decay = optimization.weight_decay if weight_decay is None else weight_decay
    decays = not isinstance(decay, float) or decay != 0.0
    parts: list[Any] = []
    if decays and optimization.optimizer != "adamw":
        parts.append(optax.add_decayed_weights(decay))
    if optimization.optimizer != "sgd":
        parts.append(scale_by_adam(optimization))
    elif optimization.momentum:
        parts.append(optax.trace(optimization.momentum, optimization.nesterov))
    if decays and optimization.optimizer == "adamw":
        parts.append(optax.add_decayed_weights(decay))
    parts.append(_descend())
    return optax.chain(*parts)


class Moments(NamedTuple):
    """Adam's running means of the gradient and of its square; trees like the parameters."""

    first: Any
    second: Any
    largest: Any = ()
    """AMSGrad's largest mean of the square so far; () without."""


def scale_by_adam(o: Optimization) -> optax.GradientTransformationExtraArgs:
    """`optax.scale_by_adam` with the bias corrections given: equal in float64, exact in float32.

    AMSGrad is torch's (module docstring), not `optax.scale_by_amsgrad`.
    """

    def init(theta: optax.Params) -> Moments:
        zeros = [jax.tree.map(jnp.zeros_like, theta) for _ in range(3 if o.amsgrad else 2)]
        return Moments(*zeros)

    def update(
        g: optax.Updates, state: Any, theta: Any = None, *, scalars: Scalars, **_: Any
    ) -> tuple[Any, Any]:
        m = jax.tree.map(lambda m, g: o.beta1 * m + (1.0 - o.beta1) * g, state.first, g)
        v = jax.tree.map(lambda v, g: o.beta2 * v + (1.0 - o.beta2) * (g * g), state.second, g)
        c1, c2 = scalars["correction1"], scalars["correction2"]
        new = Moments(m, v, jax.tree.map(jnp.maximum, state.largest, v) if o.amsgrad else ())
        under = new.largest if o.amsgrad else v
        direction = jax.tree.map(lambda m, v: m / c1 / (jnp.sqrt(v / c2) + o.epsilon), m, under)
        return direction, new

    return optax.GradientTransformationExtraArgs(init, update)


def _descend() -> optax.GradientTransformationExtraArgs:
    def update(g: Any, state: Any, theta: Any = None, *, scalars: Scalars, **_: Any) -> tuple[Any, Any]:
        return jax.tree.map(lambda g: -scalars["learning_rate"] * g, g), state

    return optax.GradientTransformationExtraArgs(lambda theta: optax.EmptyState(), update)


def get_slots(state: Any) -> dict[str, Any]:
    """Canonical slot name to its tree, from a chain's state."""
    for part in state:
        if isinstance(part, Moments):
            slots = {"first_moment": part.first, "second_moment": part.second}
            return slots | ({"largest_second_moment": part.largest} if part.largest != () else {})
        if isinstance(part, optax.TraceState):
            return {"momentum": part.trace}
    return {}


def set_slots(state: Any, slots: Mapping[str, Any]) -> Any:
    """A chain's state with the slots' trees put in place."""

    def replace(part: Any) -> Any:
        if isinstance(part, Moments):
            return Moments(
                slots["first_moment"], slots["second_moment"], slots.get("largest_second_moment", ())
            )
        if isinstance(part, optax.TraceState):
            return optax.TraceState(slots["momentum"])
        return part

    return tuple(replace(part) for part in state)
