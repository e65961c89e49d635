"""Batch norm by hand and by autodiff: finite differences, each other, and torch's own layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jax_models import norm as jax_norm
from numpy_ref import norm
from tests.numpy_ref.test_gradients import assert_close, numeric
from torch_models import norm as torch_norm
from triptych.errors import UserError

EPS = 1e-5
SHAPES = [(6, 4), (2, 3), (3, 4, 2, 5), (1, 2, 3, 3)]


def inputs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x with a constant channel and exact zeros, gamma with a zero, beta, and a random dL/dy."""
    rng = np.random.default_rng(3)
    x = rng.normal(1.0, 2.0, shape)
    x[:, 0] = 0.7
    x[0, -1] = 0.0
    gamma, beta = rng.normal(size=(2, shape[1]))
    gamma[1] = 0.0
    return x, gamma, beta, rng.normal(size=shape)


def by_numpy(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
    y, cache, mu, variance = norm.batch_norm(x, gamma, beta, EPS)
    return [y, mu, variance, *norm.batch_norm_backward(dy, cache)]


def by_jax(function: Callable[..., jax_norm.Output]) -> Callable[..., list[np.ndarray]]:
    def run(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dy: np.ndarray) -> list[np.ndarray]:
        with jax.enable_x64(x.dtype == np.float64):

            @jax.jit
            def both(x: jax.Array, gamma: jax.Array, beta: jax.Array, dy: jax.Array) -> list[jax.Array]:
                (y, mu, variance), pull = jax.vjp(lambda *a: function(*a, EPS), x, gamma, beta)
                return [y, mu, variance, *pull((dy, jnp.zeros_like(mu), jnp.zeros_like(variance)))]

            # JAX's images are channels-last inside.
            results = both(np.moveaxis(x, 1, -1), gamma, beta, np.moveaxis(dy, 1, -1))
            return [np.moveaxis(a, -1, 1) if a.ndim == x.ndim else a for a in map(np.asarray, results)]

    return run


def by_torch(function: Callable[..., torch_norm.Output]) -> Callable[..., list[np.ndarray]]:
    def run(*arrays: np.ndarray) -> list[np.ndarray]:
        x, gamma, beta, dy = (torch.tensor(array) for array in arrays)
        leaves = [leaf.requires_grad_() for leaf in (x, gamma, beta)]
        y, mu, variance = function(*leaves, EPS)
        gradients = torch.autograd.grad(y, leaves, dy)
        return [array.detach().numpy() for array in (y, mu, variance, *gradients)]

    return run


IMPLEMENTATIONS = {
    "jax autodiff": by_jax(jax_norm.batch_norm),
    "jax manual": by_jax(jax_norm.batch_norm_manual),
    "torch autodiff": by_torch(torch_norm.batch_norm),
    "torch manual": by_torch(torch_norm.batch_norm_manual),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_numpy_backward_against_differences(shape: tuple[int, ...]) -> None:
    """Every element of every input. The constant channel's curvature is 1/sqrt(eps): left to the others."""
    x, gamma, beta, dy = inputs(shape)
    x[:, 0] = np.random.default_rng(4).normal(size=x[:, 0].shape)
    _, _, _, dx, dgamma, dbeta = by_numpy(x, gamma, beta, dy)
    assert_close(dx, numeric(lambda x: float((by_numpy(x, gamma, beta, dy)[0] * dy).sum()), x))
    staged = norm.batch_norm_staged_backward(dy, x, gamma, EPS)
    np.testing.assert_allclose(staged, dx, rtol=1e-12, atol=1e-13)
    assert_close(dgamma, numeric(lambda gamma: float((by_numpy(x, gamma, beta, dy)[0] * dy).sum()), gamma))
    assert_close(dbeta, numeric(lambda beta: float((by_numpy(x, gamma, beta, dy)[0] * dy).sum()), beta))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_all_implementations_agree_in_float64(name: str, shape: tuple[int, ...]) -> None:
    """Constant channels and a gamma of 0 included; 1/sqrt(eps) = 316 amplifies rounding there."""
    arrays = inputs(shape)
    for ours, theirs in zip(by_numpy(*arrays), IMPLEMENTATIONS[name](*arrays), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_s_own_layer_agrees(shape: tuple[int, ...]) -> None:
    """Output, gradients, and running statistics after two updates: momentum 0.1, unbiased variance."""
    x, gamma, beta, dy = inputs(shape)
    layer = (torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d)(shape[1], dtype=torch.float64)
    layer.weight.data, layer.bias.data = torch.tensor(gamma), torch.tensor(beta)
    mean, variance = np.zeros(shape[1]), np.ones(shape[1])
    for scale in (1.0, 3.0):
        leaf = torch.tensor(scale * x, requires_grad=True)
        out = layer(leaf)
        (theirs,) = torch.autograd.grad(out, [leaf], torch.tensor(dy))
        y, mu, sigma2, dx, _, _ = by_numpy(scale * x, gamma, beta, dy)
        np.testing.assert_allclose(y, out.detach().numpy(), atol=1e-12)
        np.testing.assert_allclose(dx, theirs.numpy(), atol=1e-11)
        mean = norm.running_update(mean, mu, 0.1)
        variance = norm.running_update(variance, norm.unbiased(sigma2, x.size // shape[1]), 0.1)
    buffers = {key: buffer.numpy() for key, buffer in layer.named_buffers()}
    np.testing.assert_allclose(mean, buffers["running_mean"], rtol=1e-12)
    np.testing.assert_allclose(variance, buffers["running_var"], rtol=1e-12)
    layer.eval()
    ours = norm.normalize(x, gamma, beta, mean, variance, EPS)
    np.testing.assert_allclose(ours, layer(torch.tensor(x)).detach().numpy(), atol=1e-13)


@pytest.mark.parametrize("name", ["numpy", *IMPLEMENTATIONS])
def test_variance_does_not_cancel_in_float32(name: str) -> None:
    """Mean 1e4, standard deviation 1: E[x^2] - E[x]^2 would give 16 for 1."""
    x = np.random.default_rng(0).normal(1e4, 1.0, (500, 2)).astype(np.float32)
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    variance = {"numpy": by_numpy, **IMPLEMENTATIONS}[name](x, one, zero, x)[2]
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=0), rtol=1e-4)


def test_manual_vjp_works_under_vmap_and_scan() -> None:
    rng = np.random.default_rng(1)
    x, gamma, beta = rng.normal(size=(3, 6, 4)), rng.normal(size=4), rng.normal(size=4)

    def value(function: Callable[..., jax_norm.Output], x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(function(x, gamma, beta, EPS)[0]))

    with jax.enable_x64(True):
        functions = (jax_norm.batch_norm_manual, jax_norm.batch_norm)
        pair = [jax.grad(partial(value, function)) for function in functions]
        singles = [np.stack([np.asarray(gradient(one)) for one in x]) for gradient in pair]
        np.testing.assert_allclose(singles[0], singles[1], atol=1e-13)
        np.testing.assert_allclose(jax.vmap(pair[0])(x), singles[0], atol=1e-13)
        _, scanned = jax.lax.scan(lambda carry, one: (carry, pair[0](one)), 0, jnp.asarray(x))
        np.testing.assert_allclose(scanned, singles[0], atol=1e-13)


def test_torch_function_saves_no_more_than_the_gradients_asked_for_need() -> None:
    for needs, expected in (
        ((True, True, True), 3),
        ((False, True, True), 1),
        ((False, False, True), 0),
        ((True, False, False), 3),
    ):
        arrays = inputs((6, 4))
        leaves = [torch.tensor(a, requires_grad=need) for a, need in zip(arrays[:3], needs, strict=True)]
        y, _, _ = torch_norm.batch_norm_manual(leaves[0], leaves[1], leaves[2], EPS)
        saved = cast(Any, y.grad_fn).saved_tensors
        assert sum(tensor is not None for tensor in saved) == expected
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(y, asked, torch.tensor(arrays[3]))
        truth = by_numpy(*arrays)[3:]
        wanted = [array for array, need in zip(truth, needs, strict=True) if need]
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
@pytest.mark.parametrize("name", ["numpy", *IMPLEMENTATIONS])
def test_what_has_no_statistics_is_refused(
    name: str, shape: tuple[int, ...], features: int, message: str
) -> None:
    x, gamma = np.ones(shape), np.ones(features)
    with pytest.raises(UserError, match=message):
        {"numpy": by_numpy, **IMPLEMENTATIONS}[name](x, gamma, gamma, x)
