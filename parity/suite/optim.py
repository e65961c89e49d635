"""Optimizers over several steps, parameters and moments after each, in the conventions of numpy_ref.optim.

    SGD     g += l theta; buf = mu buf + g; theta -= eta (g + mu buf if nesterov else buf)
    Adam    g += l theta; m = b1 m + (1 - b1) g, or m + (1 - b1) (g - m); v = b2 v + (1 - b2) g^2;
            theta -= (eta / (1 - b1^t)) m / root, or eta (m / (1 - b1^t) / root);
            root = sqrt(v / (1 - b2^t)) + eps, or sqrt(v) / sqrt(1 - b2^t) + eps
    AdamW   (1 - eta l) theta, or theta - eta l theta, or eta (direction + l theta) as one update
    AMSGrad w = max(w, v) for v under the root, of either

1 - b^t is computed in float64 on the host, then rounded: in float32 it would be off by 2^-24 / (1 - b^t),
which is no admitted form. By hand: an update is no function's gradient, and has several results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either, stack
from parity.bounds.rounding import POWER_ULPS, ROUNDINGS, Array, Rounding
from parity.suite.dense import normal
from parity.suite.draws import NAME, Draws
from parity.suite.operator import Operator
from parity.verification.case import Case, generator
from parity.verification.judge import Item
from parity.verification.place import Inputs, Settings
from triptych.describe.spec import Optimization

HOST = ROUNDINGS["float64"]
Slots = dict[str, Bounded]


def steps(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """theta (N,), g (T, N) and settings optimization, learning_rates (T,) to theta and moments (T, N)."""
    o: Optimization = settings["optimization"]
    theta = Bounded.exact(inputs["theta"], r)
    zero = Bounded.exact(np.zeros_like(inputs["theta"]), r)
    slots = dict.fromkeys(o.slots, zero)
    history: list[dict[str, Bounded]] = []
    for t, eta in enumerate(settings["learning_rates"], start=1):
        theta, slots = one_step(theta, Bounded.exact(inputs["g"][t - 1], r), slots, o, float(eta), t)
        history.append({"theta": theta, **slots})
    return {name: stack([row[name] for row in history]) for name in history[0]}


def one_step(
    theta: Bounded,
    g: Bounded,
    slots: Slots,
    o: Optimization,
    eta: float,
    t: int,
    stored: Slots | None = None,
) -> tuple[Bounded, Slots]:
    """theta and slots after update number t with rate eta.

    `stored`: the slots that the backend holds after the step, where theta is to be judged on these.
    """
    if o.weight_decay and o.optimizer != "adamw":
        g = g + o.weight_decay * theta
    if o.optimizer == "sgd":
        return _sgd(theta, g, slots, o, eta, stored)
    return _adam(theta, g, slots, o, eta, t, stored)


def _sgd(
    theta: Bounded, g: Bounded, slots: Slots, o: Optimization, eta: float, stored: Slots | None
) -> tuple[Bounded, Slots]:
    if o.momentum:
        slots = {"momentum": o.momentum * slots["momentum"] + g}
        buffer = (stored or slots)["momentum"]
        g = g + o.momentum * buffer if o.nesterov else buffer
    return theta - eta * g, slots


def _adam(
    theta: Bounded, g: Bounded, slots: Slots, o: Optimization, eta: float, t: int, stored: Slots | None
) -> tuple[Bounded, Slots]:
    m, v = slots["first_moment"], slots["second_moment"]
    m = either(o.beta1 * m + (1.0 - o.beta1) * g, m + (1.0 - o.beta1) * (g - m))
    v = o.beta2 * v + (1.0 - o.beta2) * (g * g)
    new = {"first_moment": m, "second_moment": v}
    if o.amsgrad:
        new["largest_second_moment"] = slots["largest_second_moment"].maximum(v)
    slots = new
    m = (stored or slots)["first_moment"]
    v = (stored or slots)["largest_second_moment" if o.amsgrad else "second_moment"]
    c1, c2 = _correction(o.beta1, t), _correction(o.beta2, t)
    root = either((v / c2.to(g.r)).sqrt(), v.sqrt() / c2.sqrt().to(g.r)) + o.epsilon
    rate = (Bounded.constant(eta, HOST) / c1).to(g.r)
    # A root is never negative, so its sum with eps never less than eps, rounded.
    least = o.epsilon * (1 - 4 * g.r.u)
    direction = (m / c1.to(g.r)).over(root, least)
    scaled = (rate * m).over(root, least)
    if not (o.weight_decay and o.optimizer == "adamw"):
        return either(theta - scaled, theta - eta * direction), slots
    shrunk = either(theta * _kept(eta, o, g.r), theta - eta * (o.weight_decay * theta))
    both = theta - eta * (direction + o.weight_decay * theta)
    return either(shrunk - scaled, shrunk - eta * direction, both), slots


def _correction(beta: float, t: int) -> Bounded:
    """1 - beta^t on the host."""
    power = HOST.truth(beta) ** t
    return 1.0 - Bounded.constant(0.0, HOST).rounded(power, power * 0, POWER_ULPS)


def _kept(eta: float, o: Optimization, r: Rounding) -> Bounded:
    return (1.0 - Bounded.constant(eta, HOST) * o.weight_decay).to(r)


# --- cases ---


def _cases() -> Iterator[Case]:
    decay = 1e-2
    rows = {
        "sgd": Optimization("sgd", 0.1),
        "sgd, weight decay": Optimization("sgd", 0.1, weight_decay=decay),
        "sgd, momentum": Optimization("sgd", 0.1, momentum=0.9, weight_decay=decay),
        "sgd, Nesterov": Optimization("sgd", 0.1, momentum=0.9, nesterov=True),
        "adam": Optimization("adam", 1e-3),
        "adam, weight decay": Optimization("adam", 1e-3, weight_decay=decay),
        "adamw": Optimization("adamw", 1e-3, weight_decay=decay),
        "amsgrad, weight decay": Optimization("adam", 1e-3, weight_decay=decay, amsgrad=True),
        "amsgrad of adamw": Optimization("adamw", 1e-2, weight_decay=decay, beta2=0.9, amsgrad=True),
        "adam, other constants": Optimization("adam", 1e-2, beta1=0.5, beta2=0.9, epsilon=1e-3),
    }
    quick = {"sgd, momentum", "sgd, Nesterov", "adam, weight decay", "adamw", "amsgrad, weight decay"}
    for name, optimization in rows.items():
        for scale, kind in ((1.0, ""), (1e12, ", huge gradients"), (1e-25, ", gradients that underflow")):
            if kind and name not in ("sgd, momentum", "adam", "adamw"):
                continue
            inputs, settings = _gradients(name + kind, scale), _steps(optimization, 0.1, 0.05, 0.02, 0.01)
            yield Case("optimizer", name + kind, inputs, settings, quick=not kind and name in quick)
    yield Case("optimizer", "adam, 25 steps", _gradients("long", 1.0, 25), _steps(rows["adam"], *[1e-3] * 25))
    # NumPy works on blocks of 65,536 values: every block, and a last one that is not full.
    large = {"theta": normal(70_001), "g": normal(2, 70_001)}
    settings = _steps(rows["sgd, momentum"], 0.1, 0.05)
    yield Case("optimizer", "sgd, a large parameter", large, settings, quick=True)
    inputs, settings = {"theta": normal(9), "g": normal(3, 9)}, _steps(Optimization("adam"), 0.1, 0.05, 0.02)
    yield Case("optimizer", "adam, not contiguous", inputs, settings, "strided")
    # Not among the cases: infinities in Adam's moments, which equal formulas make an infinity or NaN.
    odd = {"theta": normal(6), "g": normal(3, 6)}
    odd["theta"][4] = odd["g"][1, 2] = np.nan
    sgd = Optimization("sgd", momentum=0.9, weight_decay=decay)
    for o in (sgd, Optimization("adamw", weight_decay=decay)):
        yield Case("optimizer", f"{o.optimizer}, NaN", odd, _steps(o, 0.1, 0.05, 0.02))


def _steps(o: Optimization, *rates: float) -> dict[str, Any]:
    return {"optimization": o, "learning_rates": rates}


def _gradients(name: str, scale: float, steps: int = 4) -> dict[str, Array]:
    rng = generator("optimizer", name)
    theta, g = rng.normal(size=12), scale * rng.normal(size=(steps, 12))
    theta[0], g[:, 1], g[0, 2] = 0.0, 0.0, 0.0  # no gradient ever, and none at first
    return {"theta": theta, "g": g}


def _drawn(d: Draws) -> Case:
    """A few steps; some gradients are 0 at every one of them."""
    steps, size = (3, 6) if d.few else (d.integer(1, 5), d.integer(1, 6))
    decay = d.one_of(0.0, 1e-2)
    if d.flag():
        momentum = d.one_of(0.0, 0.5, 0.9)
        nesterov = momentum > 0 and d.flag()
        o = Optimization("sgd", momentum=momentum, weight_decay=decay, nesterov=nesterov)
    else:
        beta1, beta2 = d.one_of((0.9, 0.999), (0.5, 0.9), (0.0, 0.99))
        rest: dict[str, Any] = {"beta1": beta1, "beta2": beta2, "epsilon": d.one_of(1e-8, 1e-3)}
        o = Optimization(d.one_of("adam", "adamw"), amsgrad=d.flag(), weight_decay=decay, **rest)
    g = d.upstream((steps, size)) * d.one_of(1.0, 1e-12, 1e8)
    g = np.where(d.rng().random(size) < 0.3, 0.0, g)
    settings = _steps(o, *(d.one_of(0.1, 1e-3, 3e-2) for _ in range(steps)))
    return Case("optimizer", NAME, {"theta": d.values((size,)), "g": g}, settings, d.layout())


OPERATORS = (Operator(Item("optimizer", steps, elementwise=True), _cases, _drawn),)
