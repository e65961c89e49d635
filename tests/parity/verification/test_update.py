"""`verify_update`: right optimizers pass in every framework, and each classic mistake is named by its term."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from parity import Jax, Report, Torch, verify_update
from tests.helpers.optimizers import DECAY, RATE, in_torch, rule, scheduled, warmup

SHAPES: dict[str, Any] = {"scale": (), "bias": (7,), "weight": (5, 7)}
FEW: dict[str, Any] = {"bias": (7,), "weight": (5, 7)}
SCHEDULE = optax.join_schedules([lambda t: RATE * (t + 1) / 4, optax.cosine_decay_schedule(RATE, 9)], [3])


def judged(reference: Any, port: Any, **named: Any) -> Report:
    return verify_update("it", **{"reference": reference, "port": port, "parameters": SHAPES, **named})


def clip_like_torch(limit: float) -> Any:
    def update(updates: Any, state: Any, params: Any = None) -> Any:
        scale = jnp.minimum(1.0, limit / (optax.tree.norm(updates) + 1e-6))
        return {key: g * scale for key, g in updates.items()}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def momentum(p: Any, g: Any, state: Any, step: Any) -> Any:
    """Of arrays of any kind."""
    buf = {key: 0.9 * state[key] + row if state else row for key, row in g.items()}
    return {key: theta - RATE * buf[key] for key, theta in p.items()}, buf


class Model(nnx.Module):
    def __init__(self) -> None:
        self.layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))


def in_nnx(transformation: Any) -> Any:
    return nnx.Optimizer(Model(), transformation, wrt=nnx.Param)


def groups(p: Any) -> Any:
    """AdamW with decay for matrices and without for the rest."""
    decayed: dict[str, Any] = {"params": [one for one in p.values() if one.ndim > 1], "weight_decay": DECAY}
    others: dict[str, Any] = {"params": [one for one in p.values() if one.ndim < 2]}
    return torch.optim.AdamW([decayed, others], RATE, weight_decay=0.0)


def some(names: Any, every: int) -> list[Any]:
    """All of them; only each so manieth in the quick tests."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=[slow] if at % every else []) for at, name in enumerate(names)]


def matrices(p: Any) -> Any:
    return {key: theta.ndim > 1 for key, theta in p.items()}


ADAMW = in_torch("AdamW", RATE, weight_decay=DECAY)
RIGHT: dict[str, tuple[Any, Any]] = {
    "SGD": (in_torch("SGD", RATE), optax.sgd(RATE)),
    "SGD by hand": (in_torch("SGD", RATE), rule("sgd")),
    "momentum": (in_torch("SGD", RATE, 0.9), optax.sgd(RATE, 0.9)),
    "momentum by hand": (in_torch("SGD", RATE, 0.9), rule("momentum")),
    "momentum in JAX": (optax.sgd(RATE, 0.9), Jax(momentum)),
    "momentum in tensors": (rule("momentum"), Torch(momentum)),
    "the rate inside, constant": (in_torch("SGD", RATE, 0.9), rule("momentum", inside=True)),
    "Nesterov": (in_torch("SGD", RATE, 0.9, nesterov=True), optax.sgd(RATE, 0.9, nesterov=True)),
    "Nesterov by hand": (optax.sgd(RATE, 0.9, nesterov=True), rule("momentum", nesterov=True)),
    "Adam": (in_torch("Adam", RATE), optax.adam(RATE)),
    "Adam, the other way round": (optax.adam(RATE), in_torch("Adam", RATE)),
    "Adam by hand": (in_torch("Adam", RATE), rule()),
    "Adam of a NumPy function": (rule(), optax.adam(RATE)),
    "Adam, fused": (in_torch("Adam", RATE), in_torch("Adam", RATE, fused=True)),
    "Adam with L2": (
        in_torch("Adam", RATE, weight_decay=DECAY),
        optax.chain(optax.add_decayed_weights(DECAY), optax.adam(RATE)),
    ),
    "AdamW": (ADAMW, optax.adamw(RATE, weight_decay=DECAY)),
    "AdamW by hand": (ADAMW, rule(decay=DECAY)),
    "AdamW, groups": (groups, optax.adamw(RATE, weight_decay=DECAY, mask=matrices)),
    "AMSGrad by hand": (in_torch("Adam", RATE, (0.9, 0.9), amsgrad=True), rule(b2=0.9, largest="before")),
    "AMSGrad of optax by hand": (optax.amsgrad(RATE, b2=0.9), rule(b2=0.9, largest="after")),
    "RMSprop": (in_torch("RMSprop", RATE), optax.rmsprop(RATE, 0.99, eps_in_sqrt=False)),
    "RMSprop by hand": (optax.rmsprop(RATE, 0.99), rule("rmsprop", b2=0.99, stands="inside")),
    "Adagrad by hand": (in_torch("Adagrad", RATE), rule("adagrad", eps=1e-10)),
    "Adagrad of optax by hand": (
        optax.adagrad(RATE),
        rule("adagrad", start=0.1, eps=1e-7, stands="inside"),
    ),
    "clipping": (
        in_torch("SGD", RATE, 0.9, clip=1.0),
        optax.chain(clip_like_torch(1.0), optax.sgd(RATE, 0.9)),
    ),
    "clipping by hand": (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(RATE)), rule(clip=1.0)),
    "schedule": (
        in_torch("AdamW", RATE, weight_decay=DECAY, schedule=warmup),
        optax.adamw(SCHEDULE, weight_decay=DECAY),
    ),
    "schedule, injected": (
        in_torch("SGD", RATE, 0.9, schedule=warmup),
        optax.inject_hyperparams(optax.sgd)(SCHEDULE, momentum=0.9),
    ),
    "settings, injected": (in_torch("Adam", RATE), optax.inject_hyperparams(optax.adam)(RATE)),
    "schedule by hand": (in_torch("Adam", RATE, schedule=warmup), rule(rate=scheduled)),
    "nnx.Optimizer": (ADAMW, in_nnx(optax.adamw(RATE, weight_decay=DECAY))),
}


