"""Session 3: batch normalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.formula import rsqrt
from triptych.course.catalogue.stub import stub
from triptych.course.exercise import Array, Arrays, Exercise

N, C, EPS = 6, 4, 1e-5


def _truth(x: Any, gamma: Any, beta: Any) -> Any:
    return (x - x.mean(0, keepdims=True)) * rsqrt(x.var(0, keepdims=True) + EPS) * gamma + beta


def _pieces(arrays: Arrays, dy: Array) -> tuple[Array, Array, Array]:
    """xhat, 1 / sqrt(sigma^2 + eps) and g."""
    x = arrays["x"]
    inverse = 1 / np.sqrt(x.var(axis=0) + EPS)
    return (x - x.mean(axis=0)) * inverse, inverse, arrays["gamma"] * np.broadcast_to(dy, x.shape)


def _right(arrays: Arrays, dy: Array) -> Arrays:
    xhat, _, _ = _pieces(arrays, dy)
    dy = np.broadcast_to(dy, xhat.shape)
    return {
        "y": arrays["gamma"] * xhat + arrays["beta"],
        "dx": _dx()(arrays, dy)["dx"],
        "dgamma": (dy * xhat).sum(axis=0),
        "dbeta": dy.sum(axis=0),
    }


def _dx(direct: float = 1, mean: float = 1, variance: float = 1, power: int = 1, axis: int = 0) -> Any:
    """dx with shares of the three paths, another power of 1/sqrt, or sums along another axis."""

    def quantities(arrays: Arrays, dy: Array) -> Arrays:
        xhat, inverse, g = _pieces(arrays, dy)
        through_mean = g.sum(axis=axis, keepdims=True) / N
        through_variance = xhat * (g * xhat).sum(axis=axis, keepdims=True) / N
        return {"dx": inverse**power * (direct * g - mean * through_mean - variance * through_variance)}

    return quantities


def _without_gamma(arrays: Arrays, dy: Array) -> Arrays:
    return _dx()({**arrays, "gamma": np.ones(C)}, dy)


def _by(variance: Any, axis: int | None = 0) -> Any:
    """y from another 1 / sqrt(sigma^2 + eps)."""

    def quantities(arrays: Arrays, dy: Array) -> Arrays:
        x = arrays["x"]
        centred = x - x.mean(axis=axis, keepdims=True)
        return {"y": arrays["gamma"] * centred * variance(x) + arrays["beta"]}

    return quantities


BATCH_NORM = Exercise(
    name="batch_norm",
    session=3,
    title="batch normalization in training",
    equations="eq. 47 to 63",
    stub=stub(
        "Batch norm: x (n, C), gamma (C,), beta (C,) to gamma xhat + beta, with eps = 1e-5 inside the\n"
        "root and the biased variance (1/n). In steps (eq. 51 to 61) or simplified (eq. 63), as you like.",
        "x, gamma, beta",
        "dx, dgamma, dbeta",
    ),
    inputs={"x": (N, C)},
    parameters={"gamma": (C,), "beta": (C,)},
    truth=_truth,
    right=_right,
    wrong={
        "equal to the answer without the mean's path": _dx(mean=0),
        "equal to the answer without the variance's path": _dx(variance=0),
        "equal to the direct path alone: mean and variance depend on x too": _dx(mean=0, variance=0),
        "the direct path is missing": _dx(direct=0),
        "the mean's path has the wrong sign": _dx(mean=-1),
        "the variance's path has the wrong sign": _dx(variance=-1),
        "the variance's path counts twice": _dx(variance=2),
        "the variance's path counts half: d(x - mu)^2 has a factor 2": _dx(variance=0.5),
        "the sums lack their 1/n": _dx(mean=N, variance=N),
        "1/sqrt is missing": _dx(power=0),
        "divided by the variance, not by its root": _dx(power=2),
        "sums over features, not over samples, as the report prints (63)": _dx(axis=1),
        "gamma is missing: g = gamma dy": _without_gamma,
        "the variance's path is divided by n twice": _dx(variance=1 / N),
        "the mean's path is divided by n twice": _dx(mean=1 / N),
        "gamma does not belong here: beta is added behind it": lambda arrays, dy: {
            "dbeta": _pieces(arrays, dy)[2].sum(axis=0)
        },
        "a product of two sums, not the sum of the products": lambda arrays, dy: {
            "dgamma": np.broadcast_to(dy, (N, C)).sum(axis=0) * _pieces(arrays, dy)[0].sum(axis=0)
        },
        "eps is subtracted": _by(lambda x: 1 / np.sqrt(x.var(axis=0) - EPS)),
        "one mean for all features": _by(
            lambda x: 1 / np.sqrt(np.square(x - x.mean()).mean(axis=0) + EPS), axis=None
        ),
        "x in the place of xhat": lambda arrays, dy: {"dgamma": (arrays["x"] * dy).sum(axis=0)},
        "the unbiased variance, 1/(n - 1)": _by(lambda x: 1 / np.sqrt(x.var(axis=0, ddof=1) + EPS)),
        "eps outside the root": _by(lambda x: 1 / (np.sqrt(x.var(axis=0)) + EPS)),
        "eps is missing": _by(lambda x: 1 / np.sqrt(x.var(axis=0))),
        "divided by the variance, not by its root (forward)": _by(lambda x: 1 / (x.var(axis=0) + EPS)),
        "statistics of each sample, not of each feature: layer norm": _by(
            lambda x: 1 / np.sqrt(x.var(axis=1, keepdims=True) + EPS), axis=1
        ),
    },
    without=("one sample",),
    factors={"n": N, "C": C},
)
