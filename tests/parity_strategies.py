"""Inputs of layers as hypothesis draws them: shapes, values with exact zeros and ties, upstream gradients."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from experiment.layers import Window
from parity.cases import Case, Layout

EPS, MOMENTUM = 1e-5, 0.1
SIZES = st.integers(1, 6)


@st.composite
def values(draw: DrawFn, shape: tuple[int, ...], ties: bool = False) -> np.ndarray:
    """Normal deviates of some size, or few whole numbers; some of them exactly 0. Never constant."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if ties or draw(st.booleans()):
        return rng.integers(-2, 3, shape).astype(float)
    found = rng.normal(size=shape) * draw(st.sampled_from([1.0, 1e-12, 1e8]))
    return np.where(rng.random(shape) < draw(st.sampled_from([0.0, 0.3])), 0.0, found)


@st.composite
def upstream(draw: DrawFn, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=shape)


layouts: st.SearchStrategy[Layout] = st.sampled_from(["plain", "strided", "channels-last"])


@st.composite
def linear(draw: DrawFn) -> Case:
    batch, d_in, d_out = draw(SIZES), draw(st.integers(1, 40)), draw(SIZES)
    inputs = {"x": draw(values((batch, d_in))), "W": draw(values((d_out, d_in)))}
    inputs |= {"b": draw(values((d_out,))), "dy": draw(upstream((batch, d_out)))}
    return Case("linear", "drawn", inputs, layout=draw(layouts))


@st.composite
def leaky_relu(draw: DrawFn) -> Case:
    shape = tuple(draw(st.lists(SIZES, min_size=2, max_size=4)))
    inputs = {"x": draw(values(shape)), "dy": draw(upstream(shape))}
    slope = draw(st.sampled_from([0.0, 0.02, 0.5, 1.7]))
    return Case("leaky_relu", "drawn", inputs, {"slope": slope}, draw(layouts))


@st.composite
def windows(draw: DrawFn) -> Window:
    kernel, stride = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    return Window(kernel, stride, padding)


@st.composite
def images(draw: DrawFn, window: Window, ties: bool = False) -> np.ndarray:
    """At least as large as the window."""
    height, width = (draw(st.integers(k, k + 5)) for k in window.kernel)
    return draw(values((draw(st.integers(1, 3)), draw(st.integers(1, 4)), height, width), ties))


@st.composite
def conv2d(draw: DrawFn) -> Case:
    window = draw(windows())
    x = draw(images(window))
    out = draw(st.integers(1, 4))
    dy = draw(upstream((len(x), out, *window.output(*x.shape[2:]))))
    inputs = {"x": x, "W": draw(values((out, x.shape[1], *window.kernel))), "dy": dy}
    inputs |= {"b": draw(values((out,)))} if draw(st.booleans()) else {}
    return Case("conv2d", "drawn", inputs, {"window": window}, draw(layouts))


@st.composite
def max_pool2d(draw: DrawFn) -> Case:
    window = draw(windows())
    x = draw(images(window, ties=True))
    dy = draw(upstream((*x.shape[:2], *window.output(*x.shape[2:]))))
    return Case("max_pool2d", "drawn", {"x": x, "dy": dy}, {"window": window}, draw(layouts))


@st.composite
def batch_norm(draw: DrawFn) -> Case:
    channels, batch = draw(SIZES), draw(st.integers(2, 12))
    shape = (batch, channels, *draw(st.sampled_from([(), (1, 1), (2, 3)])))
    gamma, beta, running_mean = (draw(upstream((channels,))) for _ in range(3))
    inputs = {"x": draw(values(shape)) + draw(st.sampled_from([0.0, 3.0, 1e4])), "dy": draw(upstream(shape))}
    inputs |= {"gamma": gamma, "beta": beta, "running_mean": running_mean}
    inputs |= {"running_var": np.abs(draw(upstream((channels,))))}
    return Case("batch_norm_manual", "drawn", inputs, {"eps": EPS, "momentum": MOMENTUM}, draw(layouts))


@st.composite
def losses(draw: DrawFn) -> Case:
    item = draw(st.sampled_from(["cross_entropy", "squared_error", "hinge"]))
    batch, classes = draw(SIZES), draw(st.integers(1, 12))
    s = draw(values((batch, classes), ties=draw(st.booleans())))
    labels = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, classes, batch)
    smoothing = 0.0 if item == "hinge" else draw(st.sampled_from([0.0, 0.1]))
    return Case(item, "drawn", {"s": s, "labels": labels}, {"smoothing": smoothing}, draw(layouts))