@pytest.mark.parametrize("name", some(RIGHT, 6))
def test_right_ones_pass(name: str) -> None:
    judged(*RIGHT[name]).assert_passed()


ADAM, MOMENTUM = in_torch("Adam", RATE), in_torch("SGD", RATE, 0.9)
CLIP = in_torch("SGD", RATE, 0.9, clip=1.0)
WRONG: dict[str, tuple[Any, Any, str]] = {
    "eps inside the root": (ADAM, rule(stands="inside"), "where eps stands: outside the root in the reference, inside the root"),
    "optax's eps_root": (ADAM, optax.adam(RATE, eps=0.0, eps_root=1e-8), "where eps stands"),
    "eps before the correction": (ADAM, rule(stands="before the correction"), "before the correction in the port"),
    "RMSprop's eps": (in_torch("RMSprop", RATE), optax.rmsprop(RATE, 0.99), "where eps stands"),
    "Adagrad's start": (in_torch("Adagrad", RATE), optax.adagrad(RATE), "where the sum of squares starts"),
    "another eps": (ADAM, rule(eps=1e-7), "eps: 1e-08 in the reference, 1e-07 in the port"),
    "another beta": (ADAM, optax.adam(RATE, b2=0.99), "beta2: 0.999 in the reference, 0.99 in the port"),
    "no correction": (ADAM, rule(corrected=()), "the bias correction: both moments in the reference, none in the port"),
    "the first alone corrected": (ADAM, rule(corrected=("first",)), "the first moment only in the port"),
    "the second alone corrected": (ADAM, rule(corrected=("second",)), "the second moment only in the port"),
    "count from 1": (ADAM, rule(shift=1, **{"from": 1}), "the bias correction: both moments in the reference, both, one step ahead"),
    "count from -1": (ADAM, rule(shift=-1), "one step behind in the port"),
    "coupled for decoupled": (ADAMW, in_torch("Adam", RATE, weight_decay=DECAY), "weight decay: decoupled 0.1 times the rate in the reference, coupled"),
    "decoupled for coupled": (in_torch("Adam", RATE, weight_decay=DECAY), ADAMW, "weight decay: coupled"),
    "decay not times the rate": (ADAMW, rule(decay=DECAY, without_rate=True), "decoupled 0.1 and not times the rate in the port"),
    "decay of matrices alone": (ADAMW, rule(decay=DECAY, matrices=True), "of weight alone in the port"),
    "decay of biases, too": (groups, optax.adamw(RATE, weight_decay=DECAY), "of weight alone in the reference"),
    "decay after the step": (ADAMW, rule(decay=DECAY, after=True), "decays the parameters after the step"),
    "optax's default decay": (in_torch("AdamW", RATE), optax.adamw(RATE), "0.01 times the rate in the reference, decoupled 0.0001"),
    "no decay": (ADAMW, optax.adam(RATE), "none in the port"),
    "clipping's 1e-6": (CLIP, optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(RATE, 0.9)), "clipping: by the norm plus 1e-6 in the reference, by the norm in the port"),
    "no clipping": (CLIP, optax.sgd(RATE, 0.9), "clipping: by the norm plus 1e-6 in the reference, none"),
    "clipping each value": (CLIP, optax.chain(optax.clip(1.0), optax.sgd(RATE, 0.9)), "of each value in the port"),
    "another limit": (CLIP, optax.chain(clip_like_torch(0.5), optax.sgd(RATE, 0.9)), "clip: 1 in the reference, 0.5"),
    "averaged momentum": (MOMENTUM, rule("momentum", damping=0.9), "enters the momentum buffer: whole in the reference, times 1 - momentum"),
    "dampening": (MOMENTUM, in_torch("SGD", RATE, 0.9, dampening=0.5), "times 1 - dampening, but whole in the first step"),
    "dampening from the first step on": (in_torch("SGD", RATE, 0.9, dampening=0.9), rule("momentum", damping=0.9), "times 1 - momentum in the port"),
    "no Nesterov": (in_torch("SGD", RATE, 0.9, nesterov=True), optax.sgd(RATE, 0.9), "look-ahead: yes in the reference, no"),
    "the rate inside the buffer": (in_torch("SGD", RATE, 0.9, schedule=warmup), rule("momentum", scheduled, inside=True), "inside the momentum buffer: no in the reference, yes"),
    "AMSGrad after its correction": (in_torch("Adam", RATE, (0.9, 0.9), amsgrad=True), optax.amsgrad(RATE, b2=0.9), "before its correction in the reference, after its correction"),
    "no AMSGrad": (in_torch("Adam", RATE, (0.9, 0.9), amsgrad=True), optax.adam(RATE, b2=0.9), "(AMSGrad): before its correction in the reference, no in the port"),
    "schedule ahead": (in_torch("Adam", RATE, schedule=warmup), optax.adam(lambda t: SCHEDULE(t + 1)), "the port is one step ahead"),
    "schedule behind": (in_torch("SGD", RATE, schedule=warmup), rule("sgd", lambda t: scheduled(max(t - 1, 0))), "the port is one step behind"),
    "no schedule": (in_torch("SGD", RATE, schedule=warmup), optax.sgd(RATE), "the rate: 0.0025, 0.005"),
    "the rate of the biases": (ADAM, rule(bias_rate=2.0), "the rate of bias: 0.01 in the reference, 0.02"),
    "uphill": (in_torch("SGD", RATE), rule("sgd", sign=-1), "the sign of the step"),
    "another rule": (ADAM, optax.rmsprop(RATE, 0.999, eps_in_sqrt=False), "the rule: Adam in the reference, RMSprop"),
    "NAdam": (ADAM, optax.nadam(RATE), "look-ahead: no in the reference, yes"),
    "a moment in bfloat16": (ADAM, optax.adam(RATE, mu_dtype=jnp.bfloat16), "mu: kept in bfloat16 where float64 comes in"),
    "a buffer in float32": (MOMENTUM, rule("momentum", kept=np.float32), "buf: kept in float32 where float64 comes in"),
    "a count in int8": (ADAM, rule(counted=np.int8), "kept in int8, which does not count to 16,777,216"),
    "a count that starts at 1": (ADAM, rule(**{"from": 1}), "2, 3, 4 after each step, 1, 2, 3 in the reference"),
}  # fmt: skip


@pytest.mark.parametrize("name", some(WRONG, 9))
def test_mistakes_are_named(name: str) -> None:
    reference, port, said = WRONG[name]
    report = judged(reference, port, parameters=FEW, dtypes=("float64",), steps=6)
    assert not report.passed
    told = report.explain()
    assert said in told, told
    assert told.count("The term that differs") == (2 if name == "count from 1" else 1), told
