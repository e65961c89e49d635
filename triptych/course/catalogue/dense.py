"""Session 2: Linear and LeakyReLU."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.formula import where
from triptych.course.catalogue.stub import stub
from triptych.course.exercise import Array, Arrays, Exercise

B, D_IN, D_OUT, SLOPE = 6, 4, 3, 0.1


def _linear(arrays: Arrays, dy: Array) -> Arrays:
    x, W, b = arrays["x"], arrays["W"], arrays["b"]
    y = x @ W.T + b
    dy = np.broadcast_to(dy, y.shape)
    return {"y": y, "dx": dy @ W, "dW": dy.T @ x, "db": dy.sum(axis=0)}


def _first_sample(arrays: Arrays, dy: Array) -> Arrays:
    return {"dW": np.outer(dy[0], arrays["x"][0]), "db": dy[0]}


def _input_alone(arrays: Arrays, dy: Array) -> Arrays:
    return {"dW": np.broadcast_to(arrays["x"].sum(axis=0), arrays["W"].shape)}


LINEAR = Exercise(
    name="linear",
    session=2,
    title="the Linear layer",
    equations="eq. 25 to 44",
    stub=stub(
        "Linear: x (B, d_in), W (d_out, d_in), b (d_out,) to y = x W^T + b, (B, d_out).",
        "x, W, b",
        "dx, dW, db, each of its array's shape",
    ),
    inputs={"x": (B, D_IN)},
    parameters={"W": (D_OUT, D_IN), "b": (D_OUT,)},
    truth=lambda x, W, b: x @ W.T + b,
    right=_linear,
    wrong={
        "b is left out": lambda arrays, dy: {"y": arrays["x"] @ arrays["W"].T},
        "b is subtracted": lambda arrays, dy: {"y": arrays["x"] @ arrays["W"].T - arrays["b"]},
        "the gradient of the first sample alone: sum over the batch": _first_sample,
        "dy is left out of the product": _input_alone,
    },
    factors={"B": B, "d_in": D_IN, "d_out": D_OUT},
)


def _leaky(arrays: Arrays, dy: Array) -> Arrays:
    x = arrays["x"]
    return {"y": np.where(x > 0, x, SLOPE * x), "dx": np.where(x > 0, 1, SLOPE) * dy}


def _bent(above: float, below: float) -> Any:
    def quantities(arrays: Arrays, dy: Array) -> Arrays:
        x = arrays["x"]
        return {"y": np.where(x > 0, above * x, below * x), "dx": np.where(x > 0, above, below) * dy}

    return quantities


def _by_dy(arrays: Arrays, dy: Array) -> Arrays:
    return {"dx": np.where(dy > 0, dy, SLOPE * dy)}


def _one_at_zero(arrays: Arrays, dy: Array) -> Arrays:
    return {"dx": np.where(arrays["x"] >= 0, 1, SLOPE) * dy}


def _none_at_zero(arrays: Arrays, dy: Array) -> Arrays:
    x = arrays["x"]
    return {"dx": np.where(x > 0, 1, np.where(x < 0, SLOPE, 0)) * dy}


def _ties(arrays: Arrays) -> Arrays:
    return {**arrays, "x": np.round(arrays["x"])}


LEAKY_RELU = Exercise(
    name="leaky_relu",
    session=2,
    title="LeakyReLU",
    equations="eq. 19 to 24, 37",
    stub=stub(
        f"LeakyReLU of slope {SLOPE}: x of any shape to max(0, x) + {SLOPE} min(0, x). "
        "The derivative at exactly 0\nis the slope.",
        "x",
        "dx",
    ),
    inputs={"x": (B, D_IN)},
    truth=lambda x: where(x > 0, x, SLOPE * x),
    right=_leaky,
    wrong={
        "the slope below 0 is 0: ReLU": _bent(1, 0),
        "the slope below 0 is 1: the identity": _bent(1, 1),
        "the two sides are exchanged": _bent(SLOPE, 1),
        "the sign below 0 is turned": _bent(1, -SLOPE),
        "the slope below 0 is 0.01, not 0.1": _bent(1, 0.01),
        "the slope below 0 is squared": _bent(1, SLOPE**2),
        "judged by the sign of dy, not of x": _by_dy,
        "right but at exactly 0: there the derivative is the slope, not 1": _one_at_zero,
        "right but at exactly 0: there the derivative is the slope, not 0": _none_at_zero,
        "x in the place of the derivative": lambda arrays, dy: {"dx": arrays["x"] * dy},
        "y in the place of the derivative": lambda arrays, dy: {"dx": _leaky(arrays, dy)["y"] * dy},
    },
    probes={"ties": _ties},
    factors={"slope": SLOPE, "B": B},
)
