"""Each row of docs/conventions.md, proved on the frameworks themselves, and on ours where we have it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

from jax_models import loss as jax_loss
from numpy_ref import conv as numpy_conv
from numpy_ref import dense as numpy_dense
from numpy_ref import loss as numpy_loss
from numpy_ref import norm as numpy_norm
from numpy_ref import optim as numpy_optim
from torch_models import loss as torch_loss
from triptych.describe.init import initial_parameters
from triptych.describe.network import Model
from triptych.describe.spec import Experiment, Initialization, Optimization
from triptych.errors import UserError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "conventions.md"


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """float64 in JAX, unless a test says otherwise."""
    with jax.enable_x64(True):
        yield


def slope(function: Any, at: float = 0.0) -> tuple[float, ...]:
    """The derivative of a torch or a JAX function at a point."""
    if function.__module__.startswith("torch") or getattr(function, "is_torch", False):
        x = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        (g,) = torch.autograd.grad(function(x).sum(), x)
        return tuple(g.tolist())
    return tuple(jax.grad(lambda x: function(x).sum())(jnp.array([at])).tolist())


def torch_grad(function: Any, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    leaf = torch.tensor(x, requires_grad=True)
    (g,) = torch.autograd.grad(function(leaf), leaf, torch.tensor(dy))
    found: np.ndarray = g.numpy()
    return found


def jax_grad(function: Any, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    return np.asarray(jax.vjp(function, jnp.asarray(x))[1](jnp.asarray(dy))[0])


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-13, atol=1e-15)


# --- normalization ---


def test_running_statistics(rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 3)) + 2
    theirs = nn.BatchNorm1d(3, dtype=torch.float64)
    theirs(torch.tensor(x))
    assert theirs.momentum == 0.1
    close(theirs.running_mean, 0.1 * x.mean(0))
    close(theirs.running_var, 0.9 + 0.1 * x.var(0, ddof=1))
    with jax.enable_x64(False):  # its statistics are float32
        flax = nnx.BatchNorm(3, rngs=nnx.Rngs(0), use_fast_variance=False)
        flax(jnp.asarray(x))
    assert flax.momentum == 0.99
    np.testing.assert_allclose(flax.mean[...], 0.01 * x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(flax.var[...], 0.99 + 0.01 * x.var(0), rtol=1e-6)
    _, _, mu, variance = numpy_norm.batch_norm(x, np.ones(3), np.zeros(3), 1e-5)
    close(numpy_norm.running_update(np.zeros(3), mu, 0.1), theirs.running_mean)
    close(numpy_norm.running_update(np.ones(3), numpy_norm.unbiased(variance, 6), 0.1), theirs.running_var)


def test_normalizing_variance_and_eps(rng: np.random.Generator) -> None:
    x = 1e-3 * rng.normal(size=(6, 3))  # a variance near eps
    wanted = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    close(nn.BatchNorm1d(3, dtype=torch.float64)(torch.tensor(x)).detach(), wanted)
    with jax.enable_x64(False):
        flax = nnx.BatchNorm(3, rngs=nnx.Rngs(0), use_fast_variance=False)
        np.testing.assert_allclose(flax(jnp.asarray(x)), wanted, rtol=1e-4, atol=1e-5)
    close(numpy_norm.batch_norm(x, np.ones(3), np.zeros(3), 1e-5)[0], wanted)


def test_eps_of_normalization() -> None:
    assert nn.BatchNorm1d(3).eps == nnx.BatchNorm(3, rngs=nnx.Rngs(0)).epsilon == 1e-5
    assert (nn.LayerNorm(3).eps, nnx.LayerNorm(3, rngs=nnx.Rngs(0)).epsilon) == (1e-5, 1e-6)
    assert next(layer.eps for layer in Model(batch_norm="manual").layers() if hasattr(layer, "eps")) == 1e-5


def test_one_value_in_a_channel() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        nn.BatchNorm1d(3)(torch.ones(1, 3))
    flax = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(flax(jnp.full((1, 3), 7.0)), np.zeros((1, 3)))
    with pytest.raises(UserError, match="two values or more"):
        numpy_norm.batch_norm(np.ones((1, 3)), np.ones(3), np.zeros(3), 1e-5)


def test_variance_in_one_pass_or_two(rng: np.random.Generator) -> None:
    x = (1e4 + rng.normal(size=(64, 1))).astype(np.float32)
    true = x.astype(np.float64).var()
    with jax.enable_x64(False):
        one, two = (
            nnx.BatchNorm(1, rngs=nnx.Rngs(0), momentum=0.0, use_fast_variance=f) for f in (True, False)
        )
        one(jnp.asarray(x)), two(jnp.asarray(x))
        assert nnx.BatchNorm(1, rngs=nnx.Rngs(0)).use_fast_variance
        assert abs(float(one.var[0]) / true - 1) > 0.5
        assert abs(float(two.var[0]) / true - 1) < 1e-3
    theirs = nn.BatchNorm1d(1, momentum=1.0)
    theirs(torch.tensor(x))
    assert theirs.running_var is not None
    assert abs(float(theirs.running_var[0]) * 63 / 64 / true - 1) < 1e-3
    assert abs(numpy_norm.batch_norm(x, x[0] * 0 + 1, x[0] * 0, 1e-5)[3][0] / true - 1) < 1e-3


def test_modes_at_the_start() -> None:
    assert nn.Dropout().training
    assert nn.BatchNorm1d(2).training
    assert not nnx.BatchNorm(2, rngs=nnx.Rngs(0)).use_running_average
    assert not nnx.Dropout(0.5, rngs=nnx.Rngs(0)).deterministic


# --- points without a derivative ---


def test_relu_at_zero() -> None:
    assert slope(torch.relu) == slope(jax.nn.relu) == (0,)
    assert slope(lambda x: jnp.maximum(x, 0)) == (0.5,)
    assert torch_grad(lambda x: torch.clamp(x, min=0), np.zeros(1), np.ones(1)) == 1
    np.testing.assert_array_equal(numpy_dense.leaky_relu_backward(np.ones(1), np.zeros(1), 0.0), [0])


def test_leaky_relu_at_zero() -> None:
    assert torch_grad(lambda x: functional.leaky_relu(x, 0.02), np.zeros(1), np.ones(1)) == 0.02
    assert slope(lambda x: jax.nn.leaky_relu(x, 0.02)) == (1,)
    assert slope(lambda x: jnp.where(x > 0, x, 0.02 * x)) == (0.02,)
    np.testing.assert_array_equal(numpy_dense.leaky_relu_backward(np.ones(1), np.zeros(1), 0.02), [0.02])


def test_abs_at_zero() -> None:
    assert slope(torch.abs) == (0,)
    assert slope(jnp.abs) == (1,)
    assert np.sign(0.0) == 0


def test_maximum_of_equals() -> None:
    two = np.array([3.0])
    assert torch_grad(lambda x: torch.maximum(x, torch.tensor(two)), two, np.ones(1)) == 0.5
    assert jax_grad(lambda x: jnp.maximum(x, jnp.asarray(two)), two, np.ones(1)) == 0.5


def test_max_reduction_ties() -> None:
    x, one = np.array([2.0, 5.0, 5.0]), np.array(1.0)
    half = [0, 0.5, 0.5]
    np.testing.assert_array_equal(torch_grad(lambda x: torch.amax(x, 0), x, one), half)
    np.testing.assert_array_equal(torch_grad(torch.max, x, one), half)
    np.testing.assert_array_equal(torch_grad(lambda x: torch.max(x, 0).values, x, one), [0, 1, 0])
    np.testing.assert_array_equal(jax_grad(jnp.max, x, one), half)
    assert np.argmax(x) == 1


def test_max_pool_ties(rng: np.random.Generator) -> None:
    from triptych.describe.layers import Window

    x, dy = rng.integers(0, 2, (1, 1, 5, 5)).astype(float), rng.normal(size=(1, 1, 3, 3))
    theirs = torch_grad(lambda x: functional.max_pool2d(x, 3, 2, 1), x, dy)
    pool = lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # noqa: E731
    flax = jax_grad(pool, x.transpose(0, 2, 3, 1), dy.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    close(flax, theirs)
    _, cache = numpy_conv.max_pool2d(x, Window((3, 3), (2, 2), (1, 1)))
    close(numpy_conv.max_pool2d_backward(dy, cache), theirs)
    assert np.count_nonzero(theirs) <= dy.size  # one place for each window


# --- layers ---


def test_linear_weight(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3))
    layer, flax = (
        nn.Linear(3, 4, dtype=torch.float64),
        nnx.Linear(3, 4, rngs=nnx.Rngs(0), param_dtype=jnp.float64),
    )
    assert tuple(layer.weight.shape) == (4, 3)
    assert flax.kernel.shape == (3, 4)
    flax.kernel = nnx.Param(jnp.asarray(layer.weight.detach().numpy().T))
    flax.bias = nnx.Param(jnp.asarray(layer.bias.detach().numpy()))
    close(flax(jnp.asarray(x)), layer(torch.tensor(x)).detach())
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    close(numpy_dense.linear(x, W, b)[0], layer(torch.tensor(x)).detach())


def test_convolution_weight_and_direction(rng: np.random.Generator) -> None:
    from triptych.describe.layers import Window

    x, W = rng.normal(size=(1, 2, 5, 5)), rng.normal(size=(3, 2, 3, 3))
    theirs = functional.conv2d(torch.tensor(x), torch.tensor(W)).numpy()
    flax = nnx.Conv(2, 3, (3, 3), padding="VALID", use_bias=False, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    assert flax.kernel.shape == (3, 3, 2, 3)
    flax.kernel = nnx.Param(jnp.asarray(W.transpose(2, 3, 1, 0)))
    close(np.asarray(flax(jnp.asarray(x.transpose(0, 2, 3, 1)))).transpose(0, 3, 1, 2), theirs)
    close(numpy_conv.conv2d(x, W, None, Window((3, 3)))[0], theirs)
    close(theirs[0, 0, 0, 0], (x[0, :, :3, :3] * W[0]).sum())
    np.testing.assert_array_equal(np.convolve([1, 2, 3], [1, 10], "valid"), [12, 23])  # turned around


def test_convolution_padding_default() -> None:
    assert nn.Conv2d(1, 1, 3).padding == (0, 0)
    assert nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 5, 5)).shape[2:] == (3, 3)
    assert nnx.Conv(1, 1, (3, 3), rngs=nnx.Rngs(0))(jnp.ones((1, 5, 5, 1))).shape[1:3] == (5, 5)


def test_same_padding_with_stride_2() -> None:
    x, W = np.arange(36.0).reshape(1, 1, 6, 6), np.ones((1, 1, 3, 3))

    def xla(padding: Any) -> np.ndarray:
        return np.asarray(jax.lax.conv_general_dilated(jnp.asarray(x), jnp.asarray(W), (2, 2), padding))

    theirs = functional.conv2d(torch.tensor(x), torch.tensor(W), stride=2, padding=1).numpy()
    close(xla(((1, 1), (1, 1))), theirs)
    assert xla("SAME").shape == theirs.shape
    assert not np.isclose(xla("SAME"), theirs).any()
    close(xla("SAME"), xla(((0, 1), (0, 1))))
    with pytest.raises(ValueError, match="padding='same' is not supported for strided"):
        nn.Conv2d(1, 1, 3, stride=2, padding="same")


def test_pooling_stride_default() -> None:
    assert functional.max_pool2d(torch.ones(1, 1, 6, 6), 3).shape[2:] == (2, 2)
    assert nnx.max_pool(jnp.ones((1, 6, 6, 1)), (3, 3)).shape[1:3] == (4, 4)


def test_average_pooling_at_the_border() -> None:
    x = np.ones((1, 1, 4, 4))
    theirs = functional.avg_pool2d(torch.tensor(x), 3, 2, 1).numpy()
    flax = nnx.avg_pool(jnp.ones((1, 4, 4, 1)), (3, 3), (2, 2), ((1, 1), (1, 1)))
    close(theirs[0, 0, 0, 0], 4 / 9)  # zeros of the padding count
    close(flax[0, 0, 0, 0], 4 / 9)


def test_flatten_order(rng: np.random.Generator) -> None:
    x, W = rng.normal(size=(2, 3, 2, 2)), rng.normal(size=(12, 5))
    theirs = torch.flatten(torch.tensor(x), 1).numpy() @ W
    last = x.transpose(0, 2, 3, 1).reshape(2, -1)
    assert not np.allclose(last @ W, theirs)
    close(last @ W.reshape(3, 2, 2, 5).transpose(1, 2, 0, 3).reshape(-1, 5), theirs)


def test_dropout_scale() -> None:
    kept = functional.dropout(torch.ones(1000, dtype=torch.float64), 0.2)
    assert set(kept.tolist()) == {0.0, 1.25}
    flax = nnx.Dropout(0.2, rngs=nnx.Rngs(0))(jnp.ones(1000))
    assert set(np.asarray(flax).tolist()) == {0.0, 1.25}
    np.testing.assert_array_equal(numpy_dense.dropout(np.ones(2), np.array([True, False]), 0.2), [1.25, 0])


def test_gelu_default() -> None:
    x = np.array([-1.5])
    assert functional.gelu(torch.tensor(x)).item() == pytest.approx(
        float(jax.nn.gelu(x, approximate=False)[0]), rel=1e-14
    )
    tanh = functional.gelu(torch.tensor(x), approximate="tanh").item()
    assert tanh == pytest.approx(float(jax.nn.gelu(jnp.asarray(x))[0]), rel=1e-14)
    assert tanh != pytest.approx(functional.gelu(torch.tensor(x)).item(), rel=1e-5)


def test_default_initialization() -> None:
    torch.manual_seed(0)
    layer, flax = nn.Linear(100, 2000), nnx.Linear(100, 2000, rngs=nnx.Rngs(0))
    bound = 1 / np.sqrt(100)
    for tensor in (layer.weight, layer.bias):
        assert 0.99 * bound < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / np.sqrt(3), rel=0.1)
    kernel = np.asarray(flax.kernel[...])
    assert kernel.std() == pytest.approx(bound, rel=0.02)
    assert 2.2 * bound < np.abs(kernel).max() < 2.3 * bound  # cut at 2 deviations of the uncut normal
    assert flax.bias is not None
    assert not np.asarray(flax.bias[...]).any()
    spec = Experiment(model=Model(hidden=(50,)), initialization=Initialization("framework"))
    ours = initial_parameters(spec)
    first = next(array for name, array in ours.items() if array.shape == (50, 3072))
    assert 0.99 / np.sqrt(3072) < np.abs(first).max() <= 1 / np.sqrt(3072)


# --- losses ---

LOGITS = np.array([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0]])


def test_cross_entropy_reduction() -> None:
    labels = np.array([2, 0])
    each = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), jnp.asarray(labels))
    assert each.shape == (2,)
    close(functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(labels)), each.mean())
    close(numpy_loss.per_sample("cross_entropy", LOGITS, labels, 0.0), each)


def test_label_out_of_range() -> None:
    labels = np.array([3, 0])
    with pytest.raises(IndexError):
        functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(labels))
    each = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), jnp.asarray(labels))
    assert np.isnan(each[0])
    assert np.isfinite(each[1])
    with pytest.raises(IndexError):
        numpy_loss.per_sample("cross_entropy", LOGITS, labels, 0.0)
    with pytest.raises(IndexError):
        torch_loss.per_sample("cross_entropy", torch.tensor(LOGITS), torch.tensor(labels))
    for kind in ("cross_entropy", "squared_error", "hinge"):
        for label in (3, -1, -4):
            ours = jax_loss.per_sample(kind, jnp.asarray(LOGITS), jnp.array([label, 0]))
            assert list(np.isnan(ours)) == [True, False], (kind, label)


def test_ignored_label() -> None:
    labels = torch.tensor([-100, 0])
    alone = functional.cross_entropy(torch.tensor(LOGITS[1:]), labels[1:])
    close(functional.cross_entropy(torch.tensor(LOGITS), labels), alone)  # out of the mean, too
    each = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(LOGITS), jnp.asarray(labels.numpy()))
    assert not np.isclose(each.mean(), float(alone))


def test_label_smoothing() -> None:
    hot = np.array([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    row, label = LOGITS[:1], np.array([0])
    wanted = -(hot * np.log(np.exp(row) / np.exp(row).sum())).sum()
    close(functional.cross_entropy(torch.tensor(row), torch.tensor(label), label_smoothing=0.1), wanted)
    close(optax.smooth_labels(jnp.eye(3)[:1], 0.1), hot)
    close(numpy_loss.per_sample("cross_entropy", row, label, 0.1)[0], wanted)


# --- optimizers ---

THETA, STEPS = np.array([1.0, -2.0, 3.0]), 4


def torch_run(make: Any, gradients: np.ndarray, start: np.ndarray = THETA) -> np.ndarray:
    theta = nn.Parameter(torch.tensor(start))
    optimizer = make([theta])
    for g in gradients:
        theta.grad = torch.tensor(g)
        optimizer.step()
    found: np.ndarray = theta.detach().numpy()
    return found


def optax_run(optimizer: Any, gradients: np.ndarray, start: np.ndarray = THETA) -> np.ndarray:
    theta = jnp.asarray(start)
    state = optimizer.init(theta)
    for g in gradients:
        updates, state = optimizer.update(jnp.asarray(g), state, theta)
        theta = optax.apply_updates(theta, updates)
    return np.asarray(theta)


def our_run(o: Optimization, gradients: np.ndarray, start: np.ndarray = THETA) -> np.ndarray:
    theta = start.copy()
    slots = {name: np.zeros_like(theta) for name in o.slots}
    for t, g in enumerate(gradients, start=1):
        numpy_optim.update(theta, g.copy(), slots, o, o.learning_rate, t)
    return theta


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_momentum(nesterov: bool, rng: np.random.Generator) -> None:
    g = rng.normal(size=(STEPS, 3))
    theirs = torch_run(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=nesterov), g)
    close(optax_run(optax.sgd(0.1, momentum=0.9, nesterov=nesterov), g), theirs)
    close(our_run(Optimization("sgd", 0.1, momentum=0.9, nesterov=nesterov), g), theirs)
    buffer, theta = np.zeros(3), THETA.copy()
    for row in g:  # the gradient enters whole, not times 1 - momentum
        buffer = 0.9 * buffer + row
        theta = theta - 0.1 * (row + 0.9 * buffer if nesterov else buffer)
    close(theta, theirs)


def test_weight_decay_of_adam_is_coupled(rng: np.random.Generator) -> None:
    g = rng.normal(size=(STEPS, 3))
    theirs = torch_run(lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.3), g)
    np.testing.assert_allclose(
        optax_run(optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1)), g), theirs, rtol=1e-12
    )
    np.testing.assert_allclose(our_run(Optimization("adam", 0.1, weight_decay=0.3), g), theirs, rtol=1e-12)
    assert not np.allclose(torch_run(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3), g), theirs)


def test_weight_decay_of_adamw(rng: np.random.Generator) -> None:
    g = rng.normal(size=(STEPS, 3))
    theirs = torch_run(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.3), g)
    np.testing.assert_allclose(optax_run(optax.adamw(0.1, weight_decay=0.3), g), theirs, rtol=1e-12)
    np.testing.assert_allclose(our_run(Optimization("adamw", 0.1, weight_decay=0.3), g), theirs, rtol=1e-12)
    default = torch_run(lambda p: torch.optim.AdamW(p, 0.1), g)
    np.testing.assert_allclose(
        default, torch_run(lambda p: torch.optim.AdamW(p, 0.1, weight_decay=1e-2), g), rtol=0
    )
    np.testing.assert_allclose(
        optax_run(optax.adamw(0.1), g), optax_run(optax.adamw(0.1, weight_decay=1e-4), g), rtol=0
    )


def test_eps_of_adam() -> None:
    g = np.array([[1e-3, 1.0, 2.0]])
    wanted = THETA - 0.1 * g[0] / (np.abs(g[0]) + 1e-2)  # outside the root
    np.testing.assert_allclose(torch_run(lambda p: torch.optim.Adam(p, 0.1, eps=1e-2), g), wanted, rtol=1e-12)
    np.testing.assert_allclose(optax_run(optax.adam(0.1, eps=1e-2), g), wanted, rtol=1e-12)
    np.testing.assert_allclose(our_run(Optimization("adam", 0.1, epsilon=1e-2), g), wanted, rtol=1e-12)
    inside = THETA - 0.1 * g[0] / np.sqrt(np.square(g[0]) + 1e-2)
    np.testing.assert_allclose(optax_run(optax.adam(0.1, eps=0, eps_root=1e-2), g), inside, rtol=1e-12)


def test_adam_bias_correction_in_float32() -> None:
    """With gradient 1 the first step is eta exactly, up to eps; optax's 1 - b2^t is 1e-5 off in float32."""
    g, start = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    with jax.enable_x64(False):
        off = abs(float(optax_run(optax.adam(1.0), g, start)[0]) + 1)
    assert 5e-6 < off < 5e-5
    assert abs(float(torch_run(lambda p: torch.optim.Adam(p, 1.0), g, start)[0]) + 1) < 3e-7
    assert abs(float(our_run(Optimization("adam", 1.0), g, start)[0]) + 1) < 3e-7


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the page says so")
def test_fused_adam_on_a_gpu():
    """With gradient 1 the second moment is 1e-3 after a step."""

    def second_moment(fused):
        theta = torch.ones(8, device="cuda", requires_grad=True)
        optimizer = torch.optim.Adam([theta], fused=fused)
        theta.grad = torch.ones_like(theta)
        optimizer.step()
        return float(optimizer.state[theta]["exp_avg_sq"][0])

    assert second_moment(False) == pytest.approx(1e-3, rel=2e-7)
    assert 1e-5 < 1 - second_moment(True) / 1e-3 < 2e-5


