"""Batch norm by hand: what torch keeps of it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_models import norm as jax_norm
from numpy_ref import norm
from torch_models import norm as torch_norm
from triptych.errors import UserError

EPS = 1e-5
IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "numpy": norm.batch_norm,
    "jax autodiff": jax_norm.batch_norm,
    "jax manual": jax_norm.batch_norm_manual,
    "torch autodiff": torch_norm.batch_norm,
    "torch manual": torch_norm.batch_norm_manual,
}


def test_torch_function_saves_no_more_than_the_gradients_asked_for_need(rng: np.random.Generator) -> None:
    (x, dy), (gamma, beta) = rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 4))
    expected_all = norm.batch_norm_backward(dy, norm.batch_norm(x, gamma, beta, EPS)[1])
    for needs, expected in (
        ((True, True, True), 3),
        ((False, True, True), 1),
        ((False, False, True), 0),
        ((True, False, False), 3),
    ):
        leaves = [
            torch.tensor(a, requires_grad=need) for a, need in zip((x, gamma, beta), needs, strict=True)
        ]
        y, _, _ = torch_norm.batch_norm_manual(leaves[0], leaves[1], leaves[2], EPS)
        saved = cast(Any, y.grad_fn).saved_tensors
        assert sum(tensor is not None for tensor in saved) == expected
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(y, asked, torch.tensor(dy))
        wanted = [array for array, need in zip(expected_all, needs, strict=True) if need]
        for ours, theirs in zip(wanted, found, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "features", "message"),
    [
        ((1, 4), 4, "two values or more in each channel"),
        ((1, 4, 1, 1), 4, "two values or more in each channel"),
        ((6, 4), 3, r"expected x \(B, 3\) or \(B, (3, H, W|H, W, 3)\).*got \(6, 4\)"),
        ((6, 4, 2), 4, r"got \((6, 4, 2|6, 2, 4)\)"),
    ],
)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_what_has_no_statistics_is_refused(
    name: str, shape: tuple[int, ...], features: int, message: str
) -> None:
    x: Any = np.ones(shape)
    gamma: Any = np.ones(features)
    if "jax" in name:
        x, gamma = jnp.asarray(np.moveaxis(x, 1, -1)), jnp.asarray(gamma)
    if "torch" in name:
        x, gamma = torch.tensor(x), torch.tensor(gamma)
    with pytest.raises(UserError, match=message):
        IMPLEMENTATIONS[name](x, gamma, gamma, EPS)
