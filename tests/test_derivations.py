"""What docs/derivations.md says beyond the layers' gradients, held to the code and to numbers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from jax_models.cpu import winograd
from numpy_ref import conv, fast, loss, optim
from numpy_ref.dense import LeakyReLU, Linear
from numpy_ref.norm import BatchNorm
from tests.helpers import small
from triptych.describe import layers
from triptych.describe.given import Given
from triptych.describe.init import initial_parameters
from triptych.describe.layers import Window
from triptych.describe.network import Model
from triptych.describe.spec import Initialization, Optimization

Array = np.ndarray


def test_log_sum_exp_and_the_loss_without_log_of_a_probability(rng: np.random.Generator) -> None:
    """Eq. 79 and 80, where the plain form overflows too."""
    s = rng.normal(size=(5, 4))
    t = loss.targets(np.array([0, 1, 2, 3, 0]), 4, 0.1, s.dtype)
    plain = (t * (np.log(np.exp(s).sum(axis=1, keepdims=True)) - s)).sum(axis=1)
    np.testing.assert_allclose(loss.softmax_cross_entropy(s, t), plain, rtol=1e-14)
    np.testing.assert_allclose(loss.softmax_cross_entropy(s + 1e4, t), plain, rtol=1e-11)


def test_label_smoothing(rng: np.random.Generator) -> None:
    """Eq. 81: the two losses and the gradient, which is 0 at x = t."""
    s, y, alpha, K = rng.normal(size=(3, 4)), np.array([2, 0, 3]), 0.3, 4
    t = loss.targets(y, K, alpha, s.dtype)
    x = loss.softmax(s)
    losses = -np.log(x)
    two = (1 - alpha) * losses[np.arange(3), y] + alpha / K * losses.sum(axis=1)
    np.testing.assert_allclose(loss.softmax_cross_entropy(s, t), two, rtol=1e-13)
    gradient = x - (1 - alpha) * np.eye(K)[y] - alpha / K
    np.testing.assert_allclose(3 * loss.softmax_cross_entropy_backward(s, t), gradient, atol=1e-15)
    np.testing.assert_allclose(loss.softmax_cross_entropy_backward(np.log(t), t), 0, atol=1e-16)


def test_winograd_in_one_axis_is_the_identity_of_the_text(rng: np.random.Generator) -> None:
    """Eq. 82 and 83 for the matrices of the code, and the transposed steps of eq. 84."""
    d, w = rng.normal(size=4), rng.normal(size=3)
    A, B, G = winograd.TILED.outputs, winograd.TILED.inputs, winograd.TILED.kernel
    y = np.array([d[:3] @ w, d[1:] @ w])
    np.testing.assert_allclose(A @ ((B @ d) * (G @ w)), y, rtol=1e-12)
    image, W, dy = rng.normal(size=(4, 4)), rng.normal(size=(3, 3)), rng.normal(size=(2, 2))
    dM = A.T @ dy @ A
    dd = B.T @ (dM * (G @ W @ G.T)) @ B
    dW = G.T @ (dM * (B @ image @ B.T)) @ G
    whole = Window((3, 3))
    _, cache = conv.conv2d(image[None, None], W[None, None], None, whole)
    dx, expected, _ = conv.conv2d_backward(dy[None, None], cache, W[None, None])
    assert dx is not None
    np.testing.assert_allclose(dd, dx[0, 0], rtol=1e-12)
    np.testing.assert_allclose(dW, expected[0, 0], rtol=1e-12)


def test_convolutions_two_other_forms_of_the_backward(rng: np.random.Generator) -> None:
    """Eq. 73 and 74 of the text, beside the code."""
    window = Window((3, 3), (1, 1), (1, 1))
    x, W = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(2, 3, 3, 3))
    y, cache = conv.conv2d(x, W, None, window)
    dy = rng.normal(size=y.shape)
    dx, dW, _ = conv.conv2d_backward(dy, cache, W)
    assert dx is not None
    turned = W[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(conv.conv2d(dy, turned, None, window)[0], dx, rtol=1e-12, atol=1e-13)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for k in range(3):
        for l in range(3):
            placed = np.einsum("boij,bcij->oc", dy, padded[:, :, k : k + 5, l : l + 4])
            np.testing.assert_allclose(placed, dW[:, :, k, l], rtol=1e-12, atol=1e-13)


def stepped(gradients: list[float], theta: float, **settings: Any) -> tuple[float, dict[str, Array]]:
    """The parameter and the slots after a step for each gradient."""
    o = Optimization(**settings)
    where, slots = np.array([theta]), {name: np.zeros(1) for name in o.slots}
    for t, g in enumerate(gradients, 1):
        optim.update(where, np.array([g]), slots, o, o.learning_rate, t)
    return float(where[0]), slots


def test_momentum_adds_up_slopes_and_cancels_zigzags() -> None:
    """Eq. 86: the sum of older gradients, its two limits; eq. 87: the step of Nesterov's form."""
    plain = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9}
    g = [0.3, -1.0, 2.0]
    assert stepped(g, 0.0, **plain)[1]["momentum"][0] == pytest.approx(0.81 * 0.3 - 0.9 + 2.0, rel=1e-14)
    assert stepped([1.0] * 400, 0.0, **plain)[1]["momentum"][0] == pytest.approx(1 / (1 - 0.9), rel=1e-12)
    assert stepped([1.0, -1.0] * 200, 0.0, **plain)[1]["momentum"][0] == pytest.approx(-1 / 1.9, rel=1e-12)
    nesterov = stepped([0.3], 0.0, **plain, nesterov=True)[0]
    assert nesterov == pytest.approx(-0.1 * (0.3 + 0.9 * 0.3), rel=1e-14)


