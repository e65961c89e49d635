"""Convolution of images.

    y_oij = b_o + sum_ckl W_ockl xp_c,si+k,sj+l                 C kh kw products      eq. 64
    dL/dW_ockl = sum_ij dL/dy_oij xp_c,si+k,sj+l                B H' W' products      eq. 66-67
    dL/db_o = sum_ij dL/dy_oij                                                        eq. 68
    dL/dx_cuv = sum_oij dL/dy_oij W_oc,u-si,v-sj                at most O kh kw       eq. 69-72

Each is an inner product, so gamma_n of the same sum of magnitudes is its limit, whether it is computed as
one product of patches, as kh kw products, or directly. Products with the zeros of the border count as
terms: gamma_n only grows with n. Convolution by a transform (Winograd, FFT) has another limit: see
parity.suite.winograd. By hand: parity.formula has no convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either, from_terms
from parity.bounds.rounding import Array, Rounding
from parity.suite import winograd
from parity.suite.draws import NAME, Draws
from parity.suite.operator import NETWORK, Held, InNetwork, Operator
from parity.suite.windows import by_input, by_weight, forward
from parity.verification.case import Case, Layout, generator, planted
from parity.verification.judge import Item
from parity.verification.place import Inputs, Settings
from triptych.describe import layers
from triptych.describe.layers import Window

STUDY, PLAIN = Window((3, 3), (1, 1), (1, 1)), Window((3, 3))


# --- expected values and their limits ---


def conv2d(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, C, H, W), W (O, C, kh, kw), dy (B, O, H', W') and perhaps b (O,) to y, and with
    dy also dx, dW and perhaps db.
    """
    window: Window = settings["window"]
    x, W = Bounded.exact(inputs["x"], r), inputs["W"].astype(r.truth)
    b = Bounded.exact(inputs["b"], r) if "b" in inputs else None
    quantities = {"y": convolved(x, Bounded.exact(inputs["W"], r), b, window)}
    if "dy" not in inputs:
        return quantities
    dy = Bounded.exact(inputs["dy"], r)
    g, size_g, e_g = _parts(dy, inputs["dy"])
    a, size_a, e_a = _parts(x, inputs["x"])
    if settings.get("need_dx", True):
        dx, size = by_input(g, W, x.shape, window), by_input(size_g, abs(W), x.shape, window)
        moved = 0.0 if e_g is None else by_input(e_g, abs(W), x.shape, window)
        quantities["dx"] = from_terms(dx, size, W[:, 0].size, r, moved)
    moved = 0.0 if e_g is None else by_weight(e_g, size_a, window)
    if e_a is not None:
        moved = moved + by_weight(size_g if e_g is None else size_g + e_g, e_a, window)
    dW, size = by_weight(g, a, window), by_weight(size_g, size_a, window)
    quantities["dW"] = from_terms(dW, size, g[:, 0].size, r, moved)
    if "b" in inputs:
        quantities["db"] = dy.sum(axis=(0, 2, 3))
    return quantities


def convolved(x: Bounded, W: Bounded, b: Bounded | None, window: Window) -> Bounded:
    """y, of numbers that may carry errors."""
    c, size_c = W.value, abs(W.value)
    y, size = forward(x.value, c, window), forward(abs(x.value), size_c, window)
    inherited: Array | float = 0.0
    if x.error.any():
        inherited = inherited + forward(x.error, size_c, window)
    if W.error.any():
        inherited = inherited + forward(abs(x.value) + x.error, W.error, window)
    after = from_terms(y, size, W[0].size, x.r, inherited)
    if b is None:
        return after
    b = b.reshape(-1, 1, 1)
    among = from_terms(y + b.value, size + abs(b.value), W[0].size + 1, x.r, inherited + b.error)
    return either(after + b, among)


def _parts(x: Bounded, given: Array | Bounded) -> tuple[Array, Array, Array | None]:
    """Values, their sizes, and their errors where they were computed (None: they are the backend's own)."""
    return x.value, abs(x.value), x.error if isinstance(given, Bounded) else None


