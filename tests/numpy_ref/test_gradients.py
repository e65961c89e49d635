"""Every hand-written backward in float64 against central differences, each element of each input.

Upstream gradients are random; exact zeros, where a difference quotient means nothing, are planted and
compared with the derivative that the equations give there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from numpy_ref import conv, dense, loss, norm
from numpy_ref.model import Network
from tests.helpers import small
from triptych.describe.init import initial_parameters
from triptych.describe.layers import Window
from triptych.describe.network import Model

Function = Callable[..., Any]
H = 1e-6
# Central differences: truncation about H^2 = 1e-12, rounding about u / H = 1e-10, of values of order 1.
LIMIT = 1e-8


def numeric(f: Callable[[np.ndarray], float], x: np.ndarray) -> np.ndarray:
    """df/dx by central differences, one element at a time."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + H
        above = f(x)
        x[i] = kept - H
        gradient[i] = (above - f(x)) / (2 * H)
        x[i] = kept
    return gradient


def assert_close(hand: np.ndarray, truth: np.ndarray) -> None:
    assert hand.shape == truth.shape
    worst = np.abs(hand - truth).max() / max(1.0, np.abs(truth).max())
    print(f"maximum relative error {worst:.1e} over {truth.size} elements")  # shown by pytest -rP
    assert worst < LIMIT, f"worst relative error {worst:.2e}"


Shapes = list[tuple[int, ...]]
WINDOWS = [
    Window((3, 3), (1, 1), (1, 1)),  # the study's convolutions
    Window((3, 3), (2, 2), (1, 1)),  # the study's pools
    Window((2, 3), (1, 2), (1, 0)),
    Window((5, 3), (3, 2), (2, 1)),  # leaves rows and columns that no window reaches
    Window((2, 2), (3, 3)),
]
KEEP = np.random.default_rng(1).random((6, 5)) > 0.3


def leaky_relu(slope: float) -> tuple[Function, Function, Shapes]:
    return (
        lambda x: dense.leaky_relu(x, slope)[0],
        lambda dy, x: [dense.leaky_relu_backward(dy, x, slope)],
        [(6, 5)],
    )


def batch_norm(shape: tuple[int, ...]) -> tuple[Function, Function, Shapes]:
    return (
        lambda x, gamma, beta: norm.batch_norm(x, gamma, beta, 1e-5)[0],
        lambda dy, x, gamma, beta: norm.batch_norm_backward(dy, norm.batch_norm(x, gamma, beta, 1e-5)[1]),
        [shape, shape[1:2], shape[1:2]],
    )


def conv2d(window: Window) -> tuple[Function, Function, Shapes]:
    return (
        lambda x, W, b: conv.conv2d(x, W, b, window)[0],
        lambda dy, x, W, b: conv.conv2d_backward(dy, conv.conv2d(x, W, b, window)[1], W),
        [(2, 3, 5, 6), (4, 3, *window.kernel), (4,)],
    )


def max_pool2d(window: Window) -> tuple[Function, Function, Shapes]:
    return (
        lambda x: conv.max_pool2d(x, window)[0],
        lambda dy, x: [conv.max_pool2d_backward(dy, conv.max_pool2d(x, window)[1])],
        [(2, 3, 5, 6)],
    )


def per_sample(kind: str, smoothing: float) -> tuple[Function, Function, Shapes]:
    """With an upstream of ones: its backward is that of the mean."""
    labels = np.array([0, 9, 4, 4, 7], np.uint8)
    return (
        lambda s: loss.per_sample(kind, s, labels, smoothing).mean(),
        lambda _, s: [loss.per_sample_backward(kind, s, labels, smoothing)],
        [(5, 10)],
    )


LAYERS: dict[str, tuple[Function, Function, Shapes]] = {
    "linear": (
        lambda x, W, b: dense.linear(x, W, b)[0],
        lambda dy, x, W, b: dense.linear_backward(dy, x, W),
        [(5, 4), (3, 4), (3,)],
    ),
    "dropout": (
        lambda x: dense.dropout(x, KEEP, 0.3),
        lambda dy, x: [dense.dropout_backward(dy, KEEP, 0.3)],
        [(6, 5)],
    ),
    "softmax": (loss.softmax, lambda dp, s: [loss.softmax_backward(dp, loss.softmax(s))], [(4, 10)]),
    **{f"leaky_relu {slope}": leaky_relu(slope) for slope in (0.0, 0.02, 1.7)},
    **{f"batch_norm {s}": batch_norm(s) for s in ((6, 4), (2, 3), (3, 4, 2, 5), (1, 2, 3, 3))},
    **{f"conv2d {window}": conv2d(window) for window in WINDOWS},
    **{f"max_pool2d {window}": max_pool2d(window) for window in WINDOWS},
    **{f"{kind} {a}": per_sample(kind, a) for kind in ("cross_entropy", "squared_error", "hinge")
       for a in (0.0, 0.2)},
}  # fmt: skip
"""Forward, backward to a gradient for each argument, and the arguments' shapes."""


