"""Bounds of inputs that carry errors: whatever lies within it leads to what lies within the result's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from numpy_ref import conv, dense, norm
from parity.bounds.bounded import Bounded
from parity.bounds.rounding import ROUNDINGS, rounding
from parity.suite import conv as conv_suite
from parity.suite import dense as dense_suite
from parity.suite import loss as loss_suite
from parity.suite import norm as norm_suite
from parity.suite import pool as pool_suite
from parity.suite.network import evaluated
from parity.suite.operator import Held
from triptych.describe.layers import LeakyReLU, Window

SINGLE = rounding("float32")


def single(array: object) -> np.ndarray:
    return np.asarray(array, np.float32)


def carrying(rng: np.random.Generator, *shape: int, error: float = 1e-3) -> Bounded:
    value = rng.normal(size=shape).astype(np.float32).astype(np.float64)
    return Bounded(value, error * rng.random(shape), SINGLE)


def inside(b: Bounded, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """float32 arrays within the error: both ends, mixtures of them, and the value itself."""
    for sign in (-1, 0, 1):
        yield single(b.value + sign * 0.999 * b.error)
    for _ in range(20):
        yield single(b.value + 0.999 * b.error * rng.choice([-1, 1], b.shape))


def test_exp_of_a_large_error_is_neither_nan_nor_too_small() -> None:
    a = Bounded(np.array([-4e9, -50.0, 0.0, -np.inf]), np.array([240.0, 60.0, 3.0, np.inf]), SINGLE)
    found = a.exp()
    assert np.isfinite(found.error).all()
    assert found.error[0] < 1e-37
    for shift in np.linspace(-1, 1, 9):
        moved = np.exp(a.value[:3] + shift * a.error[:3])
        assert (np.abs(moved - found.value[:3]) <= found.error[:3]).all()


def test_log_of_what_is_at_least_one() -> None:
    a = Bounded(np.array([2.0, 2.0, 40.0]), np.array([5.0, 0.5, 39.5]), SINGLE)
    assert np.isinf(a.log().error[0])
    found = a.log(least=1.0)
    for share in np.linspace(-1, 1, 41):
        moved = np.log(np.maximum(a.value + share * a.error, 1.0))
        assert (np.abs(moved - found.value) <= found.error).all()
    # Not wider than it must be: a quarter more reaches beyond.
    assert found.error[0] < 1.25 * np.log(3.5)


def test_a_convolution_of_one_pixel_is_a_product(rng: np.random.Generator) -> None:
    x, W, b = carrying(rng, 4, 9), carrying(rng, 3, 9), carrying(rng, 3)
    window = Window((1, 1))
    found, biased = (
        conv_suite.convolved(x.reshape(4, 9, 1, 1), W.reshape(3, 9, 1, 1), bias, window).reshape(4, 3)
        for bias in (None, b)
    )
    product = x @ W.T
    np.testing.assert_allclose(found.value, product.value, rtol=1e-14)
    np.testing.assert_allclose(found.error, product.error, rtol=1e-12)
    np.testing.assert_allclose(biased.value, product.value + b.value, rtol=1e-14, atol=1e-15)
    assert (biased.error > product.error + b.error).all()


STUDY, POOL = Window((3, 3), (1, 1), (1, 1)), Window((3, 3), (2, 2), (1, 1))
GAMMA, BETA = np.array([1.3, -0.4, 0.0]), np.array([0.2, 0.0, -1.0])


def fixed(array: np.ndarray) -> Bounded:
    return Bounded.exact(single(array), SINGLE)


@pytest.mark.parametrize(
    "name", ["affine", "convolved", "pooled", "rectified", "by_batch", "by_running", "loss"]
)
def test_what_lies_within_leads_within(name: str, rng: np.random.Generator) -> None:
    W, b, K = rng.normal(size=(4, 9)), rng.normal(size=4), rng.normal(size=(2, 3, 3, 3))
    labels = np.array([0, 3, 2, 1, 0, 1])
    mean, variance = rng.normal(size=3), rng.random(3)
    kernel, offset = single(K), single(b[:2])
    g, beta = single(GAMMA), single(BETA)
    cases: dict[str, tuple[Bounded, Callable[[Bounded], Bounded], Callable[[np.ndarray], np.ndarray]]] = {
        "affine": (
            carrying(rng, 6, 9),
            lambda x: dense_suite.affine(x, fixed(W), fixed(b)),
            lambda x: dense.linear(x, single(W), single(b))[0],
        ),
        "convolved": (
            carrying(rng, 2, 3, 5, 4),
            lambda x: conv_suite.convolved(x, fixed(K), fixed(b[:2]), STUDY),
            lambda x: conv.conv2d(x, kernel, offset, STUDY)[0],
        ),
        "pooled": (
            carrying(rng, 2, 3, 5, 6, error=0.5),
            lambda x: pool_suite.pooled(x, POOL),
            lambda x: conv.max_pool2d(x, POOL)[0],
        ),
        "rectified": (
            carrying(rng, 40, 5, error=0.5),
            lambda x: evaluated(LeakyReLU("", 1.7), {}, x),
            lambda x: dense.leaky_relu(x, 1.7)[0],
        ),
        "by_batch": (
            carrying(rng, 12, 3),
            lambda x: norm_suite.by_batch(x, fixed(GAMMA), fixed(BETA), 1e-5),
            lambda x: norm.batch_norm(x, g, beta, 1e-5)[0],
        ),
        "by_running": (
            carrying(rng, 12, 3),
            lambda x: norm_suite.by_running(
                x, fixed(GAMMA), fixed(BETA), fixed(mean), fixed(variance), 1e-5
            ),
            lambda x: norm.normalize(x, g, beta, single(mean), single(variance), 1e-5),
        ),
        "loss": (
            carrying(rng, 6, 4, error=0.3),
            lambda s: loss_suite.cross_entropies(s, labels, 0.0),
            lambda s: -np.log(np.exp(s - s.max(1, keepdims=True)) / np.exp(
                s - s.max(1, keepdims=True)).sum(1, keepdims=True))[np.arange(6), labels],
        ),
    }  # fmt: skip
    x, truth, compute = cases[name]
    bound = truth(x)
    assert np.isfinite(bound.error).all()
    used = 0.0
    for actual in inside(x, rng):
        share = np.abs(compute(actual).astype(np.float64) - bound.value) / bound.error
        used = max(used, float(np.nanmax(share)))
    # Within, and not so wide that nothing comes near.
    assert 0.05 < used <= 1


def test_a_bias_of_a_bfloat16_layer_may_be_rounded_or_not() -> None:
    half, b = ROUNDINGS["bfloat16"], np.array([0.1, 0.5, -3.14159])
    found = Held({"bias": b}, half).bias()
    for held in (single(b), half.nearest(b)):
        assert (np.abs(held - found.value) <= found.error).all()
    assert found.error[1] == 0
