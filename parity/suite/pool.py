"""Max-pooling of images: y_cij = max over the window; dL/dx goes to its first maximum (eq. 75-78).

By hand: parity.formula has no windows, and its maximum shares a tie's gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.bounds.bounded import Bounded, from_terms
from parity.bounds.rounding import Array, Rounding
from parity.suite.dense import normal
from parity.suite.draws import NAME, Draws
from parity.suite.operator import NETWORK, InNetwork, Operator
from parity.suite.windows import inside, padded, places
from parity.verification.case import Case, Layout, generator
from parity.verification.judge import Item
from parity.verification.place import Inputs, Settings
from triptych.describe import layers
from triptych.describe.layers import Window


def pooled(x: Bounded, window: Window) -> Bounded:
    """y, of an x that may carry errors: the largest moves by no more than the largest error in its window."""
    xp, ep = padded(x.value, window, -np.inf), padded(x.error, window, 0)
    value, error = (
        np.stack([array[place] for _, place in places(window, x.shape)]).max(axis=0) for array in (xp, ep)
    )
    return Bounded(value, error, x.r)


def max_pool2d(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), dy (B, C, H', W') to y, which is not rounded, and dx, a sum of at most kh kw."""
    window: Window = settings["window"]
    if isinstance(inputs["x"], Bounded):
        if "dy" not in inputs:
            return {"y": pooled(inputs["x"], window)}
        return _pooled_with_errors(inputs["x"], Bounded.exact(inputs["dy"], r), window)
    x = inputs["x"].astype(r.truth)
    y, first = _first_maxima(x, window)
    if "dy" not in inputs:
        return {"y": Bounded.exact(y, r)}
    dy = inputs["dy"].astype(r.truth)
    dx, size, count = (_routed(d, first, x.shape, window) for d in (dy, abs(dy), np.ones_like(dy)))
    alone = count <= 1
    total = from_terms(dx, size, window.kernel[0] * window.kernel[1] - 1, r)
    # What one window alone sends is a copy; a subnormal one may be flushed.
    copied = np.where(abs(dx) < r.tiny, abs(dx), 0).astype(np.float64)
    error = np.where(alone, copied, total.error)
    return {"y": Bounded.exact(y, r), "dx": Bounded(dx, error, r)}


def _pooled_with_errors(x: Bounded, dy: Bounded, window: Window) -> dict[str, Bounded]:
    """The same of an x that is known within its errors: y is off by at most the largest error in its
    window, and dy may go to any place that could hold the maximum.
    """
    y, (_, first) = pooled(x, window), _first_maxima(x.value, window)
    lowest, sent = y.value.astype(np.float64) - y.error, np.abs(dy.value).astype(np.float64) + dy.error
    highest = padded(x.value.astype(np.float64) + x.error, window, -np.inf)
    dx, size = (_routed(d, first, x.shape, window) for d in (dy.value, np.abs(dy.value)))
    moved = np.zeros(highest.shape)
    for index, (_, place) in enumerate(places(window, x.shape)):
        rivals = np.sum([highest[other] >= lowest for _, other in places(window, x.shape)], axis=0) > 1
        candidate = (highest[place] >= lowest) & rivals
        moved[place] += np.where(candidate, sent, np.where(first == index, dy.error, 0))
    total = from_terms(dx, size, window.kernel[0] * window.kernel[1], x.r, inside(moved, window))
    return {"y": y, "dx": total}


def _first_maxima(x: Array, window: Window) -> tuple[Array, Array]:
    """y, and which of the window's places, counted in reading order, holds the first of its maxima."""
    xp, real = padded(x, window, -np.inf), padded(np.ones_like(x), window, 0)
    values = np.stack([xp[place] for _, place in places(window, x.shape)])
    inside = np.stack([real[place] for _, place in places(window, x.shape)]) > 0
    y = values.max(axis=0)
    with np.errstate(invalid="ignore"):
        attains = ((values == y) | (np.isnan(values) & np.isnan(y))) & inside
    return y, attains.argmax(axis=0)


