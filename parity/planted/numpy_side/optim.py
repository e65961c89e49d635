"""Optimizers, wrong, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from numpy_ref import optim
from parity.planted import Patch, Plantings
from triptych.describe.spec import Optimization

Array = np.ndarray[Any, Any]
UPDATE = optim.update


def exact(beta: float, t: int) -> float:
    """The right bias correction."""
    return 1.0 - beta**t


def in_float32(beta: float, t: int) -> float:
    """As a step does that keeps beta and t in float32."""
    return float(np.float32(1) - np.float32(beta) ** np.float32(t))


def adam(
    correction: Callable[[float, int], float] = exact,
    eps_inside: bool = False,
    decay_after: bool = False,
    corrected_first: bool = False,
) -> Callable[..., None]:
    """Adam, AdamW or AMSGrad with one thing done otherwise; with none, right."""

    def update(theta: Array, g: Array, slots: Any, o: Optimization, eta: float, t: int) -> None:
        decoupled = o.weight_decay if o.optimizer == "adamw" else 0.0
        if o.weight_decay and not decoupled:
            g = g + o.weight_decay * theta
        if decoupled and not decay_after:
            theta *= 1.0 - eta * decoupled
        m, v = slots["first_moment"], slots["second_moment"]
        m[...] = o.beta1 * m + (1.0 - o.beta1) * g
        v[...] = o.beta2 * v + (1.0 - o.beta2) * (g * g)
        vhat = v / correction(o.beta2, t)
        if o.amsgrad:
            w = slots["largest_second_moment"]
            w[...] = np.maximum(w, vhat if corrected_first else v)
            vhat = w if corrected_first else w / correction(o.beta2, t)
        root = np.sqrt(vhat + o.epsilon) if eps_inside else np.sqrt(vhat) + o.epsilon
        theta -= eta / correction(o.beta1, t) * m / root
        if decoupled and decay_after:
            theta *= 1.0 - eta * decoupled

    return update


def described(change: Callable[[Optimization], Optimization]) -> list[Patch]:
    """The right update of another description."""

    def update(theta: Array, g: Array, slots: Any, o: Optimization, eta: float, t: int) -> None:
        UPDATE(theta, g, slots, change(o), eta, t)

    return [Patch(optim, "update", update)]


def swapped(o: Optimization) -> Optimization:
    """beta1 and beta2 in each other's place."""
    return replace(o, beta1=o.beta2, beta2=o.beta1)


def _dampened(theta: Array, g: Array, slots: Any, o: Optimization, eta: float, t: int) -> None:
    if o.weight_decay:
        g = g + o.weight_decay * theta
    if o.momentum:
        buffer = slots["momentum"]
        buffer[...] = o.momentum * buffer + (1.0 - o.momentum) * g
        g = g + o.momentum * buffer if o.nesterov else buffer
    theta -= eta * g


def renamed(old: str, new: str) -> Callable[[Optimization], Optimization]:
    """One of Adam and AdamW in the other's place."""
    return lambda o: replace(o, optimizer=new) if o.optimizer == old else o  # type: ignore[arg-type]


PLANTINGS: Plantings = {
    "adam-counts-from-2": [Patch(optim, "adam", adam(lambda beta, t: exact(beta, t + 1)))],
    "adam-uncorrected": [Patch(optim, "adam", adam(lambda beta, t: 1.0))],
    "adam-float32-correction": [Patch(optim, "adam", adam(in_float32))],
    "adam-eps-inside-root": [Patch(optim, "adam", adam(eps_inside=True))],
    "adam-betas-swapped": described(swapped),
    "adam-decoupled": described(renamed("adam", "adamw")),
    "adamw-coupled": described(renamed("adamw", "adam")),
    "adamw-decay-after": [Patch(optim, "adam", adam(decay_after=True))],
    "amsgrad-corrected-first": [Patch(optim, "adam", adam(corrected_first=True))],
    "sgd-dampened": [Patch(optim, "sgd", _dampened)],
    "sgd-nesterov-left-out": described(lambda o: replace(o, nesterov=False)),
}
