"""The numbers that the sessions let students work out by hand."""

from __future__ import annotations

import numpy as np

from numpy_ref import conv, dense, loss, norm, optim
from triptych.describe.layers import Window
from triptych.describe.spec import Optimization


def test_session_1() -> None:
    s, t = np.log([[1.0, 2.0, 5.0]]), np.array([[0.0, 1.0, 0.0]])
    assert round(float(loss.softmax_cross_entropy(s, t)[0]), 3) == 1.386
    np.testing.assert_allclose(loss.softmax_cross_entropy_backward(s, t), [[1 / 8, -6 / 8, 5 / 8]])
    row = loss.softmax_backward(np.array([[1.0, 0.0, 0.0]]), loss.softmax(s))
    np.testing.assert_allclose(row, [[7 / 64, -2 / 64, -5 / 64]])


def test_session_2() -> None:
    x, W, g = np.array([[3.0, -1.0]]), np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([[2.0, -1.0]])
    np.testing.assert_array_equal(dense.linear(x, W, np.array([0.0, 1.0]))[0], [[1, 2]])
    dx, dW, _ = dense.linear_backward(g, x, W)
    np.testing.assert_array_equal(dx, [[2, 5]])
    np.testing.assert_array_equal(dW, [[6, -2], [-3, 1]])
    at_zero, _ = dense.linear(x, W, np.array([0.0, -1.0]))
    np.testing.assert_allclose(dense.leaky_relu_backward(g, at_zero, 0.1), [[2, -0.1]])


def test_session_3() -> None:
    x, dy = np.array([[1.0], [1.0], [3.0], [3.0]]), np.array([[1.0], [0.0], [0.0], [0.0]])
    # An eps of 1e-12 moves each number by about as much.
    staged = norm.batch_norm_staged_backward(dy, x, np.ones(1), 1e-12)
    np.testing.assert_allclose(staged[61][:, 0], [0.5, -0.5, 0, 0], atol=1e-11)
    np.testing.assert_allclose([staged[58].item(), staged[56].item()], [-1, 0.5], rtol=1e-11)


def test_session_4() -> None:
    x, w, dy = np.array([1.0, 2.0, 0.0, -1.0]), np.array([1.0, -1.0, 2.0]), np.array([1.0, 10.0])
    y, cache = conv.conv2d(x[None, None, None], w[None, None, None], None, Window((1, 3)))
    dx, dW, _ = conv.conv2d_backward(dy[None, None, None], cache, w[None, None, None])
    assert dx is not None
    np.testing.assert_array_equal(y.ravel(), [-1, 0])
    np.testing.assert_array_equal(dW.ravel(), [21, 2, -10])
    np.testing.assert_array_equal(dx.ravel(), [1, 9, -8, 20])
    y, pooled = conv.max_pool2d(np.array([[[[3.0, 3.0, 0.0, 5.0]]]]), Window((1, 2), (1, 2)))
    np.testing.assert_array_equal(
        conv.max_pool2d_backward(dy[None, None, None], pooled).ravel(), [1, 0, 0, 10]
    )


def test_session_5() -> None:
    def walk(**settings: object) -> list[float]:
        o = Optimization(learning_rate=0.1, **settings)  # type: ignore[arg-type]
        theta, slots, seen = np.ones(1), {name: np.zeros(1) for name in o.slots}, []
        for t in (1, 2):
            optim.update(theta, np.array([4.0]), slots, o, 0.1, t)
            seen.append(float(theta[0]))
        return seen

    np.testing.assert_allclose(walk(), [0.6, 0.2], atol=1e-15)
    np.testing.assert_allclose(walk(momentum=0.5), [0.6, 0.0], atol=1e-15)
    np.testing.assert_allclose(walk(optimizer="adam", beta2=0.99, epsilon=1e-15), [0.9, 0.8], rtol=1e-13)


def test_session_6() -> None:
    runs = np.array([0.44, 0.46, 0.45, 0.49])
    np.testing.assert_allclose([runs.mean(), runs.std(ddof=1)], [0.46, 0.0216], rtol=2e-4)
    np.testing.assert_allclose(runs.std(ddof=1) / 2, 0.0108, rtol=2e-4)