def either_convolution(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """By Winograd's transforms or as a direct sum, a bias added to either."""
    found = conv2d(inputs, settings, r)
    if inputs["x"].shape[2] % 2 or inputs["x"].shape[3] % 2:
        return found
    other = winograd.transformed({"dy": np.zeros(found["y"].shape, r.stored), **inputs}, r)
    if "b" in inputs:
        other["y"] = other["y"] + Bounded.exact(inputs["b"], r).reshape(-1, 1, 1)
    return {key: either(value, other[key]) if key in other else value for key, value in found.items()}


def transformed(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """`either_convolution`, and which it was: `by Winograd` (1,) is 1 for even images, 0 for others."""
    even = not (inputs["x"].shape[2] % 2 or inputs["x"].shape[3] % 2)
    taken = Bounded.exact(np.array([float(even)]), r)
    return either_convolution(inputs, settings, r) | {"by Winograd": taken}


# --- cases ---


def _cases() -> Iterator[Case]:
    odd = Window((3, 2), (2, 3), (1, 0))
    rows: dict[str, tuple[tuple[int, ...], int, Window, bool, Layout]] = {
        "the study's": ((2, 3, 5, 6), 4, STUDY, False, "plain"),
        "with a bias": ((2, 2, 4, 4), 3, STUDY, True, "plain"),
        "one term": ((1, 1, 2, 3), 2, Window((1, 1)), False, "plain"),
        "one pixel": ((2, 3, 1, 1), 2, STUDY, False, "plain"),
        "2x2 image": ((3, 5, 2, 2), 4, STUDY, False, "plain"),
        "nothing divides": ((2, 3, 7, 8), 5, odd, True, "plain"),
        "no overlap": ((1, 2, 6, 6), 3, Window((2, 2), (3, 3)), False, "plain"),
        "as wide as the image": ((2, 3, 4, 5), 2, Window((4, 5)), True, "plain"),
        "channels-last memory": ((2, 3, 6, 5), 4, STUDY, False, "channels-last"),
        "not contiguous": ((2, 3, 5, 4), 4, STUDY, True, "strided"),
        "square": ((2, 4, 5, 6), 4, STUDY, False, "plain"),  # in and out channels may be confused
        # where padding SAME differs
        "stride 2, even image": ((2, 3, 6, 8), 4, Window((3, 3), (2, 2), (1, 1)), False, "plain"),
        "many channels": ((2, 32, 5, 4), 16, STUDY, False, "plain"),
    }
    for name, (shape, out, window, bias, layout) in rows.items():
        quick = name in ("nothing divides", "square", "stride 2, even image")
        yield Case("conv2d", name, _inputs(name, shape, out, window, bias), {"window": window}, layout, quick)
    inputs = _inputs("zeros", (2, 3, 5, 5), 4, STUDY, True)
    zeros = {key: planted(array, generator(key), 0.0, 0.5) for key, array in inputs.items()}
    yield Case("conv2d", "exact zeros", zeros, {"window": STUDY})
    small = {key: 1e-22 * array for key, array in inputs.items()}
    yield Case("conv2d", "tiny, products underflow", small, {"window": STUDY})
    for scale, size in ((1e12, "huge"), (1e-20, "tiny")):
        inputs = _special((2, 2, 4, 3), 3, STUDY, scale)
        yield Case("conv2d", f"{size} image", inputs, {"window": STUDY})
    yield Case("conv2d", "one sample", _special((1, 3, 5, 4), 2, STUDY), {"window": STUDY})
    # Not among the cases: infinity times a zero of the border.
    inputs = _special((2, 2, 5, 5), 3, PLAIN)
    inputs["x"][0, 1, 2, 2] = inputs["dy"][1, 2, 0, 1] = np.nan
    yield Case("conv2d", "NaN", inputs, {"window": PLAIN})
    inputs = _special((2, 2, 5, 5), 3, PLAIN)
    inputs["x"][0, 1, 0, 0] = np.inf
    yield Case("conv2d", "infinity", inputs, {"window": PLAIN})


def _winograd_cases() -> Iterator[Case]:
    rows = {
        "tiles": (2, 16, 4, 6),
        "2x2 image": (3, 16, 2, 2),
        "two rows": (1, 18, 2, 4),
        "many": (2, 32, 8, 8),
        "odd rows": (2, 16, 5, 4),
        "odd columns": (2, 16, 4, 5),
    }
    for name, shape in rows.items():
        inputs = _inputs(f"winograd {name}", shape, 17, STUDY, False)
        yield Case("conv2d_winograd", name, inputs, {"window": STUDY}, quick=name in ("tiles", "odd columns"))
    layouts: tuple[Layout, ...] = ("channels-last", "strided")
    for layout in layouts:
        inputs = _special((2, 16, 4, 4), 16, STUDY)
        yield Case("conv2d_winograd", f"{layout} memory", inputs, {"window": STUDY}, layout)


def _inputs(name: str, shape: tuple[int, ...], out: int, window: Window, bias: bool) -> dict[str, Array]:
    rng = generator("conv", name)
    inputs = {"x": rng.normal(size=shape), "W": rng.normal(size=(out, shape[1], *window.kernel))}
    inputs["dy"] = rng.normal(size=(shape[0], out, *window.output(*shape[2:])))
    return inputs | ({"b": rng.normal(size=out)} if bias else {})


def _special(shape: tuple[int, ...], out: int, window: Window, scale: float = 1.0) -> dict[str, Array]:
    rng = generator("special conv", *map(str, shape))
    W, dy = rng.normal(size=(out, shape[1], *window.kernel)), (shape[0], out, *window.output(*shape[2:]))
    return {"x": scale * rng.normal(size=shape), "W": W, "dy": rng.normal(size=dy)}


def _drawn(d: Draws) -> Case:
    """Any window, with a bias or without."""
    window = d.window()
    x = d.image(window)
    out = 2 if d.few else d.integer(1, 4)
    dy = d.upstream((len(x), out, *window.output(*x.shape[2:])))
    inputs = {"x": x, "W": d.values((out, x.shape[1], *window.kernel)), "dy": dy}
    inputs |= {"b": d.values((out,))} if d.few or d.flag() else {}
    return Case("conv2d", NAME, inputs, {"window": window}, d.layout())


# --- records ---


def _train(layer: layers.Conv2d, held: Held) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Winograd's transforms are admitted where JAX has them on a CPU: 3x3 kernels on even images in float32,
    WINOGRAD_CHANNELS or more on both sides.
    """
    inputs = {"W": held.weight()} | ({"b": held.bias()} if layer.bias else {})
    enough = min(layer.in_channels, layer.out_channels) >= WINOGRAD_CHANNELS
    transformed = held.winograd and held.r.name == "float32" and layer.window == STUDY and enough
    return inputs, {"window": layer.window}, either_convolution if transformed else conv2d


WINOGRAD_CHANNELS = 16
OPERATORS = (
    Operator(Item("conv2d", conv2d, NETWORK, products=True), _cases, _drawn),
    Operator(Item("conv2d_winograd", transformed, ("float32",), products=True), _winograd_cases),
)
LAYERS = (InNetwork(layers.Conv2d, _train, {"weight": "dW", "bias": "db"}),)
