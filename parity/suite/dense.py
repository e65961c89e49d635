"""Linear, LeakyReLU, dropout and flatten.

    y = x W^T + b, dx = dy W, dW = dy^T x, db = sum_s dy                      eq. 25-44
    LeakyReLU: y = [x > 0] x + [x <= 0] a x, dx = [x > 0] dy + [x <= 0] a dy  eq. 19-24, 37
    dropout: y = [kept] x / (1 - rate), or times 1 / (1 - rate)

Linear's limit is gamma_K |x| |W^T| and one rounding for the bias, whether it is added before, among or
after the products: by hand, since a formula adds the bias last. LeakyReLU rounds the slope and the product,
dropout the factor and the product or quotient.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from parity.bounds.bounded import Bounded, either
from parity.bounds.rounding import Array, Rounding
from parity.formula import where
from parity.suite.draws import NAME, Draws
from parity.suite.operator import NETWORK, InNetwork, Operator, by_formula
from parity.verification.case import Case, Layout, generator, planted
from parity.verification.judge import Item
from parity.verification.place import Inputs, Settings
from parity.verification.written import Formula
from triptych.describe import layers

INF, NAN = float("inf"), float("nan")


# --- expected values and their limits ---


def linear(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, d_in), W (d_out, d_in), b (d_out,) to y, and with dy (B, d_out) also dx, dW, db."""
    x, W, b = (Bounded.exact(inputs[name], r) for name in ("x", "W", "b"))
    found = {"y": affine(x, W, b)}
    if "dy" in inputs:
        dy = Bounded.exact(inputs["dy"], r)
        found |= {"dW": dy.T @ x, "db": dy.sum(axis=0)}
        if settings.get("need_dx", True):
            found["dx"] = dy @ W
    return found


def affine(x: Bounded, W: Bounded, b: Bounded) -> Bounded:
    """x W^T + b."""
    after = x @ W.T + b
    # A sum that starts from the bias has one term more: [x 1] [W b]^T is one inner product.
    one = Bounded.exact(1.0, x.r).broadcast_to((len(x), 1))
    among = _joined(x, one) @ _joined(W, b.reshape(-1, 1)).T
    return either(after, Bounded(after.value, among.error, x.r))


def _joined(a: Bounded, b: Bounded) -> Bounded:
    parts = ((a.value, b.value), (a.error, b.error))
    value, error = (np.concatenate(pair, axis=1) for pair in parts)
    return Bounded(value, error, a.r)


leaky_relu = by_formula(("x",), lambda s: [lambda x: where(x > 0, x, s["slope"] * x)])


def _dropout(settings: Settings) -> list[Formula]:
    kept = 1.0 - settings["rate"]  # Python's float64, as in every backend
    return [lambda x, keep: where(keep, x / kept, 0), lambda x, keep: where(keep, x * (1.0 / kept), 0)]


dropout = by_formula(("x", "keep"), _dropout)
flatten = by_formula(("x",), lambda s: [lambda x: x.reshape(x.shape[0], -1)])


# --- cases ---


def linear_inputs(name: str, batch: int, d_in: int, d_out: int) -> dict[str, Array]:
    """Ordinary ones."""
    rng = generator("linear", name)
    shapes = {"x": (batch, d_in), "W": (d_out, d_in), "b": (d_out,), "dy": (batch, d_out)}
    return {key: rng.normal(size=shape) for key, shape in shapes.items()}


def _linear() -> Iterator[Case]:
    shapes = {
        # With few terms rounding leaves little room: a factor cut to 11 or 8 bits stands out a thousandfold.
        "three terms": (5, 3, 4),
        "one of each": (1, 1, 1),
        "nothing divides": (7, 13, 5),
        "square": (7, 4, 4),  # where a transposed weight fits
        "one sample": (1, 17, 10),
        "figure 1's width": (6, 3072, 10),
        "figure 1's batch": (200, 20, 10),
    }
    for name, shape in shapes.items():
        yield Case("linear", name, linear_inputs(name, *shape), quick=name in ("three terms", "square"))
    for name, scale in (("huge", 1e15), ("tiny, products underflow", 1e-22)):
        inputs = {key: scale * array for key, array in linear_inputs(name, 4, 6, 3).items()}
        yield Case("linear", name, inputs)
    plain = linear_inputs("zeros", 6, 8, 5)
    zeros = {key: planted(array, generator(key), 0.0, 0.5) for key, array in plain.items()}
    zeros["x"][0], zeros["dy"][1], zeros["W"][2] = 0, 0, 0
    yield Case("linear", "exact zeros", zeros)
    cancels = linear_inputs("cancels", 8, 12, 4)
    cancels["x"][:, 6:], cancels["W"][:, 6:] = cancels["x"][:, :6], -cancels["W"][:, :6]
    cancels["dy"][4:] = -cancels["dy"][:4]
    yield Case("linear", "sums that are truly zero", cancels, quick=True)
    yield Case("linear", "not contiguous", linear_inputs("strided", 6, 10, 4), layout="strided")
    odd = {"x": normal(5, 4), "W": normal(3, 4), "b": normal(3), "dy": normal(5, 3)}
    odd["x"][1, 2], odd["x"][2, 0], odd["dy"][4, 1] = NAN, INF, NAN
    yield Case("linear", "NaN and infinity", odd)


