"""Cases of the layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.verification.case import Case, Layout, generator, planted
from triptych.describe.layers import Window

EPS, MOMENTUM = 1e-5, 0.1


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _linear()
    yield from _elementwise()
    yield from _convolution()
    yield from _pooling()
    yield from _norm()
    yield from _linear_norm()


def _linear() -> Iterator[Case]:
    # With few terms rounding leaves little room: a factor cut to 11 or 8 bits stands out a thousandfold.
    shapes = {"three terms": (5, 3, 4), "one of each": (1, 1, 1), "nothing divides": (7, 13, 5)}
    shapes["square"] = (7, 4, 4)  # where a transposed weight fits
    shapes |= {
        "one sample": (1, 17, 10),
        "figure 1's width": (6, 3072, 10),
        "figure 1's batch": (200, 20, 10),
    }
    for name, shape in shapes.items():
        yield Case("linear", name, _linear_inputs(name, *shape), quick=name in ("three terms", "square"))
    for name, scale in (("huge", 1e15), ("tiny, products underflow", 1e-22)):
        inputs = {key: scale * array for key, array in _linear_inputs(name, 4, 6, 3).items()}
        yield Case("linear", name, inputs)
    plain = _linear_inputs("zeros", 6, 8, 5)
    zeros = {key: planted(array, generator(key), 0.0, 0.5) for key, array in plain.items()}
    zeros["x"][0], zeros["dy"][1], zeros["W"][2] = 0, 0, 0
    yield Case("linear", "exact zeros", zeros)
    cancels = _linear_inputs("cancels", 8, 12, 4)
    cancels["x"][:, 6:], cancels["W"][:, 6:] = cancels["x"][:, :6], -cancels["W"][:, :6]
    cancels["dy"][4:] = -cancels["dy"][:4]
    yield Case("linear", "sums that are truly zero", cancels, quick=True)
    yield Case("linear", "not contiguous", _linear_inputs("strided", 6, 10, 4), layout="strided")


def _linear_inputs(name: str, batch: int, d_in: int, d_out: int) -> dict[str, Array]:
    rng = generator("linear", name)
    shapes = {"x": (batch, d_in), "W": (d_out, d_in), "b": (d_out,), "dy": (batch, d_out)}
    return {key: rng.normal(size=shape) for key, shape in shapes.items()}


def _elementwise() -> Iterator[Case]:
    scales = {"ordinary": 1.0, "huge": 1e30, "tiny": 1e-35}
    for name, scale in scales.items():
        rng = generator("elementwise", name)
        x, dy = scale * rng.normal(size=(7, 11)), rng.normal(size=(7, 11))
        yield Case("leaky_relu", name, {"x": x, "dy": dy}, {"slope": 0.02})
        keep = rng.random(x.shape) > 0.3
        quick = name == "ordinary"
        yield Case("dropout", name, {"x": x, "dy": dy, "keep": keep}, {"rate": 0.3}, quick=quick)
    rng = generator("kink")
    x, dy = rng.normal(size=(6, 9)), rng.normal(size=(6, 9))
    x = planted(planted(x, rng, 0.0), rng, -0.0)
    for slope in (0.02, 0.0, 1.7):
        name = f"exact zeros of both signs, slope {slope:g}"
        yield Case("leaky_relu", name, {"x": x, "dy": dy}, {"slope": slope}, quick=slope == 0.02)
    image = {"x": rng.normal(size=(2, 3, 4, 5)), "dy": rng.normal(size=(2, 3, 4, 5))}
    yield Case("leaky_relu", "channels-last image", image, {"slope": 0.02}, layout="channels-last")
    for keep, name in ((np.zeros((3, 4), bool), "nothing kept"), (np.ones((3, 4), bool), "all kept")):
        inputs = {"x": rng.normal(size=(3, 4)), "dy": rng.normal(size=(3, 4)), "keep": keep}
        yield Case("dropout", name, inputs, {"rate": 0.5})
    inputs = {"x": rng.normal(size=(2, 3, 4, 5)), "dy": rng.normal(size=(2, 60))}
    yield Case("flatten", "image", inputs, quick=True)
    yield Case("flatten", "channels-last image", inputs, layout="channels-last")


def _convolution() -> Iterator[Case]:
    study, odd = Window((3, 3), (1, 1), (1, 1)), Window((3, 2), (2, 3), (1, 0))
    rows: dict[str, tuple[tuple[int, ...], int, Window, bool, Layout]] = {
        "the study's": ((2, 3, 5, 6), 4, study, False, "plain"),
        "with a bias": ((2, 2, 4, 4), 3, study, True, "plain"),
        "one term": ((1, 1, 2, 3), 2, Window((1, 1)), False, "plain"),
        "one pixel": ((2, 3, 1, 1), 2, study, False, "plain"),
        "2x2 image": ((3, 5, 2, 2), 4, study, False, "plain"),
        "nothing divides": ((2, 3, 7, 8), 5, odd, True, "plain"),
        "no overlap": ((1, 2, 6, 6), 3, Window((2, 2), (3, 3)), False, "plain"),
        "as wide as the image": ((2, 3, 4, 5), 2, Window((4, 5)), True, "plain"),
        "channels-last memory": ((2, 3, 6, 5), 4, study, False, "channels-last"),
        "not contiguous": ((2, 3, 5, 4), 4, study, True, "strided"),
        "square": ((2, 4, 5, 6), 4, study, False, "plain"),  # in and out channels may be confused
        "stride 2, even image": (
            (2, 3, 6, 8),
            4,
            Window((3, 3), (2, 2), (1, 1)),
            False,
            "plain",
        ),  # SAME differs
        "many channels": ((2, 32, 5, 4), 16, study, False, "plain"),
    }
    for name, (shape, out, window, bias, layout) in rows.items():
        inputs = _convolution_inputs(name, shape, out, window, bias)
        quick = name in ("nothing divides", "square", "stride 2, even image")
        yield Case("conv2d", name, inputs, {"window": window}, layout, quick)
    inputs = _convolution_inputs("zeros", (2, 3, 5, 5), 4, study, True)
    zeros = {key: planted(array, generator(key), 0.0, 0.5) for key, array in inputs.items()}
    yield Case("conv2d", "exact zeros", zeros, {"window": study})
    small = {key: 1e-22 * array for key, array in inputs.items()}
    yield Case("conv2d", "tiny, products underflow", small, {"window": study})
    for name, shape in {
        "tiles": (2, 16, 4, 6),
        "2x2 image": (3, 16, 2, 2),
        "two rows": (1, 18, 2, 4),
        "many": (2, 32, 8, 8),
    }.items():
        inputs = _convolution_inputs(f"winograd {name}", shape, 17, study, False)
        yield Case("conv2d_winograd", name, inputs, {"window": study}, quick=name == "tiles")


def _convolution_inputs(
    name: str, shape: tuple[int, ...], out: int, window: Window, bias: bool
) -> dict[str, Array]:
    rng = generator("conv", name)
    inputs = {"x": rng.normal(size=shape), "W": rng.normal(size=(out, shape[1], *window.kernel))}
    inputs["dy"] = rng.normal(size=(shape[0], out, *window.output(*shape[2:])))
    return inputs | ({"b": rng.normal(size=out)} if bias else {})


def _pooling() -> Iterator[Case]:
    study = Window((3, 3), (2, 2), (1, 1))
    rng = generator("pool")
    images: dict[str, tuple[Array, Window, Layout]] = {
        "ties everywhere": (rng.integers(-1, 2, (2, 3, 7, 6)).astype(float), study, "plain"),
        "after ReLU": (np.maximum(rng.normal(size=(2, 3, 8, 8)), 0), study, "plain"),
        "all equal": (np.full((1, 2, 5, 5), -3.0), study, "plain"),
        "negative at the border": (-1 - rng.random((2, 2, 5, 4)), study, "plain"),
        "distinct": (rng.permutation(210).reshape(1, 5, 6, 7).astype(float), study, "plain"),
        "ties, nothing divides": (
            rng.integers(-1, 2, (2, 3, 7, 8)).astype(float),
            Window((2, 3), (3, 2), (1, 1)),
            "plain",
        ),
        "windows apart": (rng.integers(0, 2, (2, 2, 7, 7)).astype(float), Window((2, 2), (3, 3)), "plain"),
        "one pixel": (rng.normal(size=(2, 3, 1, 1)), study, "plain"),
        "channels-last memory": (rng.integers(0, 3, (2, 4, 6, 6)).astype(float), study, "channels-last"),
        "not contiguous": (rng.integers(0, 3, (2, 4, 6, 6)).astype(float), study, "strided"),
        "signed zeros": (np.where(rng.random((1, 2, 6, 6)) > 0.5, 0.0, -0.0), study, "plain"),
        "random": (generator("pool", "random").normal(size=(2, 3, 6, 6)), study, "plain"),
    }
    for name, (x, window, layout) in images.items():
        dy = rng.normal(size=(*x.shape[:2], *window.output(*x.shape[2:])))
        quick = name == "ties, nothing divides"
        yield Case("max_pool2d", name, {"x": x, "dy": dy}, {"window": window}, layout, quick)


def _norm() -> Iterator[Case]:
    rng = generator("norm")
    rows: dict[str, tuple[Array, Layout]] = {
        "ordinary": (rng.normal(size=(16, 5)) * [1, 2, 0.1, 5, 1] + [0, 1, -3, 10, 0.5], "plain"),
        "two samples": (rng.normal(size=(2, 3)), "plain"),
        "nothing divides": (rng.normal(size=(7, 13)), "plain"),
        "the study's batch": (rng.normal(size=(200, 4)) + 1, "plain"),
        "mean 1e4, deviation 1": (1e4 + rng.normal(size=(8, 4)), "plain"),
        "constant channels": (np.tile([0.0, 1.0, 3.7, -0.001], (8, 1)), "plain"),
        "deviation 1e-3, near eps": (1e-3 * rng.normal(size=(9, 3)), "plain"),
        "tiny: eps decides": (1e-20 * rng.normal(size=(9, 3)), "plain"),
        "huge": (1e12 * rng.normal(size=(9, 3)), "plain"),
        "not contiguous": (rng.normal(size=(6, 8)), "strided"),
        "image": (rng.normal(size=(3, 4, 5, 2)) + 2, "plain"),
        "image, channels-last memory": (rng.normal(size=(2, 4, 3, 5)), "channels-last"),
        "image of one pixel": (rng.normal(size=(4, 3, 1, 1)), "plain"),
        "image, mean 1e4": (1e4 + rng.normal(size=(2, 3, 2, 2)), "plain"),
    }
    quick = {
        "batch_norm_manual": ("deviation 1e-3, near eps", "mean 1e4, deviation 1"),
        "batch_norm_autodiff": ("ordinary", "image"),
    }
    for name, (x, layout) in rows.items():
        for item in ("batch_norm_manual", "batch_norm_autodiff"):
            settings = {"eps": EPS, "momentum": MOMENTUM}
            yield Case(item, name, _norm_inputs(name, x), settings, layout, name in quick[item])
        inputs = {key: array for key, array in _norm_inputs(name, x).items() if key != "dy"}
        yield Case("batch_norm_evaluate", name, inputs, {"eps": EPS}, layout, name == "image")


def _norm_inputs(name: str, x: Array) -> dict[str, Any]:
    rng, channels = generator("norm", name), x.shape[1]
    gamma = rng.normal(size=channels)
    gamma[-1] = 0.0  # a channel that is switched off
    return {
        "x": x,
        "gamma": gamma,
        "beta": rng.normal(size=channels),
        "dy": rng.normal(size=x.shape),
        "running_mean": rng.normal(size=channels),
        "running_var": 0.1 + rng.random(channels),
    }


def _linear_norm() -> Iterator[Case]:
    for name, batch in (("a bias without effect", 12), ("a bias without effect, two samples", 2)):
        inputs = _linear_inputs(name, batch, 6, 4)
        inputs["x"][:, 0] = 1.0  # a constant input: its weights have no effect either
        rng = generator("linear_norm", name)
        inputs |= {"gamma": rng.normal(size=4), "beta": rng.normal(size=4)}
        yield Case("linear_norm", name, inputs, {"eps": EPS}, quick=batch == 12)
