"""Our optimizers beside the libraries' own: optax for JAX's chain, torch.optim for NumPy's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jax_models import optim as jax_optim
from numpy_ref import optim as numpy_optim
from triptych.describe.spec import Optimization

LIBRARY: dict[str, tuple[Optimization, Any, Any]] = {
    "sgd": (
        Optimization(learning_rate=0.1, momentum=0.9),
        optax.sgd(0.1, 0.9),
        lambda p: torch.optim.SGD(p, 0.1, 0.9),
    ),
    "nesterov": (
        Optimization(learning_rate=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1, 0.9, nesterov=True)),
        lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (
        Optimization("adam", 0.01, weight_decay=0.1),
        optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.01)),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    ),
    "adamw": (
        Optimization("adamw", 0.01, weight_decay=0.1),
        optax.adamw(0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ),
    "amsgrad": (
        Optimization("adam", 0.01, weight_decay=0.1, beta2=0.9, amsgrad=True),
        None,
        lambda p: torch.optim.Adam(p, 0.01, (0.9, 0.9), weight_decay=0.1, amsgrad=True),
    ),
    "amsgrad of adamw": (
        Optimization("adamw", 0.01, weight_decay=0.1, beta2=0.9, amsgrad=True),
        None,
        lambda p: torch.optim.AdamW(p, 0.01, (0.9, 0.9), weight_decay=0.1, amsgrad=True),
    ),
}
"""Ours, optax's and torch's; optax has no AMSGrad like torch's."""
STEPS = 30


def gradients(rng: np.random.Generator) -> np.ndarray:
    """Random, with a row of exact zeros: Adam divides 0 by eps there."""
    g = rng.normal(size=(STEPS, 4, 3))
    g[:, 2] = 0.0
    return g


@pytest.mark.parametrize("name", [name for name, (_, library, _) in LIBRARY.items() if library])
def test_jax_chain_equals_optax(rng: np.random.Generator, name: str) -> None:
    optimization, library, _ = LIBRARY[name]
    with jax.enable_x64(True):
        theta = {"w": jnp.asarray(rng.normal(size=(4, 3)))}
        theta_library, state, state_library = theta, jax_optim.init(optimization, theta), library.init(theta)
        scalars = jax_optim.step_scalars(optimization, np.full(STEPS, optimization.learning_rate), 0)
        for step, g in enumerate(gradients(rng)):
            row = {key: jnp.asarray(column[step]) for key, column in scalars.items()}
            updates, state = jax_optim.create(optimization, row).update({"w": jnp.asarray(g)}, state, theta)
            theta = optax.apply_updates(theta, updates)
            updates, state_library = library.update({"w": jnp.asarray(g)}, state_library, theta_library)
            theta_library = optax.apply_updates(theta_library, updates)
        np.testing.assert_allclose(theta["w"], theta_library["w"], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", LIBRARY)
def test_numpy_update_equals_torch(rng: np.random.Generator, name: str) -> None:
    optimization, _, create = LIBRARY[name]
    theta = rng.normal(size=(4, 3))
    theta_torch = torch.nn.Parameter(torch.from_numpy(theta.copy()))
    library = create([theta_torch])
    slots = {kind: np.zeros_like(theta) for kind in optimization.slots}
    for step, g in enumerate(gradients(rng), start=1):
        numpy_optim.update(theta, g, slots, optimization, optimization.learning_rate, step)
        theta_torch.grad = torch.from_numpy(g)
        library.step()
    np.testing.assert_allclose(theta, theta_torch.detach().numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["amsgrad", "amsgrad of adamw"])
def test_jax_amsgrad_equals_torch(rng: np.random.Generator, name: str) -> None:
    """The gradients shrink, so that the largest second moment is soon an old one."""
    optimization, _, create = LIBRARY[name]
    start = rng.normal(size=(4, 3))
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    library, falling = create([theirs]), np.linspace(1, 0.01, STEPS)[:, None, None] * gradients(rng)
    with jax.enable_x64(True):
        theta = {"w": jnp.asarray(start)}
        state = jax_optim.init(optimization, theta)
        scalars = jax_optim.step_scalars(optimization, np.full(STEPS, optimization.learning_rate), 0)
        for step, g in enumerate(falling):
            row = {key: jnp.asarray(column[step]) for key, column in scalars.items()}
            updates, state = jax_optim.create(optimization, row).update({"w": jnp.asarray(g)}, state, theta)
            theta = optax.apply_updates(theta, updates)
            theirs.grad = torch.from_numpy(g)
            library.step()
        slots = jax_optim.get_slots(state, optimization.slots)
        np.testing.assert_allclose(theta["w"], theirs.detach().numpy(), rtol=1e-13, atol=1e-15)
        largest = library.state[theirs]["max_exp_avg_sq"].numpy()
        np.testing.assert_allclose(slots["largest_second_moment"]["w"], largest, rtol=1e-13, atol=0)
        assert (largest[[0, 1, 3]] > 2 * np.asarray(slots["second_moment"]["w"])[[0, 1, 3]]).all()


def test_adam_step_by_hand() -> None:
    """First step of Adam: m = 0.1 g, v = 0.001 g^2, corrected to g and g^2, so eta g / (|g| + eps)."""
    theta, g = np.array([1.0, 1.0, 1.0]), np.array([4.0, -4.0, 0.0])
    slots = {"first_moment": np.zeros(3), "second_moment": np.zeros(3)}
    numpy_optim.update(theta, g, slots, Optimization("adam", 0.5, epsilon=1e-8), 0.5, 1)
    np.testing.assert_allclose(theta, [0.5, 1.5, 1.0], rtol=1e-8)
    np.testing.assert_allclose(slots["second_moment"], [0.016, 0.016, 0.0], rtol=1e-12)


def test_bias_correction_is_exact_in_float32() -> None:
    """optax's own computes 1 - 0.999^t in float32, 1.3e-5 off at t = 1; ours comes from float64."""
    correction = jax_optim.step_scalars(Optimization("adam"), np.full(1, 0.1), 0)["correction2"]
    ours = abs(float(correction.astype(np.float32)[0]) / 0.001 - 1)
    in_float32 = abs(float(1 - jnp.float32(0.999) ** 1) / 0.001 - 1)
    assert ours < 1e-7 < 1e-6 < in_float32


def test_weight_decay_may_be_traced() -> None:
    """Many weight decays in one compiled program give what each gives alone."""
    optimization, theta = Optimization("adam", 0.01), {"w": jnp.arange(3.0)}
    scalars = {k: jnp.asarray(v[0], jnp.float32) for k, v in
               jax_optim.step_scalars(optimization, np.full(1, 0.01), 0).items()}  # fmt: skip

    def step(decay: Any) -> Any:
        rule = jax_optim.create(optimization, scalars, decay)
        return rule.update({"w": jnp.ones(3)}, rule.init(theta), theta)[0]["w"]

    decays = jnp.asarray([0.0, 0.1, -1.0])
    together = jax.jit(jax.vmap(step))(decays)
    for decay, row in zip(decays, together, strict=True):
        np.testing.assert_allclose(row, step(decay), rtol=1e-6)
    assert not np.allclose(together[0], together[2])
