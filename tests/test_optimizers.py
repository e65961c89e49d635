"""AMSGrad in JAX beside torch's own; `test_conventions` and `parity check` hold the other rules."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jax_models import optim as jax_optim
from triptych.describe.spec import Optimization

LIBRARY: dict[str, tuple[Optimization, Any]] = {
    "amsgrad": (
        Optimization("adam", 0.01, weight_decay=0.1, beta2=0.9, amsgrad=True),
        lambda p: torch.optim.Adam(p, 0.01, (0.9, 0.9), weight_decay=0.1, amsgrad=True),
    ),
    "amsgrad of adamw": (
        Optimization("adamw", 0.01, weight_decay=0.1, beta2=0.9, amsgrad=True),
        lambda p: torch.optim.AdamW(p, 0.01, (0.9, 0.9), weight_decay=0.1, amsgrad=True),
    ),
}
"""Ours and torch's; optax has no AMSGrad like torch's."""
STEPS = 30


def gradients(rng: np.random.Generator) -> np.ndarray:
    """Random, with a row of exact zeros: Adam divides 0 by eps there."""
    g = rng.normal(size=(STEPS, 4, 3))
    g[:, 2] = 0.0
    return g


@pytest.mark.parametrize("name", LIBRARY)
def test_jax_amsgrad_equals_torch(rng: np.random.Generator, name: str) -> None:
    """The gradients shrink, so that the largest second moment is soon an old one."""
    optimization, create = LIBRARY[name]
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
