"""Inputs as hypothesis draws them: shapes, layouts, settings, values with exact zeros and ties.

`table(few=True)` draws from a handful of shapes, for JAX, which compiles every operation anew for a new one.
Every array comes from a seed that is drawn, so that a case shrinks to small shapes and plain values.

Needs the package hypothesis: import this module where it is asked for, and nowhere else.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from parity.bounds.rounding import Array
from parity.verification.case import Case, Layout
from triptych.describe.layers import Window
from triptych.describe.spec import Optimization

EPS, MOMENTUM = 1e-5, 0.1
SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS: SearchStrategy[Layout] = st.sampled_from(["plain", "strided", "channels-last"])
NAME = "drawn"


def table(few: bool = False) -> dict[str, SearchStrategy[Case]]:
    """Item to the strategy of its cases."""
    kinds = ("cross_entropy", "squared_error", "hinge")
    norms = ("batch_norm_manual", "batch_norm_autodiff", "batch_norm_evaluate")
    return {
        "linear": linear(few),
        "leaky_relu": leaky_relu(few),
        "dropout": dropout(few),
        "flatten": flatten(few),
        "conv2d": conv2d(few),
        "max_pool2d": max_pool2d(few),
        **{item: batch_norm(item, few) for item in norms},
        "linear_norm": linear_norm(few),
        "softmax": softmax(few),
        **{kind: losses(kind, few) for kind in kinds},
        "l2": l2(few),
        "optimizer": optimizer(few),
        "augmentation": augmentation(few),
    }


# --- parts ---


def sizes(few: bool, most: int = 6) -> SearchStrategy[int]:
    """Of one axis."""
    return st.sampled_from([1, min(3, most)]) if few else st.integers(1, most)


@st.composite
def values(draw: DrawFn, shape: tuple[int, ...], ties: bool = False) -> Array:
    """Normal deviates of some size, or few whole numbers; some of them exactly 0. Never constant."""
    rng = np.random.default_rng(draw(SEEDS))
    if ties or draw(st.booleans()):
        return rng.integers(-2, 3, shape).astype(float)
    found = rng.normal(size=shape) * draw(st.sampled_from([1.0, 1e-12, 1e8]))
    return np.where(rng.random(shape) < draw(st.sampled_from([0.0, 0.3])), 0.0, found)


@st.composite
def upstream(draw: DrawFn, shape: tuple[int, ...]) -> Array:
    """A gradient from above: random, never constant."""
    return np.random.default_rng(draw(SEEDS)).normal(size=shape)


@st.composite
def windows(draw: DrawFn, few: bool) -> Window:
    """Kernels and strides of up to 4, padding as far as it goes."""
    if few:
        study, odd = Window((3, 3), (2, 2), (1, 1)), Window((2, 3), (3, 1), (1, 0))
        return draw(st.sampled_from([study, odd]))
    kernel, stride = ((draw(st.integers(1, 4)), draw(st.integers(1, 4))) for _ in range(2))
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    return Window(kernel, stride, padding)


@st.composite
def images(draw: DrawFn, window: Window, few: bool, ties: bool = False) -> Array:
    """At least as large as the window."""
    if few:
        return draw(values((2, 3, 5, 4), ties))
    height, width = (draw(st.integers(k, k + 5)) for k in window.kernel)
    return draw(values((draw(st.integers(1, 3)), draw(st.integers(1, 4)), height, width), ties))


# --- items ---


@st.composite
def linear(draw: DrawFn, few: bool = False) -> Case:
    """Up to 40 terms."""
    batch, d_in, d_out = draw(sizes(few)), draw(st.just(17) if few else st.integers(1, 40)), draw(sizes(few))
    inputs = {"x": draw(values((batch, d_in))), "W": draw(values((d_out, d_in)))}
    inputs |= {"b": draw(values((d_out,))), "dy": draw(upstream((batch, d_out)))}
    return Case("linear", NAME, inputs, layout=draw(LAYOUTS))


@st.composite
def leaky_relu(draw: DrawFn, few: bool = False) -> Case:
    """Two to four axes."""
    shape = tuple(draw(st.lists(sizes(few), min_size=2, max_size=2 if few else 4)))
    inputs = {"x": draw(values(shape)), "dy": draw(upstream(shape))}
    slope = draw(st.sampled_from([0.0, 0.02, 0.5, 1.7]))
    return Case("leaky_relu", NAME, inputs, {"slope": slope}, draw(LAYOUTS))


@st.composite
def dropout(draw: DrawFn, few: bool = False) -> Case:
    """A mask that need not fit its rate."""
    shape, rate = (draw(sizes(few)), draw(sizes(few))), draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99]))
    keep = np.random.default_rng(draw(SEEDS)).random(shape) >= rate
    inputs = {"x": draw(values(shape)), "dy": draw(upstream(shape)), "keep": keep}
    return Case("dropout", NAME, inputs, {"rate": rate}, draw(LAYOUTS))


@st.composite
def flatten(draw: DrawFn, few: bool = False) -> Case:
    """Images."""
    shape = tuple(draw(sizes(few)) for _ in range(4))
    inputs = {"x": draw(values(shape)), "dy": draw(upstream((shape[0], int(np.prod(shape[1:])))))}
    return Case("flatten", NAME, inputs, layout=draw(LAYOUTS))


@st.composite
def conv2d(draw: DrawFn, few: bool = False) -> Case:
    """Any window, with a bias or without."""
    window = draw(windows(few))
    x = draw(images(window, few))
    out = draw(st.just(2) if few else st.integers(1, 4))
    dy = draw(upstream((len(x), out, *window.output(*x.shape[2:]))))
    inputs = {"x": x, "W": draw(values((out, x.shape[1], *window.kernel))), "dy": dy}
    inputs |= {"b": draw(values((out,)))} if few or draw(st.booleans()) else {}
    return Case("conv2d", NAME, inputs, {"window": window}, draw(LAYOUTS))


@st.composite
def max_pool2d(draw: DrawFn, few: bool = False) -> Case:
    """Whole numbers: most windows have ties."""
    window = draw(windows(few))
    x = draw(images(window, few, ties=True))
    dy = draw(upstream((*x.shape[:2], *window.output(*x.shape[2:]))))
    return Case("max_pool2d", NAME, {"x": x, "dy": dy}, {"window": window}, draw(LAYOUTS))


@st.composite
def batch_norm(draw: DrawFn, item: str, few: bool = False) -> Case:
    """Rows or images, mean up to 10^4, perhaps a constant channel."""
    shape: tuple[int, ...] = draw(st.sampled_from([(7, 3), (2, 3, 2, 3)]))
    if not few:
        tail = draw(st.sampled_from([(), (1, 1), (2, 3)]))
        shape = (draw(st.integers(2, 12)), draw(sizes(few)), *tail)
    channels = shape[1]
    gamma, beta, running_mean = (draw(upstream((channels,))) for _ in range(3))
    x = draw(values(shape)) + draw(st.sampled_from([0.0, 3.0, 1e4]))
    if draw(st.booleans()):
        x[:, draw(st.integers(0, channels - 1))] = draw(st.sampled_from([0.0, 1.0, 3.7, -1e3]))
    inputs = {"x": x, "gamma": gamma, "beta": beta, "running_mean": running_mean}
    inputs |= {"running_var": np.abs(draw(upstream((channels,))))}
    settings: dict[str, Any] = {"eps": EPS}
    if item != "batch_norm_evaluate":
        inputs, settings = inputs | {"dy": draw(upstream(shape))}, settings | {"momentum": MOMENTUM}
    return Case(item, NAME, inputs, settings, draw(LAYOUTS))


@st.composite
def linear_norm(draw: DrawFn, few: bool = False) -> Case:
    """Values of ordinary size: what cancels is a sum of products as it is."""
    batch = 4 if few else draw(st.integers(2, 8))
    d_in, d_out = draw(st.just(5) if few else st.integers(1, 12)), draw(sizes(few, 4))
    shapes = {"x": (batch, d_in), "W": (d_out, d_in), "b": (d_out,), "dy": (batch, d_out)}
    shapes |= {"gamma": (d_out,), "beta": (d_out,)}
    inputs = {key: draw(upstream(shape)) for key, shape in shapes.items()}
    return Case("linear_norm", NAME, inputs, {"eps": EPS}, draw(LAYOUTS))


@st.composite
def logits(draw: DrawFn, few: bool) -> Array:
    """From tiny to far apart."""
    shape = (draw(sizes(few)), draw(st.sampled_from([1, 10]) if few else st.integers(1, 12)))
    return draw(values(shape, ties=draw(st.booleans()))) * draw(st.sampled_from([1.0, 30.0]))


@st.composite
def softmax(draw: DrawFn, few: bool = False) -> Case:
    """Alone."""
    s = draw(logits(few))
    return Case("softmax", NAME, {"s": s, "dp": draw(upstream(s.shape))}, layout=draw(LAYOUTS))


@st.composite
def losses(draw: DrawFn, item: str, few: bool = False) -> Case:
    """Labels among the classes, smoothed or not."""
    s = draw(logits(few))
    labels = np.random.default_rng(draw(SEEDS)).integers(0, s.shape[1], len(s))
    smoothing = 0.0 if item == "hinge" else draw(st.sampled_from([0.0, 0.1]))
    return Case(item, NAME, {"s": s, "labels": labels}, {"smoothing": smoothing}, draw(LAYOUTS))


@st.composite
def l2(draw: DrawFn, few: bool = False) -> Case:
    """A matrix."""
    W = draw(values((draw(sizes(few)), draw(sizes(few)))))
    return Case("l2", NAME, {"W": W}, {"l2": draw(st.sampled_from([1e-4, 3e-3, 0.5]))}, draw(LAYOUTS))


@st.composite
def optimizer(draw: DrawFn, few: bool = False) -> Case:
    """A few steps; some gradients are 0 at every one of them."""
    steps, size = (3, 6) if few else (draw(st.integers(1, 5)), draw(st.integers(1, 6)))
    decay = draw(st.sampled_from([0.0, 1e-2]))
    if draw(st.booleans()):
        momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
        o = Optimization(
            "sgd", momentum=momentum, weight_decay=decay, nesterov=momentum > 0 and draw(st.booleans())
        )
    else:
        betas = draw(st.sampled_from([(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)]))
        epsilon = draw(st.sampled_from([1e-8, 1e-3]))
        kinds: SearchStrategy[Literal["adam", "adamw"]] = st.sampled_from(["adam", "adamw"])
        o = Optimization(
            draw(kinds),
            beta1=betas[0],
            beta2=betas[1],
            epsilon=epsilon,
            amsgrad=draw(st.booleans()),
            weight_decay=decay,
        )
    g = draw(upstream((steps, size))) * draw(st.sampled_from([1.0, 1e-12, 1e8]))
    g = np.where(np.random.default_rng(draw(SEEDS)).random(size) < 0.3, 0.0, g)
    rates = tuple(draw(st.sampled_from([0.1, 1e-3, 3e-2])) for _ in range(steps))
    return Case("optimizer", NAME, {"theta": draw(values((size,))), "g": g},
                {"optimization": o, "learning_rates": rates}, draw(LAYOUTS))  # fmt: skip


@st.composite
def augmentation(draw: DrawFn, few: bool = False) -> Case:
    """Images of any size, a border up to their own."""
    shape = (3, 2, 4, 5) if few else tuple(draw(sizes(few)) for _ in range(4))
    border, rng = 2 if few else draw(st.integers(0, 4)), np.random.default_rng(draw(SEEDS))
    inputs: dict[str, Array] = {"images": rng.integers(0, 256, shape, dtype=np.uint8)}
    if draw(st.booleans()):
        inputs["shifts"] = rng.integers(0, 2 * border + 1, (shape[0], 2), dtype=np.int32)
    if draw(st.booleans()):
        inputs["flips"] = rng.random(shape[0]) > 0.5
    return Case("augmentation", NAME, inputs, {"border": border}, draw(LAYOUTS))
