"""Convolution and max-pooling by hand: central differences, torch's operations, special points."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional

from numpy_ref import conv, fast
from tests.numpy_ref.test_gradients import assert_close, numeric
from triptych.describe.layers import Window
from triptych.errors import UserError

WINDOWS = [
    Window((3, 3), (1, 1), (1, 1)),  # the study's convolutions
    Window((3, 3), (2, 2), (1, 1)),  # the study's pools
    Window((1, 1)),
    Window((2, 2), (2, 2)),
    Window((2, 3), (1, 2), (1, 0)),
    Window((5, 3), (3, 2), (2, 1)),  # leaves rows and columns that no window reaches
    Window((2, 2), (3, 3)),
]
SIZES = [(5, 6), (7, 4), (5, 5)]


def images(rng: np.random.Generator, size: tuple[int, int], batch: int = 2) -> np.ndarray:
    """Random values with a constant channel and exact zeros: ties in every window, zero patches."""
    x = rng.normal(size=(batch, 3, *size))
    x[0, 0] = 0.5
    x[:, 1, 1:3, 1:3] = 0.0
    return x


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolution_against_differences(rng: np.random.Generator, window: Window) -> None:
    x, W, b = images(rng, (5, 6)), rng.normal(size=(4, 3, *window.kernel)), rng.normal(size=4)
    W[1] = 0.0
    y, cache = conv.conv2d(x, W, b, window)
    dy = rng.normal(size=y.shape)
    dx, dW, db = conv.conv2d_backward(dy, cache, W)
    assert dx is not None
    assert_close(dx, numeric(lambda x: float((conv.conv2d(x, W, b, window)[0] * dy).sum()), x))
    assert_close(dW, numeric(lambda W: float((conv.conv2d(x, W, b, window)[0] * dy).sum()), W))
    assert_close(db, numeric(lambda b: float((conv.conv2d(x, W, b, window)[0] * dy).sum()), b))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pooling_against_differences(rng: np.random.Generator, window: Window) -> None:
    """Distinct values, far enough apart: at a tie a difference quotient means nothing."""
    x = rng.permutation(2 * 3 * 5 * 6).reshape(2, 3, 5, 6) / 10.0
    y, cache = conv.max_pool2d(x, window)
    dy = rng.normal(size=y.shape)
    dx = conv.max_pool2d_backward(dy, cache)
    assert_close(dx, numeric(lambda x: float((conv.max_pool2d(x, window)[0] * dy).sum()), x))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolution_is_torchs(
    rng: np.random.Generator, window: Window, size: tuple[int, int], channels_last: bool
) -> None:
    """Any memory layout of x, W and dy; with and without bias and dx."""
    arrays = [images(rng, size), rng.normal(size=(4, 3, *window.kernel)), rng.normal(size=4)]
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    theirs = functional.conv2d(leaves[0], leaves[1], leaves[2], window.stride, window.padding)
    dy = rng.normal(size=theirs.shape)
    gradients = torch.autograd.grad(theirs, leaves, torch.tensor(dy))
    x, W, b = arrays
    if channels_last:
        x, W, dy = (fast.channels_last(array) for array in (x, W, dy))
    y, cache = conv.conv2d(x, W, b, window)
    np.testing.assert_allclose(y, theirs.detach().numpy(), atol=1e-13)
    for ours, other in zip(conv.conv2d_backward(dy, cache, W), gradients, strict=True):
        assert ours is not None
        np.testing.assert_allclose(ours, other.numpy(), atol=1e-13)
    plain, cache = conv.conv2d(x, W, None, window)
    np.testing.assert_allclose(plain + b[:, None, None], y, atol=1e-13)
    assert conv.conv2d_backward(dy, cache, W, need_dx=False)[0] is None


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pooling_is_torchs_at_ties_too(
    rng: np.random.Generator, window: Window, size: tuple[int, int]
) -> None:
    """Few distinct values tie in most windows; windows of -inf alone and of NaN are planted. Exactly equal
    but for the order in which overlapping windows add up.
    """
    x = rng.integers(-1, 2, (3, 3, *size)).astype(float)
    x[0, 0], x[1, 1], x[2, 2, 1, 1] = -np.inf, 0.0, np.nan
    leaf = torch.tensor(x, requires_grad=True)
    theirs = functional.max_pool2d(leaf, window.kernel, window.stride, window.padding)
    dy = rng.normal(size=theirs.shape)
    (gradient,) = torch.autograd.grad(theirs, [leaf], torch.tensor(dy))
    y, cache = conv.max_pool2d(x, window)
    np.testing.assert_array_equal(y, theirs.detach().numpy())
    np.testing.assert_allclose(conv.max_pool2d_backward(dy, cache), gradient.numpy(), atol=1e-15)


def test_a_tie_goes_to_the_first_in_reading_order() -> None:
    """Four equal values under overlapping windows: each window's gradient lands once, on its first."""
    x = np.zeros((1, 1, 3, 3))
    x[0, 0, :2, 1:] = 7.0
    y, cache = conv.max_pool2d(x, Window((2, 2)))
    np.testing.assert_array_equal(y[0, 0], [[7.0, 7.0], [7.0, 7.0]])
    dx = conv.max_pool2d_backward(np.array([[[[1.0, 10.0], [100.0, 1000.0]]]]), cache)
    np.testing.assert_array_equal(dx[0, 0], [[0.0, 11.0, 0.0], [0.0, 1100.0, 0.0], [0.0, 0.0, 0.0]])


def test_padding_never_wins() -> None:
    """All values below 0, the padding of other conventions."""
    x = -np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    y, cache = conv.max_pool2d(x, Window((3, 3), (2, 2), (1, 1)))
    np.testing.assert_array_equal(y[0, 0], [[-1.0, -2.0], [-4.0, -5.0]])
    assert conv.max_pool2d_backward(np.ones_like(y), cache).sum() == 4


def test_what_does_not_fit_is_refused() -> None:
    x, W = np.ones((2, 3, 5, 5)), np.ones((4, 3, 3, 3))
    for wrong_x, wrong_W, window, message in (
        (x[:, :2], W, WINDOWS[0], "got x (2, 2, 5, 5) and W (4, 3, 3, 3)"),
        (x[0], W, WINDOWS[0], "expected x (B, C, H, W)"),
        (x, W, Window((5, 5)), "W (O, C, 5, 5)"),
        (x[:, :, :2], W, Window((3, 3)), "an image of 2x5 with padding (0, 0) is smaller than the kernel"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            conv.conv2d(wrong_x, wrong_W, None, window)
    with pytest.raises(UserError, match="max-pool"):
        conv.max_pool2d(x[0], WINDOWS[1])
    zero, one = (0, 0), (1, 1)
    for kernel, stride, padding in (((0, 3), one, zero), ((3, 3), (0, 1), zero), ((3, 3), one, (2, 0))):
        with pytest.raises(UserError, match="window: expected kernel and stride of at least 1"):
            Window(kernel, stride, padding)