def _routed(dy: Array, first: Array, shape: tuple[int, ...], window: Window) -> Array:
    dxp = padded(np.zeros(shape, dy.dtype), window, 0)
    for index, (_, place) in enumerate(places(window, shape)):
        dxp[place] += np.where(first == index, dy, 0)
    return inside(dxp, window)


# --- cases ---

STUDY = Window((3, 3), (2, 2), (1, 1))


def _cases() -> Iterator[Case]:
    rng = generator("pool")
    images: dict[str, tuple[Array, Window, Layout]] = {
        "ties everywhere": (rng.integers(-1, 2, (2, 3, 7, 6)).astype(float), STUDY, "plain"),
        "after ReLU": (np.maximum(rng.normal(size=(2, 3, 8, 8)), 0), STUDY, "plain"),
        "all equal": (np.full((1, 2, 5, 5), -3.0), STUDY, "plain"),
        "negative at the border": (-1 - rng.random((2, 2, 5, 4)), STUDY, "plain"),
        "distinct": (rng.permutation(210).reshape(1, 5, 6, 7).astype(float), STUDY, "plain"),
        "ties, nothing divides": (
            rng.integers(-1, 2, (2, 3, 7, 8)).astype(float),
            Window((2, 3), (3, 2), (1, 1)),
            "plain",
        ),
        "windows apart": (rng.integers(0, 2, (2, 2, 7, 7)).astype(float), Window((2, 2), (3, 3)), "plain"),
        "one pixel": (rng.normal(size=(2, 3, 1, 1)), STUDY, "plain"),
        "channels-last memory": (rng.integers(0, 3, (2, 4, 6, 6)).astype(float), STUDY, "channels-last"),
        "not contiguous": (rng.integers(0, 3, (2, 4, 6, 6)).astype(float), STUDY, "strided"),
        "signed zeros": (np.where(rng.random((1, 2, 6, 6)) > 0.5, 0.0, -0.0), STUDY, "plain"),
        "random": (generator("pool", "random").normal(size=(2, 3, 6, 6)), STUDY, "plain"),
    }
    for name, (x, window, layout) in images.items():
        dy = rng.normal(size=(*x.shape[:2], *window.output(*x.shape[2:])))
        quick = name == "ties, nothing divides"
        yield Case("max_pool2d", name, {"x": x, "dy": dy}, {"window": window}, layout, quick)
    for scale, size in ((1e12, "huge"), (1e-20, "tiny")):
        x = scale * generator("special pool", size).normal(size=(2, 2, 5, 6))
        yield Case("max_pool2d", size, {"x": x, "dy": normal(2, 2, 3, 3)}, {"window": STUDY})
    inputs = {"x": normal(1, 3, 5, 4), "dy": normal(1, 3, 3, 2)}
    yield Case("max_pool2d", "one sample", inputs, {"window": STUDY})
    # Not among the cases: two NaN in one window.
    inputs = {"x": normal(2, 3, 7, 6), "dy": normal(2, 3, 4, 3)}
    inputs["x"][0, 0, 3, 2], inputs["x"][1, 1, 0, 0], inputs["x"][1, 2, 3, 3] = np.nan, np.inf, -np.inf
    yield Case("max_pool2d", "NaN and infinities", inputs, {"window": STUDY})


def _drawn(d: Draws) -> Case:
    """Whole numbers: most windows have ties."""
    window = d.window()
    x = d.image(window, ties=True)
    dy = d.upstream((*x.shape[:2], *window.output(*x.shape[2:])))
    return Case("max_pool2d", NAME, {"x": x, "dy": dy}, {"window": window}, d.layout())


OPERATORS = (Operator(Item("max_pool2d", max_pool2d, NETWORK), _cases, _drawn),)
LAYERS = (InNetwork(layers.MaxPool2d, lambda layer, held: ({}, {"window": layer.window}, max_pool2d)),)
