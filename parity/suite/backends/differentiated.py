"""What JAX and torch differentiate by themselves, through the library's adapters.

The two have the same public names; a `Framework` says what else there is between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.suite.backends import Computation
from parity.suite.loss import KINDS
from parity.verification.adapters import Jax, Signature, Torch, built
from parity.verification.place import Inputs, Outputs, Place, Settings


def _same(array: Any) -> Any:
    return array


@dataclass(frozen=True)
class Framework:
    """A backend's modules, and what stands between them and canonical arrays."""

    given: Callable[[Callable[..., Any], Place], Jax | Torch]
    """A function as its adapter takes it."""
    cast: Callable[[Any, str], Any]
    """An array to the dtype of that name."""
    dense: Any
    conv: Any
    loss: Any
    normalized: Callable[[Settings, Any, Any, Any], Any]
    """(settings, x, gamma, beta) to y of batch norm by the batch's statistics, its backward derived."""
    images: Callable[[Any], Any] = _same
    """From channel-first."""
    back: Callable[[Any], Any] = _same
    """To channel-first."""
    kernel: Callable[[Any], Any] = _same


def computations(f: Framework) -> dict[str, Computation]:
    """By item."""

    def conv2d(settings: Settings, x: Any, W: Any, *b: Any) -> Any:
        y = f.conv.conv2d(f.images(x), f.kernel(W), b[0] if b else None, settings["window"])
        return f.back(y)

    def max_pool2d(settings: Settings, x: Any) -> Any:
        return f.back(f.conv.max_pool2d(f.images(x), settings["window"]))

    def linear_norm(settings: Settings, x: Any, W: Any, b: Any, gamma: Any, beta: Any) -> Any:
        return f.normalized(settings, f.dense.linear(x, W, b), gamma, beta)

    def loss(kind: str) -> Computation:
        """Each sample's, and the gradient of their mean."""
        of = lambda s, logits, labels: f.loss.per_sample(kind, logits, labels, s.get("smoothing", 0.0))  # noqa: E731
        return _layer(f, of, "s", "labels", y="L", upstream=_of_mean)

    def penalty(settings: Settings, W: Any) -> Any:
        return f.loss.l2_penalty([W], settings["l2"]).reshape(1)

    return {kind: loss(kind) for kind in KINDS} | {
        "linear": _layer(f, lambda s, x, W, b: f.dense.linear(x, W, b), "x", "W", "b"),
        "leaky_relu": _layer(f, lambda s, x: f.dense.leaky_relu(x, s["slope"]), "x"),
        "dropout": _layer(f, lambda s, x, keep: f.dense.dropout(x, keep, s["rate"]), "x", "keep"),
        "flatten": _layer(f, lambda s, x: f.conv.flatten(f.images(x)), "x"),
        "conv2d": _layer(f, conv2d, "x", "W", "b"),
        "max_pool2d": _layer(f, max_pool2d, "x"),
        "linear_norm": _layer(f, linear_norm, "x", "W", "b", "gamma", "beta", fixed=("gamma", "beta")),
        "softmax": _layer(f, lambda s, x: f.loss.softmax(x), "s", y="p", upstream=lambda i: i["dp"]),
        "l2": _layer(f, penalty, "W", y="penalty", upstream=lambda i: np.ones(1, i["W"].dtype)),
    }


def _of_mean(inputs: Inputs) -> Array:
    s = inputs["s"]
    return np.full(len(s), 1 / len(s), s.dtype)


def _layer(
    f: Framework,
    function: Callable[..., Any],
    *names: str,
    y: str = "y",
    upstream: Callable[[Inputs], Array] = lambda inputs: inputs["dy"],
    fixed: tuple[str, ...] = (),
) -> Computation:
    """y, and its gradient by each floating array of `names` that there is but for the `fixed` ones. Only the
    first is in bfloat16 where that is judged: parameters stay float32.
    """

    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        order = tuple(name for name in names if name in inputs)
        followed = tuple(name for name in order if inputs[name].dtype.kind == "f" and name not in fixed)
        held = replace(place, dtype="float32") if place.dtype == "bfloat16" else place

        def of(x: Any, *rest: Any) -> Any:
            return function(settings, f.cast(x, place.number), *rest)

        one = built("the backend", f.given(of, place), Signature(order, (), followed))
        found = one.pull({name: inputs[name] for name in order}, upstream(inputs), held)
        return {y: found.pop("y"), **found}

    return computation
