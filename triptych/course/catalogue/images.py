"""Session 4: convolution and max-pooling, of images with one channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.formula import where
from triptych.course.catalogue.stub import stub
from triptych.course.exercise import Array, Arrays, Exercise

B, H, WIDTH, KERNEL = 2, 6, 7, 3
ROWS, COLUMNS = H - KERNEL + 1, WIDTH - KERNEL + 1


def _slid(x: Any, W: Any) -> Any:
    places = [(k, l) for k in range(KERNEL) for l in range(KERNEL)]
    terms = [x[:, k : k + ROWS, l : l + COLUMNS] * W[k, l] for k, l in places]
    return sum(terms[1:], terms[0])


def _conv(forward: Any = lambda W: W, back: Any = lambda W: W) -> Any:
    """The convolution with its kernel changed on one of the ways."""

    def quantities(arrays: Arrays, dy: Array) -> Arrays:
        x, W = arrays["x"], arrays["W"]
        y = _slid(x, forward(W))
        dy = np.broadcast_to(dy, y.shape)
        dx, dW = np.zeros_like(x), np.zeros_like(W)
        for k in range(KERNEL):
            for l in range(KERNEL):
                dx[:, k : k + ROWS, l : l + COLUMNS] += dy * back(W)[k, l]
                dW[k, l] = (dy * x[:, k : k + ROWS, l : l + COLUMNS]).sum()
        return {"y": y, "dx": dx, "dW": dW}

    return quantities


def _overwritten(arrays: Arrays, dy: Array) -> Arrays:
    dx = np.zeros_like(arrays["x"])
    for k in range(KERNEL):
        for l in range(KERNEL):
            dx[:, k : k + ROWS, l : l + COLUMNS] = dy * arrays["W"][k, l]
    return {"dx": dx}


def _first(arrays: Arrays, dy: Array) -> Arrays:
    return {"dW": _conv()({**arrays, "x": arrays["x"][:1]}, dy[:1])["dW"]}


def _turned_dw(arrays: Arrays, dy: Array) -> Arrays:
    return {"dW": _conv()(arrays, dy)["dW"][::-1, ::-1]}


CONVOLUTION = Exercise(
    name="convolution",
    session=4,
    title="3x3 convolution",
    equations="eq. 64 to 74",
    stub=stub(
        "Convolution, as frameworks have it: x (B, H, W), a 3x3 kernel W, stride 1, no padding, to\n"
        "y[b, i, j] = sum over k, l of W[k, l] x[b, i + k, j + l], of shape (B, H - 2, W - 2).",
        "x, W",
        "dx, dW",
    ),
    inputs={"x": (B, H, WIDTH)},
    parameters={"W": (KERNEL, KERNEL)},
    truth=_slid,
    right=_conv(),
    wrong={
        "the kernel is turned by 180 degrees: a convolution in the mathematician's sense": _conv(
            lambda W: W[::-1, ::-1]
        ),
        "the kernel is transposed": _conv(lambda W: W.T),
        "the kernel is turned by 180 degrees": _conv(back=lambda W: W[::-1, ::-1]),
        "the kernel is transposed on the way back": _conv(back=lambda W: W.T),
        "assigned, not added: a pixel collects from every window that holds it": _overwritten,
        "of the first image alone: sum over the batch": _first,
        "turned by 180 degrees": _turned_dw,
        "the kernel is left out: every place collects dy": _conv(back=np.ones_like),
    },
    factors={"B": B, "places": ROWS * COLUMNS, "kernel": KERNEL * KERNEL},
)


def _quarters(x: Any) -> list[Any]:
    return [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]


def _largest(x: Any) -> Any:
    a, b, c, d = _quarters(x)
    for other in (b, c, d):
        a = where(other > a, other, a)
    return a


def _pool(value: Any, shares: Any) -> Any:
    """y by `value` of the four (4, ...), and dy's share for each of the four."""

    def quantities(arrays: Arrays, dy: Array) -> Arrays:
        x = arrays["x"]
        four = np.stack(_quarters(x))
        dx = np.zeros_like(x)
        for quarter, share in zip(_quarters(dx), shares(four), strict=True):
            quarter[:] = share * dy
        return {"y": value(four), "dx": dx}

    return quantities


def _winner(four: Array) -> Array:
    return np.arange(4)[:, None, None, None] == four.argmax(axis=0)


def _last(four: Array) -> Array:
    return np.arange(4)[:, None, None, None] == 3 - four[::-1].argmax(axis=0)


def _tied(four: Array) -> Array:
    return (four == four.max(axis=0)).astype(float)


def _maximum(four: Array) -> Array:
    return np.asarray(four.max(axis=0))


MAX_POOL = Exercise(
    name="max_pool",
    session=4,
    title="2x2 max-pooling",
    equations="eq. 75 to 78",
    stub=stub(
        "Max-pooling: x (B, H, W), H and W even, to the largest of each 2x2 window, (B, H/2, W/2).\n"
        "Of equal ones the first in reading order takes the gradient.",
        "x",
        "dx",
    ),
    inputs={"x": (3, 4, 6)},
    truth=_largest,
    right=_pool(_maximum, _winner),
    wrong={
        "every place of the window gets the gradient": _pool(_maximum, np.ones_like),
        "the mean of the window: average pooling": _pool(
            lambda four: four.mean(axis=0), lambda four: np.full(four.shape, 0.25)
        ),
        "the smallest of the window": _pool(lambda four: four.min(axis=0), lambda four: _winner(-four)),
        "the sum of the window": _pool(lambda four: four.sum(axis=0), np.ones_like),
        "the largest in size, not in value": _pool(lambda four: np.abs(four).max(axis=0), _winner),
        "the top left of the window": _pool(
            lambda four: four[0], lambda four: np.arange(4)[:, None, None, None] == 0 * four
        ),
        "the window's places are taken by columns, not by rows": _pool(
            _maximum, lambda four: _winner(four)[[0, 2, 1, 3]]
        ),
        "right but at ties: each of the equal ones gets the gradient": _pool(_maximum, _tied),
        "right but at ties: the gradient is shared": _pool(
            _maximum, lambda four: _tied(four) / _tied(four).sum(axis=0)
        ),
        "right but at ties: the last of the equal ones gets the gradient": _pool(_maximum, _last),
    },
    probes={"ties": lambda arrays: {"x": np.round(arrays["x"])}},
    factors={"4": 4.0},
)
