"""Optimizers, wrong, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from parity.planted import Patch, Plantings
from parity.planted.numpy_side.optim import exact, in_float32, renamed, swapped
from torch_models import optim
from triptych.describe.spec import Optimization

CREATE = optim.create


class Adam(torch.optim.Optimizer):
    """Adam, AdamW or AMSGrad with one thing done otherwise; with none, right. State as torch names it."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        o: Optimization,
        correction: Callable[[float, int], float] = exact,
        eps_inside: bool = False,
        decay_after: bool = False,
        corrected_first: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": o.learning_rate})
        self.o, self.correction = o, correction
        self.eps_inside, self.decay_after, self.corrected_first = eps_inside, decay_after, corrected_first

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter."""
        for group in self.param_groups:
            for theta in group["params"]:
                self._update(theta, group["lr"])

    def _update(self, theta: torch.Tensor, eta: float) -> None:
        o, state, g = self.o, self.state[theta], theta.grad
        assert g is not None
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            state.setdefault(name, torch.zeros_like(theta))
        t = state["step"] = state.get("step", 0) + 1
        decoupled = o.weight_decay if o.optimizer == "adamw" else 0.0
        if o.weight_decay and not decoupled:
            g = g + o.weight_decay * theta
        if decoupled and not self.decay_after:
            theta.mul_(1.0 - eta * decoupled)
        m = state["exp_avg"].mul_(o.beta1).add_((1.0 - o.beta1) * g)
        v = state["exp_avg_sq"].mul_(o.beta2).add_((1.0 - o.beta2) * (g * g))
        vhat = v / self.correction(o.beta2, t)
        if o.amsgrad:
            w = state["max_exp_avg_sq"]
            w.copy_(torch.maximum(w, vhat if self.corrected_first else v))
            vhat = w if self.corrected_first else w / self.correction(o.beta2, t)
        root = (vhat + o.epsilon).sqrt() if self.eps_inside else vhat.sqrt() + o.epsilon
        theta.sub_(eta / self.correction(o.beta1, t) * m / root)
        if decoupled and self.decay_after:
            theta.mul_(1.0 - eta * decoupled)


def _adam(**how: Any) -> list[Patch]:
    def create(o: Optimization, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return CREATE(o, parameters) if o.optimizer == "sgd" else Adam(parameters, o, **how)

    return [Patch(optim, "create", create)]


def _described(change: Callable[[Optimization], Optimization]) -> list[Patch]:
    """torch's optimizer of another description."""
    return [Patch(optim, "create", lambda o, parameters: CREATE(change(o), parameters))]


def _dampened(o: Optimization, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """torch's own option: it spares the first step."""
    optimizer = CREATE(o, parameters)
    if o.optimizer == "sgd" and not o.nesterov:
        optimizer.param_groups[0]["dampening"] = o.momentum
    return optimizer


PLANTINGS: Plantings = {
    "adam-counts-from-2": _adam(correction=lambda beta, t: exact(beta, t + 1)),
    "adam-uncorrected": _adam(correction=lambda beta, t: 1.0),
    "adam-float32-correction": _adam(correction=in_float32),
    "adam-eps-inside-root": _adam(eps_inside=True),
    "adam-betas-swapped": _described(swapped),
    "adam-decoupled": _described(renamed("adam", "adamw")),
    "adamw-coupled": _described(renamed("adamw", "adam")),
    "adamw-decay-after": _adam(decay_after=True),
    "amsgrad-corrected-first": _adam(corrected_first=True),
    "sgd-dampened": [Patch(optim, "create", _dampened)],
    "sgd-nesterov-left-out": _described(lambda o: replace(o, nesterov=False)),
}
