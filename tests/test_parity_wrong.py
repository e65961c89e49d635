"""Wrong implementations, planted one at a time in the reference: each fails, and where it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from numpy_ref import conv, dense, loss, norm, optim
from parity import check


def biased(variance: np.ndarray, n: int) -> np.ndarray:
    return variance


def without_xhat(dy: np.ndarray, cache: Any) -> Any:
    xhat, inverse, gamma = cache
    axes = (0,) if dy.ndim == 2 else (0, 2, 3)
    dgamma, dbeta = (dy * xhat).sum(axis=axes), dy.sum(axis=axes)
    return gamma * inverse * (dy - dy.mean(axis=axes, keepdims=True)), dgamma, dbeta


def zero_gradients(dy: np.ndarray, cache: Any) -> Any:
    return 0 * dy, 0 * cache[2].reshape(-1), 0 * cache[2].reshape(-1)


def one_pass(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> Any:
    y, (xhat, _, g), mu, _ = ORIGINAL_NORM(x, gamma, beta, eps)
    axes = (0,) if x.ndim == 2 else (0, 2, 3)
    variance = (x * x).mean(axis=axes) - mu * mu
    return y, (xhat, 1 / np.sqrt(np.abs(variance.reshape(g.shape)) + eps).astype(x.dtype), g), mu, variance


def eps_outside_the_root(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> Any:
    axes, along = ((0,), (1, -1)) if x.ndim == 2 else ((0, 2, 3), (1, -1, 1, 1))
    mu = x.mean(axis=axes, keepdims=True)
    variance = np.square(x - mu).mean(axis=axes, keepdims=True)
    inverse = 1 / (np.sqrt(variance) + np.asarray(eps, x.dtype))
    xhat = (x - mu) * inverse
    y = xhat * gamma.reshape(along) + beta.reshape(along)
    return y, (xhat, inverse, gamma.reshape(along)), mu.reshape(-1), variance.reshape(-1)


def tf32(array: np.ndarray) -> np.ndarray:
    """float32 to ten fraction bits."""
    if array.dtype != np.float32:
        return array
    return (array.copy().view(np.uint32) + np.uint32(0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def tie_splitting(dy: np.ndarray, cache: Any) -> np.ndarray:
    """Every maximum of a window gets its share, as a plain `max` has it."""
    dx = np.zeros(cache.image, dy.dtype)
    x, window = POOLED[-1], cache.window
    for b, c, i, j in np.ndindex(dy.shape):
        top, left = (n * s - p for n, s, p in zip((i, j), window.stride, window.padding, strict=True))
        rows = slice(max(top, 0), top + window.kernel[0])
        columns = slice(max(left, 0), left + window.kernel[1])
        held = x[b, c, rows, columns]
        winners = held == held.max()
        dx[b, c, rows, columns] += winners * (dy[b, c, i, j] / winners.sum(dtype=dy.dtype))
    return dx


def remembering_pool(x: np.ndarray, window: Any) -> Any:
    POOLED.append(x)
    return ORIGINAL_POOL(x, window)


def without_bias_correction(theta: Any, g: Any, slots: Any, o: Any, eta: float, t: int) -> None:
    ORIGINAL_UPDATE(theta, g, slots, o, eta, t + 1)


def shifted_labels(s: np.ndarray, t: np.ndarray) -> np.ndarray:
    return (loss.softmax_forward(s) - np.roll(t, 1, axis=0)) / s.dtype.type(len(s))


POOLED: list[np.ndarray] = []
ORIGINAL_NORM, ORIGINAL_POOL, ORIGINAL_UPDATE = norm.batch_norm_forward, conv.max_pool2d_forward, optim.update
ORIGINAL_LINEAR, ORIGINAL_CONV = dense.linear_forward, conv.conv2d_forward

WRONG: dict[str, tuple[str, Any, str, Callable[..., Any], str]] = {
    "biased running variance": ("batch_norm_manual", norm, "unbiased", biased, "running_var"),
    "xhat term missing": ("batch_norm_manual", norm, "batch_norm_backward", without_xhat, "dx"),
    "gradients of zero": ("batch_norm_manual", norm, "batch_norm_backward", zero_gradients, "dx"),
    "one-pass variance": ("batch_norm_manual", norm, "batch_norm_forward", one_pass, "running_var"),
    "eps outside the root": ("batch_norm_manual", norm, "batch_norm_forward", eps_outside_the_root, "y"),
    "TF32 products": (
        "linear",
        dense,
        "linear_forward",
        lambda x, W, b: (ORIGINAL_LINEAR(tf32(x), tf32(W), b)[0], x),
        "y",
    ),
    "TF32 convolution": (
        "conv2d",
        conv,
        "conv2d_forward",
        lambda x, W, b, window: ORIGINAL_CONV(tf32(x), tf32(W), b, window),
        "y",
    ),
    "slope 1 at zero": (
        "leaky_relu",
        dense,
        "leaky_relu_backward",
        lambda dy, x, slope: np.where(x >= 0, dy, slope * dy),
        "dx",
    ),
    "pool splits ties": ("max_pool2d", conv, "max_pool2d_backward", tie_splitting, "dx"),
    "softmax gradient of zero": ("softmax", loss, "softmax_backward", lambda dp, p: 0 * dp, "ds"),
    "1/B missing": (
        "cross_entropy",
        loss,
        "softmax_cross_entropy_backward",
        lambda s, t: loss.softmax_forward(s) - t,
        "ds",
    ),
    "step counted from 2": ("optimizer", optim, "update", without_bias_correction, "theta"),
}


@pytest.mark.parametrize("bug", WRONG)
def test_what_is_wrong_fails(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    item, module, function, replacement, quantity = WRONG[bug]
    if bug == "pool splits ties":
        monkeypatch.setattr(conv, "max_pool2d_forward", remembering_pool)
    monkeypatch.setattr(module, function, replacement)
    failed = [r for r in check.run([item], ["numpy"], ["float32"], quick=True) if not r.passed]
    assert quantity in {r.quantity for r in failed}
    # Far outside the limit, not at its edge.
    assert max(r.share for r in failed) > 100


@pytest.mark.parametrize(
    ("function", "replacement", "quantity"),
    [
        ((dense, "dropout_backward"), lambda dy, keep, rate: dy, "dropout2 dx"),
        ((loss, "targets"), lambda labels, K, smoothing, dtype: np.eye(K, dtype=dtype)[labels], "loss ds"),
        ((loss, "softmax_cross_entropy_backward"), shifted_labels, "loss ds"),
        ((norm, "batch_norm_backward"), without_xhat, "norm1 dx"),
    ],
)
def test_a_wrong_part_of_a_model_is_named(
    function: tuple[Any, str], replacement: Any, quantity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the part itself fails: what follows is judged on what it was given."""
    monkeypatch.setattr(*function, replacement)
    failed = {r.quantity for r in check.run(["model"], ["numpy"], ["float32"], quick=True) if not r.passed}
    part = quantity.split()[0].rstrip("12")
    assert quantity in failed
    assert {name for name in failed if not name.startswith(part)} == set()
