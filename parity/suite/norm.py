"""Batch norm: forward, backward, running statistics, evaluation; per column of (n, C).

    mu = sum x / n,  sigma^2 = sum (x - mu)^2 / n,  i = (sigma^2 + eps)^(-1/2),  xhat = (x - mu) i
    forward      A  gamma xhat + beta          B  x (gamma i) + (beta - mu gamma i)
    backward     C  gamma i / n (n dy - sum dy - xhat sum dy xhat)                       eq. 61-63
                 D  gamma i (dy - sum dy / n - xhat (sum dy xhat / n))
                 E  through the formulas above, step by step, as automatic differentiation goes
    dgamma = sum dy xhat, or i sum dy (x - mu); dbeta = sum dy                           eq. 47-48
    running      (1 - m) running + m now, of the variance n / (n - 1) sigma^2
    evaluation   x s + (beta - mean s), s = gamma (var + eps)^(-1/2), or (x - mean) s + beta

The variance is the one place where errors cancel and must be seen to: with any m near mu,
sum (x - m)^2 / n = sigma^2 + (m - mu)^2, so an error d of the mean enters squared (Chan, Golub & LeVeque
1983). Its limit is gamma_(n+4) (sigma^2 + d^2) + d^2. A one-pass variance, off by gamma_n (sigma^2 + mu^2),
does not get through. By hand: a formula derives E alone, has one result, and stays in one format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either, two_pass_variance
from parity.bounds.rounding import Array, Rounding
from parity.suite.dense import linear_inputs, normal
from parity.suite.draws import NAME, Draws
from parity.suite.operator import NETWORK, Held, InNetwork, Operator
from parity.verification.case import Case, Layout, generator
from parity.verification.judge import Item, Truth
from parity.verification.place import Inputs, Settings
from triptych.describe import layers

EPS, MOMENTUM = 1e-5, 0.1
RUNNING = ("running_mean", "running_var")


def train(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x, dy (B, C) or (B, C, H, W), gamma, beta, running_mean, running_var (C,) to y, dx, dgamma, dbeta and
    the new running statistics. In bfloat16 computes in float32 and rounds y and dx.
    """
    wide, shape = r.wide, inputs["x"].shape
    x = Bounded.exact(columns(inputs["x"]), wide)
    dy = Bounded.exact(columns(inputs["dy"]), wide) if "dy" in inputs else None
    found = normalized(x, dy, inputs, settings)
    n, mu, variance = len(x), found.pop("mu"), found.pop("variance")
    quantities = {key: image(b, shape).to(r) if key in ("y", "dx") else b for key, b in found.items()}
    more, less = Bounded.constant(n / (n - 1), wide), Bounded.constant((n - 1) / n, wide)
    # torch's own operation gives the unbiased variance, which is made biased and unbiased again.
    now = {"running_mean": mu, "running_var": either(variance * more, variance * more * less * more)}
    for key, value in now.items():
        quantities[key] = _running(Bounded.exact(inputs[key], wide), value, settings["momentum"])
    return quantities


