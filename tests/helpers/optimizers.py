"""Optimizers by hand in NumPy, each term of which a test may change; and what training loops do in torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

RATE, DECAY = 0.01, 0.1


def rule(kind="adam", rate=RATE, **o):
    """`(parameters, gradients, state, step) -> (parameters, state)`."""

    def update(parameters, gradients, state, step):
        eta = rate(step - 1) if callable(rate) else rate
        g = clipped(gradients, o)
        found, kept = {}, {"count": o.get("counted", np.int32)(step + o.get("from", 0)), "lr": eta}
        for key, theta in parameters.items():
            decay = o.get("decay", 0.0) if theta.ndim > 1 or not o.get("matrices") else 0.0
            own = eta * o.get("bias_rate", 1.0) if theta.ndim == 1 else eta
            slots = dict(state.get(key, {}))
            d = direction(kind, g[key] + o.get("l2", 0.0) * theta, slots, step, own, o)
            shrunk = 1 - (decay if o.get("without_rate") else own * decay)
            moved = d if o.get("inside") else own * d
            new = (theta - moved) * shrunk if o.get("after") else theta * shrunk - moved
            found[key] = np.asarray(new, theta.dtype)
            kept[key] = {name: np.asarray(slot, o.get("kept", theta.dtype)) for name, slot in slots.items()}
        return found, kept

    return update


def clipped(gradients, o):
    limit = o.get("clip")
    if limit is None:
        return gradients
    if o.get("each"):
        return {key: np.clip(g, -limit, limit) for key, g in gradients.items()}
    norm = np.sqrt(sum(np.sum(g * g) for g in gradients.values())) + o.get("added", 0.0)
    return {key: g * g.dtype.type(min(1.0, limit / norm)) for key, g in gradients.items()}


def direction(kind, g, slots, t, eta, o):
    zero = np.zeros_like(g)
    if kind == "sgd":
        return o.get("sign", 1) * g
    if kind == "momentum":
        share = 1.0 if o.get("first_whole") and t == 1 else 1 - o.get("damping", 0.0)
        entering = g * (eta if o.get("inside") else 1.0)
        buf = slots["buf"] = 0.9 * slots.get("buf", zero) + share * entering
        return entering + 0.9 * buf if o.get("nesterov") else buf
    b1, b2, eps = o.get("b1", 0.9), o.get("b2", 0.999), o.get("eps", 1e-8)
    v = slots.get("v", zero + o.get("start", 0.0))
    v = slots["v"] = v + g * g if kind == "adagrad" else b2 * v + (1 - b2) * g * g
    if kind != "adam":
        return g / (np.sqrt(v + eps) if o.get("stands") == "inside" else np.sqrt(v) + eps)
    m = slots["m"] = b1 * slots.get("m", zero) + (1 - b1) * g
    k, corrected = max(t + o.get("shift", 0), 1), o.get("corrected", ("first", "second"))
    c1 = 1 - b1**k if "first" in corrected else 1.0
    c2 = 1 - b2**k if "second" in corrected else 1.0
    if o.get("largest") == "before":
        v = slots["vmax"] = np.maximum(slots.get("vmax", zero), v)
    v = v / c2
    if o.get("largest") == "after":
        v = slots["vmax"] = np.maximum(slots.get("vmax", zero), v)
    if o.get("stands") == "inside":
        return m / c1 / np.sqrt(v + eps)
    if o.get("stands") == "before the correction":
        return m / c1 / (np.sqrt(v * c2) + eps) * np.sqrt(c2)
    return m / c1 / (np.sqrt(v) + eps)


def in_torch(kind, *arguments, clip=None, schedule=None, **named):
    """A function of the parameters, as `verify_update` takes it."""

    def make(p: dict[str, Any]) -> Any:
        optimizer = getattr(torch.optim, kind)(p.values(), *arguments, **named)
        if schedule is not None:
            return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        if clip is None:
            return optimizer

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(p.values(), clip)
            optimizer.step()

        return optimizer, step

    return make


def warmup(step):
    """Up in four steps, then down along a cosine to 0 at step 12."""
    return (step + 1) / 4 if step < 3 else 0.5 * (1 + math.cos(math.pi * (step - 3) / 9))


def scheduled(step):
    return RATE * warmup(step)