def test_amsgrad_keeps_the_largest_before_or_after_its_correction() -> None:
    """One large gradient comes first: optax's steps stay small after it, torch's and ours recover."""
    g = np.ones((STEPS, 3))
    g[0] = 100.0
    theirs = torch_run(lambda p: torch.optim.Adam(p, 0.1, amsgrad=True), g)
    np.testing.assert_allclose(our_run(Optimization("adam", 0.1, amsgrad=True), g), theirs, rtol=1e-12)
    corrected = optax_run(optax.amsgrad(0.1), g)
    theta, m, v, w = THETA.copy(), np.zeros(3), np.zeros(3), np.zeros(3)
    for t, row in enumerate(g, start=1):
        m, v = 0.9 * m + 0.1 * row, 0.999 * v + 0.001 * row**2
        w = np.maximum(w, v / (1 - 0.999**t))
        theta = theta - 0.1 * m / (1 - 0.9**t) / (np.sqrt(w) + 1e-8)
    np.testing.assert_allclose(corrected, theta, rtol=1e-12)
    assert (np.abs(theirs - THETA) > 1.2 * np.abs(corrected - THETA)).all()


def test_clipping_by_norm() -> None:
    g = np.array([3e-6, 4e-6])
    leaf = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    leaf.grad = torch.tensor(g)
    nn.utils.clip_grad_norm_([leaf], 1e-6)
    close(leaf.grad, g * 1e-6 / (5e-6 + 1e-6))  # torch adds 1e-6 to the norm
    clip = optax.clip_by_global_norm(1e-6)
    close(clip.update(jnp.asarray(g), clip.init(jnp.asarray(g)))[0], g * 1e-6 / 5e-6)


