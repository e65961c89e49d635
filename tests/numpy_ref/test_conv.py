"""Max-pooling by hand at special points, and what is refused; `parity check` judges the rest."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional

from numpy_ref import conv
from triptych.describe.layers import Window
from triptych.errors import UserError

WINDOWS = [
    Window((3, 3), (1, 1), (1, 1)),  # the study's convolutions
    Window((3, 3), (2, 2), (1, 1)),  # the study's pools
    Window((2, 3), (1, 2), (1, 0)),
    Window((5, 3), (3, 2), (2, 1)),  # leaves rows and columns that no window reaches
    Window((2, 2), (3, 3)),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pooling_is_torchs_at_ties_too(rng: np.random.Generator, window: Window) -> None:
    """Few distinct values tie in most windows; windows of -inf alone and of NaN are planted. Exactly equal
    but for the order in which overlapping windows add up.
    """
    x = rng.integers(-1, 2, (3, 3, 7, 4)).astype(float)
    x[0, 0], x[1, 1], x[2, 2, 1, 1] = -np.inf, 0.0, np.nan
    leaf = torch.tensor(x, requires_grad=True)
    theirs = functional.max_pool2d(leaf, window.kernel, window.stride, window.padding)
    dy = rng.normal(size=theirs.shape)
    (gradient,) = torch.autograd.grad(theirs, [leaf], torch.tensor(dy))
    y, cache = conv.max_pool2d(x, window)
    np.testing.assert_array_equal(y, theirs.detach().numpy())
    np.testing.assert_allclose(conv.max_pool2d_backward(dy, cache), gradient.numpy(), atol=1e-15)


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
