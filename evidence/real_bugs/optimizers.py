"""One step of an optimizer, as a function of the parameter, its gradient and the slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence.real_bugs.bug import Bug
from parity import Torch
from parity.formula import maximum, sqrt

RNG = np.random.default_rng(0)
STEP: dict[str, Any] = {
    "theta": RNG.normal(size=(3, 4)),
    "g": 0.1 * RNG.normal(size=(3, 4)),
    "m": 0.1 * RNG.normal(size=(3, 4)),
    "v": 0.01 * RNG.random((3, 4)) + 1e-4,
}
"""theta, its gradient and Adam's two averages; v is positive."""
RATE, B1, B2, EPS, DECAY = 0.1, 0.9, 0.999, 1e-2, 0.3
"""Eps is large, as reinforcement learning uses it."""
C1, C2 = 1 - B1**3, 1 - B2**3
"""Bias corrections of the third step."""


def adam(eps_inside: bool = False, eps_corrected: bool = False, decay: str = "") -> Torch:
    """The new theta. `eps_corrected`: eps is divided by the root of the bias correction, too."""

    def function(theta: Tensor, g: Tensor, m: Tensor, v: Tensor) -> Tensor:
        if decay == "coupled":
            g = g + DECAY * theta
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        root = torch.sqrt(v / C2 + EPS) if eps_inside else torch.sqrt(v / C2) + EPS
        if eps_corrected:
            root = (torch.sqrt(v) + EPS) / C2**0.5
        step = m / C1 / root
        return theta - RATE * (step + DECAY * theta if decay == "decoupled" else step)

    return Torch(function)


def adam_truth(decay: float = 0.0) -> Any:
    def formula(theta: Any, g: Any, m: Any, v: Any) -> Any:
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        step = m / C1 / (sqrt(v / C2) + EPS)
        return theta - RATE * (step + decay * theta if decay else step)

    return formula


def rms_prop(eps_inside: bool) -> Torch:
    def function(theta: Tensor, g: Tensor, v: Tensor) -> Tensor:
        v = 0.9 * v + 0.1 * g**2
        return theta - RATE * g / (torch.sqrt(v + EPS) if eps_inside else torch.sqrt(v) + EPS)

    return Torch(function)


def rms_prop_truth(theta: Any, g: Any, v: Any) -> Any:
    return theta - RATE * g / sqrt(0.9 * v + 0.1 * g**2 + EPS)


def momentum(dampening: float) -> Torch:
    return Torch(lambda theta, g, m: theta - RATE * (0.9 * m + (1 - dampening) * g))


def clipped(eps: float, largest: float = 1e-2) -> Torch:
    def function(g: Tensor) -> Tensor:
        return g * torch.clamp(largest / (torch.sqrt((g**2).sum()) + eps), max=1)

    return Torch(function)


def but(*names: str) -> dict[str, Any]:
    return {key: array for key, array in STEP.items() if key not in names}


BUGS = (
    Bug(
        "adam_eps_inside",
        "CyberZHG/keras-radam/issues/29",
        "optimizer eps",
        "Eps was added under the root, where Adam adds it to the root.",
        right=adam(),
        wrong=adam(eps_inside=True),
        inputs=STEP,
        truth=adam_truth(),
    ),
    Bug(
        "adam_eps_scaled_by_the_correction",
        "tensorflow/tensorflow/issues/9047",
        "optimizer eps",
        "The bias correction divided eps as well as the root of v, so eps counts more in the first steps.",
        right=adam(),
        wrong=adam(eps_corrected=True),
        inputs=STEP,
        truth=adam_truth(),
    ),
    Bug(
        "rms_prop_eps",
        "chainer/chainer/issues/4754",
        "optimizer eps",
        "TensorFlow's RMSProp adds eps under the root, others after it: Inception was trained with eps = 1.",
        right=rms_prop(eps_inside=True),
        wrong=rms_prop(eps_inside=False),
        inputs=but("m"),
        truth=rms_prop_truth,
    ),
    Bug(
        "weight_decay_coupled",
        "nntrainer/nntrainer/pull/3565",
        "weight decay",
        "AdamW added the decay to the gradient, so that it was divided by the root of v.",
        right=adam(decay="decoupled"),
        wrong=adam(decay="coupled"),
        inputs=STEP,
        truth=adam_truth(DECAY),
    ),
    Bug(
        "momentum_dampened",
        "intel/BigDL/issues/1499",
        "momentum",
        "Dampening defaulted to the momentum, so that a tenth of the gradient entered the velocity.",
        right=momentum(0.0),
        wrong=momentum(0.9),
        inputs=but("v"),
        truth=lambda theta, g, m: theta - RATE * (0.9 * m + g),
    ),
    Bug(
        "clipping_eps",
        "goodfire-ai/spd/issues/643",
        "clipping eps",
        "torch adds 1e-6 to the norm before it divides, optax does not.",
        right=clipped(1e-6),
        wrong=clipped(0.0),
        inputs={"g": STEP["g"]},
        truth=lambda g: g * (1e-2 / maximum(sqrt((g**2).sum()) + 1e-6, 1e-2)),
    ),
)