def linear_then_norm(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x (B, d_in), W, b, gamma, beta and dy to y, dx, dW, db: the true db is zero in every element, and so
    is dW of a weight on a constant input. The limit is what rounding may leave there.
    """
    x, W, b, dy = (Bounded.exact(inputs[name], r) for name in ("x", "W", "b", "dy"))
    found = normalized((x @ W.T + b).to(r.wide), dy.to(r.wide), inputs, settings)
    inner = found["dx"].to(r)
    return {"y": found["y"].to(r), "dx": inner @ W, "dW": inner.T @ x, "db": inner.sum(axis=0)}


def normalized(x: Bounded, dy: Bounded | None, inputs: Inputs, settings: Settings) -> dict[str, Bounded]:
    """mu, variance (C,) and y, and with dy also dx (n, C), dgamma and dbeta, of columns that may themselves
    carry errors.
    """
    r, n = x.r, len(x)
    gamma, beta = (Bounded.exact(inputs[name], r) for name in ("gamma", "beta"))
    mu, centred, variance, i = _statistics(x, settings["eps"])
    found = {"mu": mu, "variance": variance, "y": by_batch(x, gamma, beta, settings["eps"])}
    if dy is None:
        return found
    xhat, scale = centred * i, gamma * i
    dgamma = either(dy.inner(xhat, axis=0), i * dy.inner(centred, axis=0))
    dbeta = dy.sum(axis=0)
    dx = either(
        scale / n * (n * dy - dbeta - xhat * dgamma),
        scale * (dy - dbeta / n - xhat * (dgamma / n)),
        _step_by_step(dy, gamma, centred, i, n),
    )
    return found | {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def by_batch(x: Bounded, gamma: Bounded, beta: Bounded, eps: float) -> Bounded:
    """y of columns (n, C), that may carry errors, by their own statistics."""
    mu, centred, _, i = _statistics(x, eps)
    scale = gamma * i
    return either(gamma * (centred * i) + beta, x * scale + (beta - mu * scale))


def by_running(
    x: Bounded, gamma: Bounded, beta: Bounded, mean: Bounded, variance: Bounded, eps: float
) -> Bounded:
    """y of columns (n, C), that may carry errors, by given statistics."""
    i = (variance + Bounded.constant(eps, x.r)).rsqrt(least=eps * (1 - 3 * x.r.u))
    scale = gamma * i
    centred = x - mean
    return either(x * scale + (beta - mean * scale), centred * i * gamma + beta, centred * scale + beta)


def _statistics(x: Bounded, eps: float) -> tuple[Bounded, Bounded, Bounded, Bounded]:
    """mu, x - mu, sigma^2 and i."""
    mu = x.mean(axis=0)
    variance = two_pass_variance(x, mu)
    i = (variance + Bounded.constant(eps, x.r)).rsqrt(least=eps * (1 - 3 * x.r.u))
    return mu, x - mu, variance, i


def evaluate(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """x, gamma, beta, running_mean and running_var to y."""
    x, names = Bounded.exact(columns(inputs["x"]), r.wide), ("gamma", "beta", *RUNNING)
    gamma, beta, mean, variance = (Bounded.exact(inputs[name], r.wide) for name in names)
    y = by_running(x, gamma, beta, mean, variance, settings["eps"])
    return {"y": image(y, inputs["x"].shape).to(r)}


def _step_by_step(dy: Bounded, gamma: Bounded, centred: Bounded, i: Bounded, n: int) -> Bounded:
    """dx by the chain rule through i, sigma^2 and mu (eq. 51-60)."""
    g = gamma * dy  # eq. 51
    dvariance = g.inner(centred, axis=0) * (i * i * i) * 0.5  # eq. 56-57, without its sign
    dcentred = g * i - centred * (dvariance / n * 2)  # eq. 54, 60
    return dcentred - dcentred.mean(axis=0)  # eq. 58-59


def _running(running: Bounded, now: Bounded, momentum: float) -> Bounded:
    kept, taken = (Bounded.constant(share, now.r) for share in (1.0 - momentum, momentum))
    return kept * running + taken * now


def columns(x: Any) -> Any:
    """One column for each channel, of an array or a Bounded: (B, C), or (B, C, H, W) as (B H W, C)."""
    return x if x.ndim == 2 else x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def image(y: Bounded, shape: tuple[int, ...]) -> Bounded:
    """The inverse of `columns`, for an array of that shape."""
    if len(shape) == 2:
        return y
    batch, channels, height, width = shape
    return y.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)


# --- cases ---


def _cases() -> Iterator[Case]:
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
        "batch_norm_evaluate": ("image",),
    }
    for name, (x, layout) in rows.items():
        for case in _three(name, _inputs(name, x), layout):
            yield replace(case, quick=name in quick[case.item])
    yield from _special()


def _special() -> Iterator[Case]:
    constant = normal(3, 4, 3, 2)
    constant[:, 1], constant[:, 3] = 0.0, 3.7
    rows: dict[str, tuple[Array, Layout]] = {
        "image, constant channels": (constant, "plain"),
        "one image": (normal(1, 3, 4, 5), "plain"),
        "image, not contiguous": (normal(2, 3, 4, 5), "strided"),
        # Not among the cases: infinities, which equal formulas make an infinity or NaN.
        "rows, one channel with NaN": (normal(6, 4), "plain"),
        "image, one channel with NaN": (normal(2, 3, 3, 2), "plain"),
    }
    rows["rows, one channel with NaN"][0][2, 1] = rows["image, one channel with NaN"][0][1, 1, 0, 0] = np.nan
    for name, (x, layout) in rows.items():
        dy = np.asarray(generator("special dy", name).normal(size=x.shape))
        yield from _three(name, _special_inputs(x) | {"dy": dy}, layout)
    odd = normal(5, 3)
    odd[0, 0], odd[1, 1] = np.inf, -np.inf
    for name, x in (("one sample", normal(1, 6)), ("infinities", odd)):
        yield Case("batch_norm_evaluate", name, _special_inputs(x), {"eps": EPS})


def _three(name: str, inputs: dict[str, Array], layout: Layout) -> Iterator[Case]:
    """For each of the items."""
    for item in ("batch_norm_manual", "batch_norm_autodiff"):
        yield Case(item, name, inputs, {"eps": EPS, "momentum": MOMENTUM}, layout)
    rest = {key: array for key, array in inputs.items() if key != "dy"}
    yield Case("batch_norm_evaluate", name, rest, {"eps": EPS}, layout)


def _inputs(name: str, x: Array) -> dict[str, Array]:
    rng, channels = generator("norm", name), x.shape[1]
    gamma = rng.normal(size=channels)
    gamma[-1] = 0.0  # a channel that is switched off
    inputs = {"x": x, "gamma": gamma, "beta": rng.normal(size=channels), "dy": rng.normal(size=x.shape)}
    return inputs | {"running_mean": rng.normal(size=channels), "running_var": 0.1 + rng.random(channels)}


def _special_inputs(x: Array) -> dict[str, Array]:
    rng, channels = generator("special norm", *map(str, x.shape)), x.shape[1]
    drawn = {name: rng.normal(size=channels) for name in ("gamma", "beta", "running_mean")}
    return {"x": x, **drawn, "running_var": 0.1 + rng.random(channels)}


def _linear_norm_cases() -> Iterator[Case]:
    for name, batch in (("a bias without effect", 12), ("a bias without effect, two samples", 2)):
        inputs = linear_inputs(name, batch, 6, 4)
        inputs["x"][:, 0] = 1.0  # a constant input: its weights have no effect either
        rng = generator("linear_norm", name)
        inputs |= {"gamma": rng.normal(size=4), "beta": rng.normal(size=4)}
        yield Case("linear_norm", name, inputs, {"eps": EPS}, quick=batch == 12)
    rows: list[tuple[str, int, float, Layout]] = [("huge", 6, 1e12, "plain"), ("tiny", 6, 1e-20, "plain")]
    for name, batch, scale, layout in (*rows, ("not contiguous", 7, 1.0, "strided")):
        rng = generator("special linear_norm", str(batch))
        inputs = {key: rng.normal(size=shape) for key, shape in _linear_norm_shapes(batch, 5, 4).items()}
        inputs |= {"x": scale * inputs["x"], "b": scale * inputs["b"]}
        yield Case("linear_norm", name, inputs, {"eps": EPS}, layout)


def _linear_norm_shapes(batch: int, d_in: int, d_out: int) -> dict[str, tuple[int, ...]]:
    shapes = {"x": (batch, d_in), "W": (d_out, d_in), "b": (d_out,), "dy": (batch, d_out)}
    return shapes | {"gamma": (d_out,), "beta": (d_out,)}


# --- drawn cases ---


def _drawn(item: str, d: Draws) -> Case:
    """Rows or images, mean up to 10^4, perhaps a constant channel."""
    shape: tuple[int, ...] = d.one_of((7, 3), (2, 3, 2, 3))
    if not d.few:
        tail = d.one_of((), (1, 1), (2, 3))
        shape = (d.integer(2, 12), d.size(), *tail)
    channels = shape[1]
    gamma, beta, running_mean = (d.upstream((channels,)) for _ in range(3))
    x = d.values(shape) + d.one_of(0.0, 3.0, 1e4)
    if d.flag():
        x[:, d.integer(0, channels - 1)] = d.one_of(0.0, 1.0, 3.7, -1e3)
    inputs = {"x": x, "gamma": gamma, "beta": beta, "running_mean": running_mean}
    inputs |= {"running_var": np.abs(d.upstream((channels,)))}
    settings: dict[str, Any] = {"eps": EPS}
    if item != "batch_norm_evaluate":
        inputs, settings = inputs | {"dy": d.upstream(shape)}, settings | {"momentum": MOMENTUM}
    return Case(item, NAME, inputs, settings, d.layout())


def _drawn_linear_norm(d: Draws) -> Case:
    """Values of ordinary size: what cancels is a sum of products as it is."""
    batch = 4 if d.few else d.integer(2, 8)
    d_in, d_out = 5 if d.few else d.integer(1, 12), d.size(4)
    inputs = {key: d.upstream(shape) for key, shape in _linear_norm_shapes(batch, d_in, d_out).items()}
    return Case("linear_norm", NAME, inputs, {"eps": EPS}, d.layout())


# --- records ---


def _operator(name: str, expected: Truth) -> Operator:
    return Operator(Item(name, expected, NETWORK), _cases, partial(_drawn, name))


def _train(layer: layers.BatchNorm, held: Held) -> tuple[dict[str, Any], dict[str, Any], Truth]:
    inputs = {key: held.wide(key) for key in ("gamma", "beta", *RUNNING)}
    return inputs, {"eps": layer.eps, "momentum": layer.momentum}, train


def _evaluate(layer: layers.BatchNorm, held: Held, x: Bounded, batch_statistics: bool) -> Bounded:
    inputs, settings, _ = _train(layer, held)
    return (train if batch_statistics else evaluate)(inputs | {"x": x}, settings, x.r)["y"]


OPERATORS = (
    _operator("batch_norm_manual", train),
    _operator("batch_norm_autodiff", train),
    _operator("batch_norm_evaluate", evaluate),
    Operator(
        Item("linear_norm", linear_then_norm, NETWORK, products=True), _linear_norm_cases, _drawn_linear_norm
    ),
)
LAYERS = (InNetwork(layers.BatchNorm, _train, {"gamma": "dgamma", "beta": "dbeta"}, RUNNING, _evaluate),)
