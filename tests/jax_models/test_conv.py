"""JAX's convolution and max-pooling: both platforms' forms against the hand-derived NumPy reference.

Upstream gradients are random and go to every output; ties, zeros, -inf and NaN are planted.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_models import conv
from jax_models.cpu import winograd
from numpy_ref import conv as reference
from triptych.describe.given import Given
from triptych.describe.layers import Conv2d, MaxPool2d, Window
from triptych.errors import UserError

# Rounding of sums of at most a few thousand products, relative to the largest entry.
LIMIT = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 2e-2}

SAME = Window((3, 3), (1, 1), (1, 1))
CONVOLUTIONS = [
    # batch, channels, height, width, outputs, window
    (2, 16, 8, 8, 24, SAME),
    (3, 16, 2, 2, 8, SAME),
    (2, 16, 1, 1, 8, SAME),
    (1, 16, 2, 6, 8, SAME),
    (1, 16, 1, 4, 8, SAME),
    (2, 16, 3, 2, 8, SAME),
    (2, 4, 6, 5, 3, Window((1, 1))),
    (2, 4, 6, 5, 3, Window((3, 3))),
    (2, 4, 8, 8, 3, Window((3, 3), (2, 2), (1, 1))),
    (1, 4, 9, 6, 3, Window((5, 2), (3, 1), (2, 1))),
    (1, 2, 7, 8, 3, Window((2, 3), (3, 4))),
    (2, 2, 9, 9, 3, Window((5, 5), (4, 4), (2, 2))),
]
POOLS = [
    # batch, channels, height, width, window
    (2, 5, 8, 8, Window((3, 3), (2, 2), (1, 1))),
    (2, 5, 2, 2, Window((3, 3), (2, 2), (1, 1))),
    (1, 5, 1, 1, Window((3, 3), (2, 2), (1, 1))),
    (1, 5, 7, 5, Window((3, 3), (2, 2), (1, 1))),
    (2, 5, 7, 4, Window((2, 2), (2, 2))),
    (2, 5, 5, 6, SAME),
    (1, 5, 9, 7, Window((3, 2), (1, 3), (1, 0))),
    (1, 5, 9, 9, Window((2, 2), (4, 3))),
    (1, 3, 8, 9, Window((5, 4), (2, 3), (2, 2))),
]


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """As the backend calls them; and no silent change of dtype."""
    with jax.numpy_dtype_promotion("strict"), jax.default_matmul_precision("highest"), jax.enable_x64(True):
        yield


def last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


def assert_near(actual: Any, truth: np.ndarray, dtype: str) -> None:
    actual = np.asarray(actual)
    assert actual.shape == truth.shape
    assert actual.dtype.name == dtype
    worst = np.abs(actual.astype(np.float64) - truth).max() / max(np.abs(truth).max(), 1e-3)
    assert worst < LIMIT[dtype], f"worst relative error {worst:.2e}"


def vendor_conv(x: Any, W: Any, dy: Any, window: Window) -> Any:
    return conv.vendor_conv2d(x, W, window), *conv.vendor_conv2d_backward(dy, x, W, window)


def public_conv(x: Any, W: Any, dy: Any, window: Window) -> Any:
    y, backward = jax.vjp(partial(conv.conv2d, b=None, window=window), x, W)
    return y, *backward(dy)


def winograd_conv(x: Any, W: Any, dy: Any, window: Window) -> Any:
    assert window == SAME
    return winograd.forward(x, W), *winograd.backward(dy, x, W)


def draw(rng: np.random.Generator, case: Any) -> tuple[np.ndarray, ...]:
    """x, W and dy in canonical layouts."""
    batch, channels, height, width, outputs, window = case
    x = rng.normal(size=(batch, channels, height, width))
    W = rng.normal(size=(outputs, channels, *window.kernel))
    return x, W, rng.normal(size=(batch, outputs, *window.output(height, width)))


def truth_of(arrays: tuple[np.ndarray, ...], window: Window) -> tuple[np.ndarray, ...]:
    """y, dx and dW by the reference, in our layouts."""
    x, W, dy = arrays
    y, cache = reference.conv2d(x, W, None, window)
    dx, dW, _ = reference.conv2d_backward(dy, cache, W)
    assert dx is not None
    return last(y), last(dx), conv.to_internal(dW)


def internal(arrays: tuple[np.ndarray, ...], dtype: str) -> tuple[jax.Array, ...]:
    x, W, dy = arrays
    return tuple(jnp.asarray(a, dtype) for a in (last(x), conv.to_internal(W), last(dy)))


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("form", [public_conv, vendor_conv])
def test_convolution(rng: np.random.Generator, case: Any, form: Any) -> None:
    arrays = draw(rng, case)
    results = jax.jit(partial(form, window=case[-1]))(*internal(arrays, "float64"))
    for actual, truth in zip(results, truth_of(arrays, case[-1]), strict=True):
        assert_near(actual, truth, "float64")


@pytest.mark.parametrize("shape", [(3, 2, 2), (1, 2, 6), (2, 6, 4)], ids=str)
def test_winograd_is_the_same_convolution(rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
    """In float64, where its few extra roundings are far below what a wrong coefficient would show."""
    arrays = draw(rng, (shape[0], 3, *shape[1:], 4, SAME))
    results = jax.jit(partial(winograd_conv, window=SAME))(*internal(arrays, "float64"))
    for actual, truth in zip(results, truth_of(arrays, SAME), strict=True):
        assert_near(actual, truth, "float64")


def planted(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """Images (B, C, H, W) with what random numbers never hit."""
    if kind == "ties":
        return rng.integers(0, 2, shape).astype(np.float64)
    x = rng.normal(size=shape)
    if kind == "zeros":  # what ReLU leaves behind, with zeros of both signs
        return np.where(rng.random(shape) < 0.2, -0.0, np.maximum(x, 0))
    if kind == "nan":
        x[rng.random(shape) < 0.1] = np.nan
    if kind == "infinite":
        x[rng.random(shape) < 0.7] = -np.inf
        x[:, :2] = -np.inf
    return x


def public_pool(x: Any, dy: Any, window: Window) -> Any:
    y, backward = jax.vjp(partial(conv.max_pool2d, window=window), x)
    return y, *backward(dy)


def vendor_pool(x: Any, dy: Any, window: Window) -> Any:
    y, backward = jax.vjp(partial(conv.vendor_max_pool2d, window=window), x)
    return y, *backward(dy)


@pytest.mark.parametrize("case", POOLS, ids=str)
@pytest.mark.parametrize(
    ("form", "kinds"),
    [
        (public_pool, ("random", "ties", "zeros", "nan", "infinite")),
        (vendor_pool, ("random", "ties", "zeros")),
    ],
    ids=["public", "vendor"],
)
def test_max_pool(rng: np.random.Generator, case: Any, form: Any, kinds: tuple[str, ...]) -> None:
    batch, channels, height, width, window = case
    compiled = jax.jit(partial(form, window=window))
    for kind in kinds:
        x = planted(rng, (batch, channels, height, width), kind)
        dy = rng.normal(size=(batch, channels, *window.output(height, width)))
        y, cache = reference.max_pool2d(x, window)
        actual_y, dx = compiled(jnp.asarray(last(x)), jnp.asarray(last(dy)))
        np.testing.assert_array_equal(actual_y, last(y), kind, strict=True)
        truth = last(reference.max_pool2d_backward(dy, cache))
        np.testing.assert_allclose(dx, truth, 1e-14, 1e-14, err_msg=kind, strict=True)


@jax.jit
def small_step(W: jax.Array, x: jax.Array, dy: jax.Array) -> jax.Array:
    """One descent step through a convolution and a pool."""
    window = Window((3, 3), (2, 2), (1, 1))
    _, backward = jax.vjp(lambda W: conv.max_pool2d(conv.conv2d(x, W, None, SAME), window), W)
    return W - 1e-3 * backward(dy)[0]


def test_under_vmap(rng: np.random.Generator) -> None:
    shapes = [(3, 2, 8, 8, 16), (3, 3, 3, 16, 16), (3, 2, 4, 4, 16)]
    x, W, dy = (jnp.asarray(rng.normal(size=shape)) for shape in shapes)
    together = jax.jit(jax.vmap(small_step))(W, x, dy)
    for i in range(3):
        np.testing.assert_allclose(together[i], small_step(W[i], x[i], dy[i]), 0, 1e-12)


def test_modules(rng: np.random.Generator) -> None:
    """A bias, parameters in float32 under activations in bfloat16, and the translation of weights."""
    with jax.enable_x64(False):
        layer = conv.Conv2d(Conv2d("conv", 4, 5, SAME, bias=True))
        assert layer.weight[...].shape == (3, 3, 4, 5)
        assert conv.Conv2d(Conv2d("conv", 4, 5, SAME, bias=False)).bias is None
        x, W, b = rng.normal(size=(2, 4, 6, 6)), rng.normal(size=(5, 4, 3, 3)), rng.normal(size=5)
        layer.weight[...] = jnp.asarray(conv.to_internal(W), jnp.float32)
        assert layer.bias is not None
        layer.bias[...] = jnp.asarray(b, jnp.float32)
        truth = reference.conv2d(x, W, b, SAME)[0]
        for dtype in ("float32", "bfloat16"):
            assert_near(layer(jnp.asarray(last(x), dtype), Given()), last(truth), dtype)
    np.testing.assert_array_equal(conv.to_canonical(conv.to_internal(W)), W)
    pooled = conv.MaxPool2d(MaxPool2d("pool", Window((2, 2), (2, 2))))(jnp.asarray(last(x)), Given())
    assert pooled.shape == (2, 3, 3, 4)


def test_shapes_that_do_not_fit() -> None:
    x = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(UserError, match=r"expected x \(B, H, W, C\) .* got x \(2, 4, 4, 3\)"):
        conv.conv2d(x, jnp.zeros((3, 3, 4, 5)), None, SAME)
    with pytest.raises(UserError, match=r"W \(3, 3, C, O\)"):
        conv.conv2d(x, jnp.zeros((5, 5, 3, 5)), None, SAME)
    with pytest.raises(UserError, match="smaller than the kernel"):
        conv.conv2d(x, jnp.zeros((5, 5, 3, 5)), None, Window((5, 5)))
    with pytest.raises(UserError, match=r"max-pool: expected x \(B, H, W, C\), got \(4, 4, 3\)"):
        conv.max_pool2d(x[0], SAME)
    with pytest.raises(UserError, match="smaller than the kernel"):
        conv.max_pool2d(x, Window((5, 5)))