def test_adams_bias_correction() -> None:
    """Eq. 88 to 91: with a constant gradient the corrected moments are g and g^2 at every step."""
    settings = {"optimizer": "adam", "learning_rate": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-15}
    for steps in (1, 2, 7):
        theta, slots = stepped([-0.4] * steps, 0.0, **settings)
        assert slots["first_moment"][0] / (1 - 0.9**steps) == pytest.approx(-0.4, rel=1e-12)
        assert slots["second_moment"][0] / (1 - 0.999**steps) == pytest.approx(0.16, rel=1e-12)
        assert theta == pytest.approx(0.1 * steps, rel=1e-12)
    assert (1 - 0.9) / np.sqrt(1 - 0.999) == pytest.approx(3.2, abs=0.05)  # the text's figure


def test_amsgrad_does_not_forget_a_large_gradient() -> None:
    """Eq. 92."""
    settings = {"optimizer": "adam", "learning_rate": 0.1, "beta1": 0.0, "beta2": 0.5}
    plain, largest = (stepped([10.0] + [1.0] * 9, 0.0, **settings, amsgrad=a)[0] for a in (False, True))
    assert abs(largest) < abs(plain) / 2
    slots = stepped([10.0] + [1.0] * 9, 0.0, **settings, amsgrad=True)[1]
    assert slots["largest_second_moment"][0] == pytest.approx(50.0)


def test_decay_coupled_and_decoupled() -> None:
    """Eq. 93 and 94: under a large gradient Adam's decay hardly shows, AdamW's is eta lambda theta."""
    common = {"learning_rate": 0.01, "weight_decay": 0.1}
    without = stepped([1e3], 2.0, optimizer="adam", learning_rate=0.01)[0]
    coupled = stepped([1e3], 2.0, optimizer="adam", **common)[0]
    decoupled = stepped([1e3], 2.0, optimizer="adamw", **common)[0]
    assert abs(coupled - without) < 1e-9
    assert decoupled - without == pytest.approx(-0.01 * 0.1 * 2.0, rel=1e-9)
    shrunk = stepped([0.0], 2.0, optimizer="sgd", **common)[0]
    assert shrunk == pytest.approx((1 - 0.001) * 2.0, rel=1e-14)


@pytest.mark.parametrize("kind", ["he", "glorot"])
def test_initial_values_keep_the_variance(kind: Literal["he", "glorot"]) -> None:
    """Eq. 96 and 97: the drawn weights have the variance of the formula."""
    experiment = small.experiment(
        model=Model(hidden=(100,), slope=0.3), initialization=Initialization(init=kind)
    )
    W = initial_parameters(experiment)["linear1.weight"]
    n_out, n_in = W.shape
    expected = 2 / ((1 + 0.3**2) * n_in) if kind == "he" else 2 / (n_in + n_out)
    # The variance of n draws scatters by sqrt(2/n) at most: 5 of those.
    assert W.var() == pytest.approx(expected, rel=5 * np.sqrt(2 / W.size))


def test_what_layers_keep_is_what_the_table_says() -> None:
    """Numbers kept per batch, for each row that our reference keeps as the table has it."""
    B, d = 6, 5
    x = np.ones((B, d), np.float32) + np.arange(B, dtype=np.float32)[:, None]
    given: Given[Array] = Given()
    theta = {"weight": np.ones((3, d), np.float32), "bias": np.ones(3, np.float32)}
    _, kept = Linear(layers.Linear("l", d, 3)).forward(x, theta, given)
    assert kept.size == B * d
    _, kept = LeakyReLU(layers.LeakyReLU("l", 0.1)).forward(x, {}, given)
    assert kept.size == B * d
    scale = {"gamma": np.ones(d, np.float32), "beta": np.ones(d, np.float32)}
    _, kept = BatchNorm(layers.BatchNorm("l", d, 1e-5, 0.1, True)).forward(x, scale, given)
    assert sum(array.size for array in kept) == B * d + 2 * d
    images, W = np.ones((2, 3, 8, 6), np.float32), np.ones((4, 3, 3, 3), np.float32)
    _, patches = fast.conv2d(images, W, None, Window((3, 3), (1, 1), (1, 1)))
    assert patches.patches.size == 2 * 8 * 6 * 3 * 3 * 3
    _, pooled = fast.max_pool2d(images, Window((2, 2), (2, 2)))
    assert pooled.first.nbytes == 2 * 4 * 3 * 3
