"""Traps that every item should meet: one sample, huge and tiny values, strided memory, constant channels, and
numbers that are not finite, where every right implementation agrees on what becomes of them.

Left out as undefined: infinities in batch norm's statistics and Adam's moments, where algebraically equal
formulas give an infinity or NaN; zero times infinity, as in the border of a convolution; two NaN in one
window of a pool; a NaN in the hinge loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.case import Case, Layout, generator
from triptych.describe.layers import Window
from triptych.describe.spec import Optimization

EPS, MOMENTUM = 1e-5, 0.1
STUDY, PLAIN = Window((3, 3), (1, 1), (1, 1)), Window((3, 3))
POOL = Window((3, 3), (2, 2), (1, 1))
NAN, INF = float("nan"), float("inf")


def cases() -> Iterator[Case]:
    """All of them."""
    for item, name, inputs, settings, layout in (*_finite(), *_not_finite()):
        yield Case(item, name, inputs, settings, layout)


Row = tuple[str, str, dict[str, Array], Mapping[str, Any], Layout]


def _finite() -> Iterator[Row]:
    for scale, size in ((1e12, "huge"), (1e-20, "tiny")):
        yield "conv2d", f"{size} image", _conv((2, 2, 4, 3), 3, STUDY, scale), {"window": STUDY}, "plain"
        x = scale * generator("special pool", size).normal(size=(2, 2, 5, 6))
        yield "max_pool2d", size, {"x": x, "dy": _normal(2, 2, 3, 3)}, {"window": POOL}, "plain"
        yield "linear_norm", size, _linear_norm(6, scale), {"eps": EPS}, "plain"
    yield "l2", "huge", {"W": 1e12 * _normal(5, 4)}, {"l2": 3e-3}, "plain"
    yield "l2", "not contiguous", {"W": _normal(5, 4)}, {"l2": 3e-3}, "strided"
    yield "conv2d", "one sample", _conv((1, 3, 5, 4), 2, STUDY), {"window": STUDY}, "plain"
    yield (
        "max_pool2d",
        "one sample",
        {"x": _normal(1, 3, 5, 4), "dy": _normal(1, 3, 3, 2)},
        {"window": POOL},
        "plain",
    )
    layouts: tuple[Layout, ...] = ("channels-last", "strided")
    for layout in layouts:
        yield (
            "conv2d_winograd",
            f"{layout} memory",
            _conv((2, 16, 4, 4), 16, STUDY),
            {"window": STUDY},
            layout,
        )
    yield from _rearranged()
    constant = _normal(3, 4, 3, 2)
    constant[:, 1], constant[:, 3] = 0.0, 3.7
    yield from _norms("image, constant channels", constant)
    yield from _norms("one image", _normal(1, 3, 4, 5))
    yield "batch_norm_evaluate", "one sample", _norm_inputs(_normal(1, 6)), {"eps": EPS}, "plain"


def _rearranged() -> Iterator[Row]:
    """One sample, and strided memory."""
    layout: Layout
    yield "linear_norm", "not contiguous", _linear_norm(7), {"eps": EPS}, "strided"
    zeros = np.where(generator("special dropout").random((5, 6)) > 0.4, 0.0, _normal(5, 6))
    for name, x, layout in (("one sample", _normal(1, 9), "plain"), ("not contiguous", zeros, "strided")):
        dy, keep = _normal(*x.shape), generator("keep", name).random(x.shape) > 0.3
        yield "leaky_relu", name, {"x": x, "dy": dy}, {"slope": 0.02}, layout
        yield "dropout", f"{name}, exact zeros", {"x": x, "dy": dy, "keep": keep}, {"rate": 0.3}, layout
    for shape, layout in (((1, 3, 2, 4), "plain"), ((2, 3, 4, 3), "strided")):
        name = "one sample" if shape[0] == 1 else "not contiguous"
        yield (
            "flatten",
            name,
            {"x": _normal(*shape), "dy": _normal(shape[0], int(np.prod(shape[1:])))},
            {},
            layout,
        )
    yield from _norms("image, not contiguous", _normal(2, 3, 4, 5), "strided")
    inputs = {"theta": _normal(9), "g": _normal(3, 9)}
    yield "optimizer", "adam, not contiguous", inputs, _steps(Optimization("adam")), "strided"


def _not_finite() -> Iterator[Row]:
    inputs = {"x": _normal(5, 4), "W": _normal(3, 4), "b": _normal(3), "dy": _normal(5, 3)}
    yield (
        "linear",
        "NaN and infinity",
        _planted(inputs, x={(1, 2): NAN, (2, 0): INF}, dy={(4, 1): NAN}),
        {},
        "plain",
    )
    rest = {"x": _normal(4, 5), "dy": _normal(4, 5)}
    odd = _planted(rest, x={(0, 0): NAN, (1, 1): INF, (2, 2): -INF}, dy={(3, 3): NAN, (3, 4): -INF})
    keep = np.ones((4, 5), bool)
    keep[0, 0] = keep[3, 3] = False
    yield "leaky_relu", "NaN and infinities", odd, {"slope": 0.02}, "plain"
    yield "dropout", "NaN that is dropped, infinities", odd | {"keep": keep}, {"rate": 0.3}, "plain"
    found = _planted(_conv((2, 2, 5, 5), 3, PLAIN), x={(0, 1, 2, 2): NAN}, dy={(1, 2, 0, 1): NAN})
    yield "conv2d", "NaN", found, {"window": PLAIN}, "plain"
    found = _planted(_conv((2, 2, 5, 5), 3, PLAIN), x={(0, 1, 0, 0): INF})
    yield "conv2d", "infinity", found, {"window": PLAIN}, "plain"
    image = {"x": _normal(2, 3, 7, 6), "dy": _normal(2, 3, 4, 3)}
    odd = _planted(image, x={(0, 0, 3, 2): NAN, (1, 1, 0, 0): INF, (1, 2, 3, 3): -INF})
    yield "max_pool2d", "NaN and infinities", odd, {"window": POOL}, "plain"
    for item, shape, at in (("rows", (6, 4), (2, 1)), ("image", (2, 3, 3, 2), (1, 1, 0, 0))):
        yield from _norms(f"{item}, one channel with NaN", _planted({"x": _normal(*shape)}, x={at: NAN})["x"])
    odd = _planted({"x": _normal(5, 3)}, x={(0, 0): INF, (1, 1): -INF})
    yield "batch_norm_evaluate", "infinities", _norm_inputs(odd["x"]), {"eps": EPS}, "plain"
    logits = {"s": _normal(5, 4), "dp": _normal(5, 4)}
    rows = {(0, 1): NAN, (1, 2): -INF, (1, 3): -INF, (2, 0): INF}
    yield "softmax", "NaN, infinities, excluded classes", _planted(logits, s=rows), {}, "plain"
    for kind in ("cross_entropy", "squared_error"):
        odd = _planted(
            {"s": _normal(5, 4), "labels": np.array([0, 1, 2, 3, 0])}, s={(1, 1): NAN, (3, 0): INF}
        )
        yield kind, "NaN and infinity", odd, {"smoothing": 0.0}, "plain"
    yield "l2", "NaN", _planted({"W": _normal(3, 4)}, W={(1, 1): NAN}), {"l2": 3e-3}, "plain"
    for o in (Optimization("sgd", momentum=0.9, weight_decay=1e-2), Optimization("adamw", weight_decay=1e-2)):
        odd = _planted({"theta": _normal(6), "g": _normal(3, 6)}, g={(1, 2): NAN}, theta={(4,): NAN})
        yield "optimizer", f"{o.optimizer}, NaN", odd, _steps(o), "plain"


def _normal(*shape: int) -> Array:
    return generator("special", *map(str, shape)).normal(size=shape)


def _planted(inputs: dict[str, Array], **places: Mapping[Any, float]) -> dict[str, Array]:
    """Copies of the inputs with numbers put in."""
    copies = {name: array.copy() for name, array in inputs.items()}
    for name, found in places.items():
        for at, value in found.items():
            copies[name][at] = value
    return copies


def _conv(shape: tuple[int, ...], out: int, window: Window, scale: float = 1.0) -> dict[str, Array]:
    rng = generator("special conv", *map(str, shape))
    W, dy = rng.normal(size=(out, shape[1], *window.kernel)), (shape[0], out, *window.output(*shape[2:]))
    return {"x": scale * rng.normal(size=shape), "W": W, "dy": rng.normal(size=dy)}


def _linear_norm(batch: int, scale: float = 1.0) -> dict[str, Array]:
    shapes = {"x": (batch, 5), "W": (4, 5), "b": (4,), "dy": (batch, 4), "gamma": (4,), "beta": (4,)}
    rng = generator("special linear_norm", str(batch))
    inputs = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return inputs | {"x": scale * inputs["x"], "b": scale * inputs["b"]}


def _norms(name: str, x: Array, layout: Layout = "plain") -> Iterator[Row]:
    inputs = _norm_inputs(x)
    for item in ("batch_norm_manual", "batch_norm_autodiff"):
        dy = np.asarray(generator("special dy", name).normal(size=x.shape))
        yield item, name, inputs | {"dy": dy}, {"eps": EPS, "momentum": MOMENTUM}, layout
    yield "batch_norm_evaluate", name, inputs, {"eps": EPS}, layout


def _norm_inputs(x: Array) -> dict[str, Array]:
    rng, channels = generator("special norm", *map(str, x.shape)), x.shape[1]
    names = ("gamma", "beta", "running_mean")
    drawn = {name: rng.normal(size=channels) for name in names}
    return {"x": x, **drawn, "running_var": 0.1 + rng.random(channels)}


def _steps(o: Optimization) -> dict[str, Any]:
    return {"optimization": o, "learning_rates": (0.1, 0.05, 0.02)}