@pytest.mark.parametrize("name", LAYERS)
def test_backward_against_differences(name: str, rng: np.random.Generator) -> None:
    forward, backward, shapes = LAYERS[name]
    arrays = [rng.normal(size=shape) for shape in shapes]
    y = forward(*arrays)
    dy = rng.normal(size=y.shape) if y.ndim else np.ones(())
    for array, gradient in zip(arrays, backward(dy, *arrays), strict=True):
        assert_close(gradient, numeric(lambda _: float((forward(*arrays) * dy).sum()), array))


@pytest.mark.parametrize("shape", [(6, 4), (2, 3), (3, 4, 2, 5), (1, 2, 3, 3)])
def test_batch_norm_staged_is_the_simplified_one(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    """A constant channel and a gamma of 0 included; 1/sqrt(eps) = 316 amplifies rounding there."""
    x, dy, gamma = rng.normal(1, 2, shape), rng.normal(size=shape), rng.normal(size=shape[1])
    x[:, 0], gamma[1] = 0.7, 0.0
    _, cache, _, _ = norm.batch_norm(x, gamma, gamma, 1e-5)
    staged = norm.batch_norm_staged_backward(dy, x, gamma, 1e-5)
    dx = norm.batch_norm_backward(dy, cache)[0]  # eq. 63
    for a, b in ((staged[61], dx), (staged[62], dx), (staged[53], staged[58])):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_each_stage_of_batch_norm_against_differences(rng: np.random.Generator) -> None:
    """Eq. 51 to 60 as derivatives of one step of the forward pass, the other variables held still."""
    x, dy, gamma = rng.normal(1, 2, (6, 3)), rng.normal(size=(6, 3)), rng.normal(size=3)
    staged = norm.batch_norm_staged_backward(dy, x, gamma, 0.1)
    mu, variance = x.mean(axis=0), x.var(axis=0)

    def normalized(x: np.ndarray, mu: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return (x - mu) / np.sqrt(variance + 0.1)

    def loss_by(mu: np.ndarray, variance: np.ndarray) -> float:
        return float((gamma * dy * normalized(x, mu, variance)).sum())

    def spread(mu: np.ndarray) -> np.ndarray:
        return np.square(x - mu).mean(axis=0)

    def summed(f: Function) -> Callable[[np.ndarray], float]:
        return lambda a: float(f(a).sum())

    xhat = normalized(x, mu, variance)
    rows = {
        51: numeric(lambda h: float((dy * gamma * h).sum()), xhat),
        52: numeric(summed(lambda x: normalized(x, mu, variance)), x.copy())[:1],
        53: numeric(lambda mu: loss_by(mu, spread(mu)), mu.copy())[None],
        54: numeric(summed(lambda mu: normalized(x, mu, variance)), mu.copy())[None] / 6,
        55: numeric(summed(spread), mu.copy())[None],
        56: numeric(lambda v: loss_by(mu, v), variance.copy())[None],
        57: numeric(summed(lambda v: normalized(x, mu, v)), np.broadcast_to(variance, x.shape).copy()),
        58: numeric(lambda mu: loss_by(mu, variance), mu.copy())[None],
        59: numeric(summed(lambda x: x.mean(axis=0)), x.copy())[:1],
        60: numeric(summed(lambda x: x.var(axis=0)), x.copy()),
    }
    for number, expected in rows.items():
        assert staged[number].shape == expected.shape, number
        assert_close(staged[number], expected)


def test_linear_is_the_matrix_of_the_derivation() -> None:
    """dx~_i/dW_jk = [i = j] x_k (eq. 30-32) and dx~/db = I (eq. 33-35), entry by entry."""
    x, W = np.array([[2.0, -3.0]]), np.zeros((3, 2))
    for i in range(3):
        dy = np.eye(3)[[i]]
        dx, dW, db = dense.linear_backward(dy, x, W, need_dx=False)
        expected = np.zeros((3, 2))
        expected[i] = x
        assert dx is None
        np.testing.assert_array_equal(dW, expected)
        np.testing.assert_array_equal(db, np.eye(3)[i])


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_leaky_relu_uses_the_slope_at_exactly_zero(rng: np.random.Generator, zero: float) -> None:
    dy = rng.normal(size=(3, 3))
    dx = dense.leaky_relu_backward(dy, np.full((3, 3), zero), 0.02)
    np.testing.assert_array_equal(dx, 0.02 * dy)


def test_dropout(rng: np.random.Generator) -> None:
    x = rng.normal(size=(6, 5))
    np.testing.assert_allclose(dense.dropout(x, KEEP, 0.3), np.where(KEEP, x / 0.7, 0), rtol=1e-15)


def test_softmax_jacobian_is_the_reports() -> None:
    """diag(x) - x x^T (eq. 18), formed whole."""
    p = loss.softmax(np.array([[0.3, -1.2, 2.0]]))
    jacobian = np.concatenate([loss.softmax_backward(np.eye(3)[[i]], p) for i in range(3)])
    np.testing.assert_allclose(jacobian, np.diag(p[0]) - np.outer(p[0], p[0]), atol=1e-16)


def test_softmax_stands_huge_logits() -> None:
    p = loss.softmax(np.array([[1e4, 0.0, -1e4]]))
    np.testing.assert_array_equal(p, [[1.0, 0.0, 0.0]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_alone(rng: np.random.Generator, smoothing: float) -> None:
    p = loss.softmax(rng.normal(size=(4, 10)))
    t = loss.targets(np.array([3, 0, 9, 3]), 10, smoothing, p.dtype)
    gradient = loss.cross_entropy_backward(p, t)
    assert_close(gradient, numeric(lambda p: float(loss.cross_entropy(p, t).mean()), p))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fused_and_separate_softmax_cross_entropy_agree(rng: np.random.Generator, smoothing: float) -> None:
    s = 3 * rng.normal(size=(7, 10))
    t = loss.targets(rng.integers(0, 10, 7), 10, smoothing, s.dtype)
    p = loss.softmax(s)
    separate = loss.softmax_backward(loss.cross_entropy_backward(p, t), p)
    np.testing.assert_allclose(loss.softmax_cross_entropy_backward(s, t), separate, rtol=0, atol=1e-15)
    np.testing.assert_allclose(loss.softmax_cross_entropy(s, t), loss.cross_entropy(p, t), rtol=1e-13)


def test_fused_gradient_is_p_minus_t_over_batch() -> None:
    """Eq. 36 with eq. 45-46, on numbers worked by hand: two classes, logits 0 and log 3."""
    s, t = np.log([[1.0, 3.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(loss.softmax_cross_entropy(s, t), [np.log(4), np.log(2)])
    expected = np.array([[0.25 - 1, 0.75], [0.5, 0.5 - 1]]) / 2
    np.testing.assert_allclose(loss.softmax_cross_entropy_backward(s, t), expected, atol=1e-16)


def test_fused_loss_stays_finite_where_the_separate_one_overflows() -> None:
    s, t = np.array([[2000.0, 0.0]]), np.array([[0.0, 1.0]])
    np.testing.assert_array_equal(loss.softmax_cross_entropy(s, t), [2000.0])
    np.testing.assert_array_equal(loss.softmax_cross_entropy_backward(s, t), [[1.0, -1.0]])


def test_hinge_margin_of_exactly_zero_has_no_gradient() -> None:
    s, labels = np.array([[2.0, 1.0, 1.5]]), np.array([0])
    np.testing.assert_allclose(loss.hinge(s, labels), [0.5 / 3])
    np.testing.assert_allclose(loss.hinge_backward(s, labels), np.array([[-1.0, 0.0, 1.0]]) / 3)


def test_l2(rng: np.random.Generator) -> None:
    W, V = rng.normal(size=(3, 4)), rng.normal(size=(2, 3))
    assert_close(loss.l2_penalty_backward(W, 0.3), numeric(lambda W: loss.l2_penalty([W, V], 0.3), W))


@pytest.mark.parametrize("batch_norm", ["none", "manual"])
@pytest.mark.parametrize("hidden", [(), (5,), (6, 4, 3)])
def test_whole_network(rng: np.random.Generator, hidden: tuple[int, ...], batch_norm: Any) -> None:
    """Every parameter of a network with dropout, through the loss, and the planted kink left out."""
    dropout = 0.3 if hidden else 0.0
    spec = small.experiment(model=Model(hidden, slope=0.1, dropout=dropout, batch_norm=batch_norm))
    parameters = {name: array * 0.2 for name, array in initial_parameters(spec).items()}
    network = Network(spec.layers(), parameters)
    x, labels = rng.normal(size=(4, 3, 32, 32)), np.array([1, 5, 5, 0])
    masks = {f"dropout{i + 1}": rng.random((4, n)) > 0.3 for i, n in enumerate(hidden)}

    def value(_: np.ndarray) -> float:
        return float(loss.per_sample("cross_entropy", network.forward(x, masks)[0], labels).mean())

    logits, cache = network.forward(x, masks)
    gradients = network.backward(loss.per_sample_backward("cross_entropy", logits, labels), cache)
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        theta = network.parameters[name]
        # The first weight matrix has thousands of elements; every 37th of them stands for the rest.
        stride = 37 if theta.size > 1000 else 1
        flat, picked = theta.reshape(-1), np.arange(0, theta.size, stride)

        def of(values: np.ndarray, flat: np.ndarray = flat, picked: np.ndarray = picked) -> float:
            kept = flat[picked]
            flat[picked] = values
            result = value(flat)
            flat[picked] = kept
            return result

        assert_close(gradient.reshape(-1)[picked], numeric(of, flat[picked].copy()))
