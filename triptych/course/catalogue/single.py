"""Sessions 5 and 6: Adam's step, and the standard error of a mean. No gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.formula import sqrt
from triptych.course.exercise import Array, Arrays, BadShape, OutputOnly

ETA, BETA1, BETA2, EPSILON, T = 0.01, 0.9, 0.99, 1e-3, 3
SHAPE = (4, 3)


def _truth(theta: Any, g: Any, m: Any, root: Any) -> Any:
    m = BETA1 * m + (1 - BETA1) * g
    v = BETA2 * (root * root) + (1 - BETA2) * (g * g)
    theta = theta - ETA * (m / (1 - BETA1**T)) / (sqrt(v / (1 - BETA2**T)) + EPSILON)
    layers = np.eye(3).reshape(3, 3, *[1] * len(theta.shape))  # one array of the three
    return sum(one.reshape(1, *theta.shape) * layer for one, layer in zip((theta, m, v), layers, strict=True))


def _adam(
    first: float = 1 - BETA1**T,
    second: float = 1 - BETA2**T,
    beta1: float = BETA1,
    beta2: float = BETA2,
    sign: float = 1,
    weights: tuple[float, float] | None = None,
    square: Any = np.square,
    denominator: Any = lambda v: np.sqrt(v) + EPSILON,
    plus: float = 0.0,
) -> Any:
    def quantities(arrays: Arrays, dy: Array) -> Arrays:
        g = arrays["g"]
        one, two = weights or (1 - beta1, 1 - beta2)
        m = beta1 * arrays["m"] + one * g
        v = beta2 * np.square(arrays["root"]) + two * square(g)
        step = ETA * ((m / first) / denominator(v / second) + plus)
        return {"m": m, "v": v, "theta": arrays["theta"] - sign * step}

    return quantities


def _returned(arrays: Arrays, dy: Array) -> Arrays:
    right = _adam()(arrays, dy)
    return {"m": right["m"] / (1 - BETA1**T), "v": right["v"] / (1 - BETA2**T)}


def _three(found: Any) -> Arrays:
    if not isinstance(found, tuple) or len(found) != 3:
        raise BadShape("step: expected it to return theta, m, v")
    return {"m": found[1], "v": found[2], "theta": found[0]}


class _Adam(OutputOnly):
    """The student's `step` takes v; cases are drawn for its root, as v is never negative."""

    def answer(self, functions: Any, arrays: Arrays, dy: Array | None) -> Arrays:
        """theta, m and v of one step."""
        return super().answer({"step": _with_v(functions["step"])}, arrays, dy)

    def for_verify(self, functions: Any) -> Any:
        """theta, m and v of one step, in one array."""
        return super().for_verify({"step": _with_v(functions["step"])})


def _with_v(step: Any) -> Any:
    return lambda theta, g, m, root: step(theta, g, m, root * root, T)


ADAM = _Adam(
    name="adam",
    session=5,
    title="one step of Adam",
    equations="eq. 88 to 91",
    functions=("step",),
    stub=f'''"""Adam: eta = {ETA}, beta1 = {BETA1}, beta2 = {BETA2}, epsilon = {EPSILON} outside the root."""

import numpy as np


def step(theta, g, m, v, t):
    """Return theta, m and v after step t = 1, 2, ...; make new arrays."""
    raise NotImplementedError
''',
    inputs={"theta": SHAPE, "g": SHAPE, "m": SHAPE, "root": SHAPE},
    truth=_truth,
    right=_adam(),
    wrong={
        "without bias correction": _adam(1, 1),
        "without the second moment's correction": _adam(second=1),
        "without the first moment's correction": _adam(first=1),
        "t counts from 0, not from 1": _adam(1 - BETA1 ** (T - 1), 1 - BETA2 ** (T - 1)),
        "epsilon inside the root": _adam(denominator=lambda v: np.sqrt(v + EPSILON)),
        "epsilon is missing": _adam(denominator=np.sqrt),
        "the root is missing": _adam(denominator=lambda v: v + EPSILON),
        "uphill: the step is added": _adam(sign=-1),
        "beta1 and beta2 are exchanged": _adam(beta1=BETA2, beta2=BETA1),
        "the new gradient lacks its factor 1 - beta": _adam(weights=(1, 1)),
        "g is not squared": _adam(square=lambda g: g),
        "beta and 1 - beta are exchanged": _adam(beta1=1 - BETA1, beta2=1 - BETA2),
        "the corrected moment is returned: it is for the step alone, the next one needs m and v": _returned,
        "epsilon is outside the division": _adam(plus=EPSILON, denominator=np.sqrt),
        "beta1 in both corrections": _adam(second=1 - BETA1**T),
        "1 - beta to the power t in the correction, not 1 - beta^t": _adam(
            (1 - BETA1) ** T, (1 - BETA2) ** T
        ),
    },
    split=_three,
    joined=lambda found: np.stack([np.asarray(one) for one in found]),
)

N = 10


def _spread(value: Any) -> Any:
    return lambda arrays, dy: {"y": value(arrays["values"])}


STANDARD_ERROR = OutputOnly(
    name="standard_error",
    session=6,
    title="the standard error of a mean of runs",
    equations="docs/study.md",
    functions=("standard_error",),
    stub='''"""Accuracies of n runs with different seeds: how far their mean may be from the true one."""

import numpy as np


def standard_error(values):
    """The standard deviation of the runs (with n - 1) over the root of n."""
    raise NotImplementedError
''',
    inputs={"values": (N,)},
    truth=lambda values: sqrt(values.var(0) / (N - 1)),
    right=_spread(lambda a: a.std(ddof=1) / np.sqrt(N)),
    wrong={
        "the standard deviation with 1/n": _spread(lambda a: a.std() / np.sqrt(N)),
        "the spread of one run: the root of n is missing": _spread(lambda a: a.std(ddof=1)),
        "the spread of one run, and with 1/n": _spread(lambda a: a.std()),
        "divided by n, not by its root": _spread(lambda a: a.std(ddof=1) / N),
        "the variance: the root is missing": _spread(lambda a: a.var(ddof=1) / N),
        "the variance of one run": _spread(lambda a: a.var(ddof=1)),
        "half the range": _spread(lambda a: np.ptp(a) / 2),
        "the range": _spread(np.ptp),
        "the mean itself": _spread(lambda a: a.mean()),
        "a half-width of 95%: 1.96 standard errors": _spread(lambda a: 1.96 * a.std(ddof=1) / np.sqrt(N)),
        "the mean distance from the mean": _spread(lambda a: np.abs(a - a.mean()).mean()),
        "the mean distance from the mean, over the root of n": _spread(
            lambda a: np.abs(a - a.mean()).mean() / np.sqrt(N)
        ),
        "over the root of n - 1: with the spread by n - 1 it is n": _spread(
            lambda a: a.std(ddof=1) / np.sqrt(N - 1)
        ),
        "times the root of n: a mean of more runs is surer, not less": _spread(
            lambda a: a.std(ddof=1) * np.sqrt(N)
        ),
        "the variance over the root of n": _spread(lambda a: a.var(ddof=1) / np.sqrt(N)),
        "the range over the root of n": _spread(lambda a: np.ptp(a) / np.sqrt(N)),
    },
    without=("one sample",),
)
