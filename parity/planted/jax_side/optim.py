"""Optimizers, wrong, as optax chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_models import optim
from parity.planted import Patch, Plantings
from parity.planted.numpy_side.optim import in_float32, renamed, swapped
from triptych.describe.spec import Optimization

CREATE, SCALARS, SCALE = optim.create, optim.step_scalars, optim.scale_by_adam


def _described(change: Callable[[Optimization], Optimization]) -> list[Patch]:
    """The right chain of another description."""

    def create(o: Optimization, scalars: Any, weight_decay: Any = None) -> Any:
        return CREATE(change(o), scalars, weight_decay)

    def scalars(o: Optimization, rates: Any, first: int) -> Any:
        return SCALARS(change(o), rates, first)

    return [Patch(optim, "create", create), Patch(optim, "step_scalars", scalars)]


def _corrections(correction: Callable[[float, int], float]) -> list[Patch]:
    def scalars(o: Optimization, rates: Any, first: int) -> Any:
        found = SCALARS(o, rates, first)
        if o.optimizer != "sgd":
            steps = range(first + 1, first + len(rates) + 1)
            for name, beta in (("correction1", o.beta1), ("correction2", o.beta2)):
                found[name] = np.array([correction(beta, t) for t in steps])
        return found

    return [Patch(optim, "step_scalars", scalars)]


def _eps_inside(o: Optimization, scalars: Any) -> Any:
    """optax calls this eps_root."""

    def update(g: Any, state: Any, theta: Any = None) -> Any:
        _, moments = right.update(g, state, theta)
        c1, c2 = scalars["correction1"], scalars["correction2"]
        under = moments.nu_max if o.amsgrad else moments.nu
        direction = jax.tree.map(lambda m, v: m / c1 / jnp.sqrt(v / c2 + o.epsilon), moments.mu, under)
        return direction, moments

    right = SCALE(o, scalars)
    return optax.GradientTransformation(right.init, update)


def _corrected_first(o: Optimization, scalars: Any) -> Any:
    """optax's AMSGrad."""

    def update(g: Any, state: Any, theta: Any = None) -> Any:
        direction, moments = right.update(g, state, theta)
        if not o.amsgrad:
            return direction, moments
        c1, c2 = scalars["correction1"], scalars["correction2"]
        largest = jax.tree.map(lambda w, v: jnp.maximum(w, v / c2), state.nu_max, moments.nu)
        direction = jax.tree.map(lambda m, w: m / c1 / (jnp.sqrt(w) + o.epsilon), moments.mu, largest)
        return direction, moments._replace(nu_max=largest)

    right = SCALE(o, scalars)
    return optax.GradientTransformation(right.init, update)


def _decay_after(o: Optimization, scalars: Any, weight_decay: Any = None) -> Any:
    if o.optimizer != "adamw" or not o.weight_decay:
        return CREATE(o, scalars, weight_decay)

    def update(g: Any, state: Any, theta: Any) -> Any:
        updates, state = right.update(g, state, theta)
        kept = 1.0 - scalars["learning_rate"] * o.weight_decay
        return jax.tree.map(lambda theta, u: (theta + u) * kept - theta, theta, updates), state

    right = CREATE(replace(o, weight_decay=0.0), scalars)
    return optax.GradientTransformation(right.init, update)


def _dampened(o: Optimization, scalars: Any, weight_decay: Any = None) -> Any:
    """`optax.ema`'s convention in the place of `optax.trace`'s."""
    if o.optimizer != "sgd" or not o.momentum:
        return CREATE(o, scalars, weight_decay)
    decay = [optax.add_decayed_weights(o.weight_decay)] if o.weight_decay else []
    share = optax.scale(1.0 - o.momentum)
    return optax.chain(*decay, share, optax.sgd(scalars["learning_rate"], o.momentum, o.nesterov))


PLANTINGS: Plantings = {
    "adam-counts-from-2": _corrections(lambda beta, t: 1.0 - beta ** (t + 1)),
    "adam-uncorrected": _corrections(lambda beta, t: 1.0),
    "adam-float32-correction": _corrections(in_float32),
    "adam-eps-inside-root": [Patch(optim, "scale_by_adam", _eps_inside)],
    "adam-betas-swapped": _described(swapped),
    "adam-decoupled": _described(renamed("adam", "adamw")),
    "adamw-coupled": _described(renamed("adamw", "adam")),
    "adamw-decay-after": [Patch(optim, "create", _decay_after)],
    "amsgrad-corrected-first": [Patch(optim, "scale_by_adam", _corrected_first)],
    "sgd-dampened": [Patch(optim, "create", _dampened)],
    "sgd-nesterov-left-out": _described(lambda o: replace(o, nesterov=False)),
}