def test_gradients_accumulate() -> None:
    x = torch.ones(1, requires_grad=True)
    for _ in range(2):
        (3 * x).sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 6
    assert [float(jax.grad(lambda x: 3 * x)(1.0)) for _ in range(2)] == [3, 3]


# --- dtypes and precision ---


def test_promotion_of_integers() -> None:
    ones = np.ones(1, np.int32), np.ones(1, np.float32)
    assert (ones[0] + ones[1]).dtype == np.float64
    assert (jnp.asarray(ones[0]) + jnp.asarray(ones[1])).dtype == jnp.float32
    assert (torch.tensor(ones[0]) + torch.tensor(ones[1])).dtype == torch.float32
    assert (
        (np.float32(1) * 1.0).dtype == (jnp.float32(1) * 1.0).dtype == np.float32
    )  # a plain number gives way


def test_float64_that_comes_in() -> None:
    array = np.ones(1)
    assert torch.tensor(array).dtype == torch.float64
    assert torch.tensor([1.0]).dtype == torch.float32
    with jax.enable_x64(False):
        assert jnp.asarray(array).dtype == jnp.float32
    assert jnp.asarray(array).dtype == jnp.float64
    assert nnx.Linear(2, 2, rngs=nnx.Rngs(0)).kernel.dtype == jnp.float32  # with float64 allowed, too


