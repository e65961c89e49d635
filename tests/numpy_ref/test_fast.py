"""What trains against the plain forms: bit for bit, or within bounds where sums run in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numpy_ref import conv, dense, fast, optim
from triptych.describe.layers import Window
from triptych.describe.spec import Optimization

DTYPES = ["float64", "float32"]
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf]
WINDOWS = [
    Window((3, 3), (1, 1), (1, 1)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((2, 3), (2, 1), (1, 0)),
    Window((1, 1), (3, 3)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("slope", [0.0, 0.02, 1.7])
def test_leaky_relu_is_the_same(rng: np.random.Generator, slope: float, dtype: str) -> None:
    x, dy = rng.normal(size=(2, 40, 6)).astype(dtype)
    special = SPECIAL if slope else SPECIAL[:2]  # 0 times infinity is nothing to compare
    x[0, : len(special)] = special
    np.testing.assert_array_equal(fast.leaky_relu(x, slope)[0], dense.leaky_relu(x, slope)[0], strict=True)
    ours, plain = (form.leaky_relu_backward(dy, x, slope) for form in (fast, dense))
    np.testing.assert_array_equal(ours, plain, strict=True)


def within(ours: np.ndarray, plain: np.ndarray, magnitude: np.ndarray, terms: int) -> None:
    """Both sum the same `terms` products, of magnitude |a| |b| in all, in some order: each is off by at most
    gamma_terms times that (Higham 2002, section 3.1).
    """
    u = np.finfo(ours.dtype).eps / 2
    assert ours.dtype == plain.dtype
    assert ours.shape == plain.shape
    limit = 2 * terms * u / (1 - terms * u) * magnitude
    assert (np.abs(ours.astype(np.float64) - plain) <= limit).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_convolution_within_its_bounds(
    rng: np.random.Generator, window: Window, bias: bool, dtype: str
) -> None:
    x, W, b = rng.normal(size=(3, 4, 7, 6)), rng.normal(size=(5, 4, *window.kernel)), rng.normal(size=5)
    dy = rng.normal(size=(3, 5, *window.output(7, 6)))
    x, W, b, dy = (array.astype(dtype) for array in (x, W, b, dy))
    offset = b if bias else None
    sizes = [np.abs(array).astype(np.float64) for array in (x, W, dy)]
    large, cache = conv.conv2d(sizes[0], sizes[1], np.abs(b).astype(np.float64) if bias else None, window)
    large_dx, large_dW, large_db = conv.conv2d_backward(sizes[2], cache, sizes[1])
    ours, fast_cache = fast.conv2d(x, W, offset, window)
    plain, plain_cache = conv.conv2d(x, W, offset, window)
    within(ours, plain, large, W[0].size + 1)
    found, wanted = fast.conv2d_backward(dy, fast_cache, W), conv.conv2d_backward(dy, plain_cache, W)
    places = dy[:, 0].size
    for name, magnitude, terms in ((0, large_dx, W[:, 0].size), (1, large_dW, places), (2, large_db, places)):
        one, other = found[name], wanted[name]
        assert one is not None
        assert other is not None
        assert magnitude is not None
        within(one, other, magnitude, terms)
    for form, kept in ((fast, fast_cache), (conv, plain_cache)):
        backward: Any = form.conv2d_backward
        dx, dW, _ = backward(dy, kept, W, need_dx=False)
        assert dx is None
        np.testing.assert_array_equal(dW, (found if form is fast else wanted)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("values", ["random", "ties", "special"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_max_pooling_is_the_same(rng: np.random.Generator, window: Window, values: str, dtype: str) -> None:
    """Also where windows hold ties, NaN, and nothing but -inf."""
    x = rng.normal(size=(3, 4, 7, 6)).astype(dtype)
    if values == "ties":
        x = np.rint(x)
    if values == "special":
        x = rng.choice(SPECIAL, size=x.shape).astype(dtype)
        x[0] = -np.inf
    dy = rng.normal(size=(3, 4, *window.output(7, 6))).astype(dtype)
    ours, cache = fast.max_pool2d(x, window)
    plain, plain_cache = conv.max_pool2d(x, window)
    np.testing.assert_array_equal(ours, plain, strict=True)
    np.testing.assert_array_equal(cache.first, plain_cache.first)
    dx = fast.max_pool2d_backward(dy, cache)
    np.testing.assert_array_equal(dx, conv.max_pool2d_backward(dy, plain_cache), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_an_update_in_blocks_is_the_whole_one(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, optimizer: Any, dtype: str
) -> None:
    """Rows in blocks of 3, the last one short."""
    o = Optimization(optimizer, 0.01, weight_decay=0.1, amsgrad=optimizer != "sgd",
                     momentum=0.9 if optimizer == "sgd" else 0.0)  # fmt: skip
    monkeypatch.setattr(fast, "BLOCK", 15)
    rule = optim.sgd if optimizer == "sgd" else optim.adam
    theta, g = rng.normal(size=(2, 7, 5)).astype(dtype)
    whole, slots, whole_slots = theta.copy(), *(
        {name: np.zeros_like(theta) for name in o.slots} for _ in range(2)
    )  # fmt: skip
    for t in (1, 2):
        optim.update(theta, g, slots, o, 0.01, t)
        rule(whole, g, whole_slots, o, 0.01, t)
    np.testing.assert_array_equal(theta, whole, strict=True)
    for name, slot in slots.items():
        np.testing.assert_array_equal(slot, whole_slots[name], strict=True)
        assert slot.any()
