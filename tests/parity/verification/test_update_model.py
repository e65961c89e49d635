"""`verify_update` with `model=`: gradients, optimizer state and running statistics of training steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from evidence import ports
from evidence.ports.port import Mistake
from parity import Report, verify_update
from tests.helpers.optimizers import DECAY, RATE, in_torch, rule

SGD = in_torch("SGD", RATE, 0.9), optax.sgd(RATE, 0.9)
ADAMW = in_torch("AdamW", RATE, weight_decay=DECAY), optax.adamw(RATE, weight_decay=DECAY)


class Port(nnx.Module):
    def __init__(
        self, theirs: nn.Module, momentum: float = 0.9, biased: bool = False, stale: bool = False
    ) -> None:
        rngs, self.biased = nnx.Rngs(0), biased
        self.layer = nnx.Linear(3, 4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=momentum, rngs=rngs)
        p = {key: jnp.asarray(tensor.detach().numpy()) for key, tensor in theirs.state_dict().items()}
        self.layer.kernel.set_value(p["0.weight"].T)
        if not stale:
            self.norm.mean.set_value(p["1.running_mean"])
            self.norm.var.set_value(p["1.running_var"])

    def __call__(self, x: Any) -> Any:
        before, n = self.norm.var.get_value(), len(x)
        y = self.norm(self.layer(x))
        if not self.biased:
            kept = before * self.norm.momentum
            self.norm.var.set_value(kept + (self.norm.var.get_value() - kept) * n / (n - 1))
        return y


def judged(optimizers: tuple[Any, Any], dtypes: Any = ("float64",), **wrong: Any) -> Report:
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
    reference(torch.randn(8, 3))  # so that statistics are not fresh
    model = reference, Port(reference, **wrong)
    return verify_update(
        "step", model=model, inputs={"x": (5, 3)}, reference=optimizers[0], port=optimizers[1], dtypes=dtypes
    )


@pytest.mark.parametrize("optimizers", [SGD, ADAMW], ids=["SGD with momentum", "AdamW"])
def test_a_right_step_holds(optimizers: tuple[Any, Any]) -> None:
    report = judged(optimizers, ("float64", "float32"))
    assert report.passed, report
    assert {"d0.weight", "0.weight", "1.running_var"} <= set(report.quantities)
    assert any(" of 0.weight" in key for key in report.quantities)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"momentum": 0.1}, "1.running_mean, 1.running_var: the port goes 9 times as far in a step"),
        pytest.param(
            {"momentum": 0.99},
            "1.running_mean, 1.running_var: the port goes 0.1 times as far in a step",
            marks=pytest.mark.slow,
        ),
        ({"biased": True}, "1.running_var: the port takes the biased variance of 5 numbers"),
        ({"stale": True}, "1.running_mean, 1.running_var: the port starts from other values"),
    ],
)
def test_running_statistics_are_named(wrong: dict[str, Any], said: str) -> None:
    report = judged(SGD, **wrong)
    assert not report.passed
    assert len(report.terms) == 1
    assert report.terms[0].startswith(f"The term that differs: {said}")


TERMS = [
    (rule("adam", decay=DECAY, matrices=True), "weight decay"),
    (rule("adam", l2=DECAY), "weight decay: decoupled 0.1 times the rate in the reference, coupled"),
    (rule("adam", decay=DECAY, corrected=()), "bias correction"),
    (rule("adam", decay=DECAY, stands="inside"), "where eps stands"),
    (rule("adam", rate=lambda t: RATE * 0.9 ** (t + 1), decay=DECAY), "one step ahead"),
]


@pytest.mark.parametrize(
    ("port", "said"),
    [pytest.param(*term, marks=[pytest.mark.slow] if i in (2, 4) else []) for i, term in enumerate(TERMS)],
    ids=["matrices", "coupled", "no correction", "eps", "rate"],
)
def test_the_optimizers_term_is_named(port: Any, said: str) -> None:
    reference = ADAMW[0]
    if said == "one step ahead":
        reference = in_torch("AdamW", RATE, weight_decay=DECAY, schedule=lambda t: 0.9**t)
    report = judged((reference, port))
    assert not report.passed
    assert said in "\n".join(report.terms)


@pytest.mark.slow
@pytest.mark.parametrize("optimizers", [SGD, ADAMW], ids=["SGD with momentum", "AdamW"])
@pytest.mark.parametrize("wrong", ["", "momentum of 0.99", "biased running variance", "stale statistics"])
def test_a_resnet(optimizers: tuple[Any, Any], wrong: str) -> None:
    report = verify_update(
        "step", model=ports.RESNET.pair(Mistake(wrong, "", True)), inputs=ports.RESNET.inputs,
        reference=optimizers[0], port=optimizers[1], steps=3, dtypes=("float64",),
    )  # fmt: skip
    assert report.passed == (not wrong)
    assert all("running" in line for line in report.terms)