def test_standard_deviation(rng: np.random.Generator) -> None:
    x = rng.normal(size=9)
    assert float(torch.std(torch.tensor(x))) == pytest.approx(x.std(ddof=1), rel=1e-14)
    assert float(jnp.std(jnp.asarray(x))) == pytest.approx(x.std(), rel=1e-14)
    assert np.std(x) == pytest.approx(np.sqrt(np.square(x - x.mean()).mean()), rel=1e-14)


def test_sum_of_integers_and_bytes() -> None:
    pixels = np.full(300, 200, np.uint8)
    assert pixels.sum() == int(torch.tensor(pixels).sum()) == 60000
    assert pixels.sum().dtype == np.uint64
    assert torch.tensor(pixels).sum().dtype == torch.int64
    assert (
        (pixels + pixels)[0] == int((torch.tensor(pixels) * 2)[0]) == int((jnp.asarray(pixels) * 2)[0]) == 144
    )


def test_tf32_flags() -> None:
    """What the switches say; whether a GPU then uses TF32 is the next test's."""
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    assert jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the page says so")
def test_tf32_on_a_gpu(rng: np.random.Generator) -> None:
    x, W = (rng.normal(size=(64, 64, 3, 3)).astype(np.float32) for _ in range(2))
    a, b = (torch.tensor(z.reshape(64, -1), device="cuda") for z in (x, W))
    exact = a.double() @ b.double().T
    assert ((a @ b.T - exact).abs().max() / exact.abs().max()).item() < 1e-5
    image = torch.tensor(x, device="cuda"), torch.tensor(W, device="cuda")
    wide = functional.conv2d(image[0].double(), image[1].double())
    off = (functional.conv2d(*image) - wide).abs().max() / wide.abs().max()
    assert off.item() > 1e-5


# --- the page ---


def rows() -> dict[str, list[str]]:
    """Test name to the row's cells."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| "))]
        names = re.findall(r"`(test_\w+)`", cells[-1])
        for name in names:
            assert name not in found, f"{name} proves two rows"
            found[name] = cells
    return found


def test_the_page_and_this_file_name_each_other() -> None:
    own = {name for name, value in globals().items() if name.startswith("test_") and callable(value)}
    assert set(rows()) == own - {"test_the_page_and_this_file_name_each_other"}
    assert all(len(cells) == 6 and all(cells[:4]) for cells in rows().values())
