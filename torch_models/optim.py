"""SGD with momentum, Adam and AdamW: torch's own optimizers and where they keep their state.

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

import torch
from torch import Tensor

from triptych.describe.spec import Optimization

Parameters = list[torch.nn.Parameter]

SLOTS = {
    "momentum": "momentum_buffer",
    "first_moment": "exp_avg",
    "second_moment": "exp_avg_sq",
    "largest_second_moment": "max_exp_avg_sq",
}
"""Canonical slot name to torch's."""


def create(o: Optimization, parameters: Parameters) -> torch.optim.Optimizer:
    """The optimizer; the learning rate is set before each step."""
    return (sgd if o.optimizer == "sgd" else adam)(o, parameters)


def sgd(o: Optimization, parameters: Parameters) -> torch.optim.Optimizer:
    """torch's own. Fused: one pass over the parameters."""
    return torch.optim.SGD(
        parameters, o.learning_rate, o.momentum, weight_decay=o.weight_decay, nesterov=o.nesterov, fused=True
    )


def adam(o: Optimization, parameters: Parameters) -> torch.optim.Optimizer:
    """torch's own Adam or AdamW, with or without AMSGrad. On a CPU fused, one pass over the parameters; on a
    GPU not: its fused kernel takes 1 - b1 and 1 - b2 in float32, and v comes out 1.3e-5 too small.
    """
    return (torch.optim.Adam if o.optimizer == "adam" else torch.optim.AdamW)(
        parameters,
        o.learning_rate,
        (o.beta1, o.beta2),
        o.epsilon,
        weight_decay=o.weight_decay,
        amsgrad=o.amsgrad,
        fused=parameters[0].device.type == "cpu",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Use this rate from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def get_slots(
    optimizer: torch.optim.Optimizer, theta: torch.nn.Parameter, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Canonical slot name to array of one parameter; zeros before its first step."""
    state = optimizer.state.get(theta, {})
    return {name: state.get(SLOTS[name], torch.zeros_like(theta)) for name in names}


def set_slots(
    optimizer: torch.optim.Optimizer, theta: torch.nn.Parameter, slots: Mapping[str, Tensor], updates: int
) -> None:
    """Put one parameter's slots, after `updates` updates, in place.

    In the parameter's own memory format: the fused updates walk both through memory side by side.
    """
    state = {SLOTS[name]: torch.empty_like(theta).copy_(value) for name, value in slots.items()}
    if "first_moment" in slots:
        state["step"] = torch.tensor(float(updates))  # beside the host's own, or each step would wait for it
    optimizer.state[theta] = state
