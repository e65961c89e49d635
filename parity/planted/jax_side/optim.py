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

CHAIN, SCALARS, SCALE = optim.chain, optim.step_scalars, optim.scale_by_adam


def _described(change: Callable[[Optimization], Optimization]) -> list[Patch]:
    """The right chain of another description."""

    def chain(o: Optimization, weight_decay: Any = None) -> Any:
        return CHAIN(change(o), weight_decay)

    def scalars(o: Optimization, rates: Any, first: int) -> Any:
        return SCALARS(change(o), rates, first)

    return [Patch(optim, "chain", chain), Patch(optim, "step_scalars", scalars)]


def _corrections(correction: Callable[[float, int], float]) -> list[Patch]:
    def scalars(o: Optimization, rates: Any, first: int) -> Any:
        found = SCALARS(o, rates, first)
        if o.optimizer != "sgd":
            steps = range(first + 1, first + len(rates) + 1)
            for name, beta in (("correction1", o.beta1), ("correction2", o.beta2)):
                found[name] = np.array([correction(beta, t) for t in steps])
        return found

    return [Patch(optim, "step_scalars", scalars)]


def _eps_inside(o: Optimization) -> Any:
    """optax calls this eps_root."""

    def update(g: Any, state: Any, theta: Any = None, *, scalars: Any, **_: Any) -> Any:
        _, moments = right.update(g, state, theta, scalars=scalars)
        c1, c2 = scalars["correction1"], scalars["correction2"]
        under = moments.largest if o.amsgrad else moments.second
        direction = jax.tree.map(lambda m, v: m / c1 / jnp.sqrt(v / c2 + o.epsilon), moments.first, under)
        return direction, moments

    right = SCALE(o)
    return optax.GradientTransformationExtraArgs(right.init, update)


def _corrected_first(o: Optimization) -> Any:
    """optax's AMSGrad."""

    def update(g: Any, state: Any, theta: Any = None, *, scalars: Any, **_: Any) -> Any:
        direction, moments = right.update(g, state, theta, scalars=scalars)
        if not o.amsgrad:
            return direction, moments
        c1, c2 = scalars["correction1"], scalars["correction2"]
        largest = jax.tree.map(lambda w, v: jnp.maximum(w, v / c2), state.largest, moments.second)
        direction = jax.tree.map(lambda m, w: m / c1 / (jnp.sqrt(w) + o.epsilon), moments.first, largest)
        return direction, moments._replace(largest=largest)

    right = SCALE(o)
    return optax.GradientTransformationExtraArgs(right.init, update)


def _decay_after(o: Optimization, weight_decay: Any = None) -> Any:
    if o.optimizer != "adamw" or not o.weight_decay:
        return CHAIN(o, weight_decay)

    def update(g: Any, state: Any, theta: Any, *, scalars: Any, **_: Any) -> Any:
        updates, state = right.update(g, state, theta, scalars=scalars)
        kept = 1.0 - scalars["learning_rate"] * o.weight_decay
        return jax.tree.map(lambda theta, u: (theta + u) * kept - theta, theta, updates), state

    right = CHAIN(replace(o, weight_decay=0.0))
    return optax.GradientTransformationExtraArgs(right.init, update)


def _dampened(o: Optimization, weight_decay: Any = None) -> Any:
    """`optax.ema`'s convention in the place of `optax.trace`'s."""
    if o.optimizer != "sgd" or not o.momentum:
        return CHAIN(o, weight_decay)
    decay = [optax.add_decayed_weights(o.weight_decay)] if o.weight_decay else []
    share = optax.scale(1.0 - o.momentum)
    return optax.chain(*decay, share, optax.trace(o.momentum, o.nesterov), optim._descend())


PLANTINGS: Plantings = {
    "adam-counts-from-2": _corrections(lambda beta, t: 1.0 - beta ** (t + 1)),
    "adam-uncorrected": _corrections(lambda beta, t: 1.0),
    "adam-float32-correction": _corrections(in_float32),
    "adam-eps-inside-root": [Patch(optim, "scale_by_adam", _eps_inside)],
    "adam-betas-swapped": _described(swapped),
    "adam-decoupled": _described(renamed("adam", "adamw")),
    "adamw-coupled": _described(renamed("adamw", "adam")),
    "adamw-decay-after": [Patch(optim, "chain", _decay_after)],
    "amsgrad-corrected-first": [Patch(optim, "scale_by_adam", _corrected_first)],
    "sgd-dampened": [Patch(optim, "chain", _dampened)],
    "sgd-nesterov-left-out": _described(lambda o: replace(o, nesterov=False)),
}