def _elementwise() -> Iterator[Case]:
    for name, scale in {"ordinary": 1.0, "huge": 1e30, "tiny": 1e-35}.items():
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
        given = {"x": rng.normal(size=(3, 4)), "dy": rng.normal(size=(3, 4)), "keep": keep}
        yield Case("dropout", name, given, {"rate": 0.5})
    inputs = {"x": rng.normal(size=(2, 3, 4, 5)), "dy": rng.normal(size=(2, 60))}
    yield Case("flatten", "image", inputs, quick=True)
    yield Case("flatten", "channels-last image", inputs, layout="channels-last")
    yield from _rearranged()
    odd = {"x": normal(4, 5), "dy": normal(4, 5)}
    odd["x"][0, 0], odd["x"][1, 1], odd["x"][2, 2] = NAN, INF, -INF
    odd["dy"][3, 3], odd["dy"][3, 4] = NAN, -INF
    keep = np.ones((4, 5), bool)
    keep[0, 0] = keep[3, 3] = False
    yield Case("leaky_relu", "NaN and infinities", odd, {"slope": 0.02})
    yield Case("dropout", "NaN that is dropped, infinities", odd | {"keep": keep}, {"rate": 0.3})


def _rearranged() -> Iterator[Case]:
    """One sample, and strided memory."""
    zeros = np.where(generator("special dropout").random((5, 6)) > 0.4, 0.0, normal(5, 6))
    rows: tuple[tuple[str, Array, Layout, tuple[int, ...]], ...] = (
        ("one sample", normal(1, 9), "plain", (1, 3, 2, 4)),
        ("not contiguous", zeros, "strided", (2, 3, 4, 3)),
    )
    for name, x, layout, image in rows:
        dy, keep = normal(*x.shape), np.asarray(generator("keep", name).random(x.shape) > 0.3)
        yield Case("leaky_relu", name, {"x": x, "dy": dy}, {"slope": 0.02}, layout)
        dropped = {"x": x, "dy": dy, "keep": keep}
        yield Case("dropout", f"{name}, exact zeros", dropped, {"rate": 0.3}, layout)
        flat = {"x": normal(*image), "dy": normal(image[0], int(np.prod(image[1:])))}
        yield Case("flatten", name, flat, layout=layout)


def normal(*shape: int) -> Array:
    """The same numbers for the same shape."""
    return generator("special", *map(str, shape)).normal(size=shape)


# --- drawn cases ---


def _drawn_linear(d: Draws) -> Case:
    batch, d_in, d_out = d.size(), 17 if d.few else d.integer(1, 40), d.size()
    inputs = {"x": d.values((batch, d_in)), "W": d.values((d_out, d_in)), "b": d.values((d_out,))}
    return Case("linear", NAME, inputs | {"dy": d.upstream((batch, d_out))}, layout=d.layout())


def _drawn_leaky_relu(d: Draws) -> Case:
    shape = d.sizes(2, 4)
    inputs = {"x": d.values(shape), "dy": d.upstream(shape)}
    return Case("leaky_relu", NAME, inputs, {"slope": d.one_of(0.0, 0.02, 0.5, 1.7)}, d.layout())


def _drawn_dropout(d: Draws) -> Case:
    """The mask need not fit its rate."""
    shape, rate = (d.size(), d.size()), d.one_of(0.0, 0.3, 0.5, 0.9, 0.99)
    inputs = {"keep": d.rng().random(shape) >= rate, "x": d.values(shape), "dy": d.upstream(shape)}
    return Case("dropout", NAME, inputs, {"rate": rate}, d.layout())


def _drawn_flatten(d: Draws) -> Case:
    shape = d.sizes(4, 4)
    inputs = {"x": d.values(shape), "dy": d.upstream((shape[0], int(np.prod(shape[1:]))))}
    return Case("flatten", NAME, inputs, layout=d.layout())


OPERATORS = (
    Operator(Item("linear", linear, NETWORK, products=True), _linear, _drawn_linear),
    Operator(Item("leaky_relu", leaky_relu, NETWORK, elementwise=True), _elementwise, _drawn_leaky_relu),
    Operator(Item("dropout", dropout, NETWORK, elementwise=True), _elementwise, _drawn_dropout),
    Operator(Item("flatten", flatten, NETWORK, elementwise=True), _elementwise, _drawn_flatten),
)
LAYERS = (
    InNetwork(
        layers.Linear,
        lambda layer, held: ({"W": held.weight(), "b": held.bias()}, {}, linear),
        {"weight": "dW", "bias": "db"},
    ),
    InNetwork(layers.LeakyReLU, lambda layer, held: ({}, {"slope": layer.slope}, leaky_relu)),
    InNetwork(
        layers.Dropout,
        lambda layer, held: ({"keep": held.arrays["keep"]}, {"rate": layer.rate}, dropout),
        evaluate=lambda layer, held, x, _: x,
    ),
    InNetwork(layers.Flatten, lambda layer, held: ({}, {}, flatten)),
)
