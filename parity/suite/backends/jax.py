"""Flax NNX modules and optax chains, each compiled by itself; images are channels-last inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models import augment, conv, dense, loss, norm, optim
from parity.suite.backends import Computation, whole
from parity.suite.backends.whole import carried
from parity.verification.adapters.jax import precision
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe.given import Given
from triptych.describe.layers import BatchNorm
from triptych.describe.spec import Device

Array = jax.Array


def devices() -> list[Device]:
    """The CPU, and an accelerator where JAX has one."""
    platform = jax.default_backend()
    return ["cpu"] if platform == "cpu" else ["cpu", platform]  # type: ignore[list-item]


unfused = jax.disable_jit
forget = jax.clear_caches


def default_products(item: str, device: Device) -> str:
    """JAX's default: TF32 on a GPU that has it, bfloat16 on a TPU, and plain on a CPU
    (docs.jax.dev/en/latest/201/precision.html).
    """
    return {"gpu": "tf32", "tpu": "bfloat16"}.get(device, "float32")


def _call(place: Place, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function compiled afresh (or not at all), its results as NumPy arrays, bfloat16 as float32."""
    with precision(place):
        on_device = jax.tree.map(jnp.asarray, arguments)
        # A new function object each time: what was compiled before a replacement must not run after it.
        run = function if place.eager else jax.jit(lambda *values: function(*values))
        return jax.tree.map(_to_numpy, run(*on_device))


def _to_numpy(array: Array) -> np.ndarray:
    return np.asarray(array, np.float32 if array.dtype == jnp.bfloat16 else array.dtype)


def _pull(function: Callable[..., Any], dy: Array, *arguments: Array) -> Any:
    """(y, gradients, aux) of a function to (y, aux)."""
    y, pull, aux = jax.vjp(function, *arguments, has_aux=True)
    return y, pull(dy.astype(y.dtype)), aux


def _plain(function: Callable[..., Array]) -> Callable[..., tuple[Array, None]]:
    return lambda *arguments: (function(*arguments), None)


def _last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def _first(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def linear(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """See parity.suite.dense; so for all below."""

    def layer(x: Array, W: Array, b: Array) -> Array:
        return dense.linear(x.astype(place.number), W, b)

    arguments = (inputs[name] for name in ("dy", "x", "W", "b"))
    y, (dx, dW, db), _ = _call(place, lambda *a: _pull(_plain(layer), *a), *arguments)
    return {"y": y, "dx": dx, "dW": dW, "db": db}


def leaky_relu(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Any shape."""

    def layer(x: Array) -> Array:
        return dense.leaky_relu(x.astype(place.number), settings["slope"])

    y, (dx,), _ = _call(place, lambda *a: _pull(_plain(layer), *a), inputs["dy"], inputs["x"])
    return {"y": y, "dx": dx}


def dropout(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With the mask given."""

    def run(dy: Array, x: Array, keep: Array) -> Any:
        layer = _plain(lambda x: dense.dropout(x.astype(place.number), keep, settings["rate"]))
        return _pull(layer, dy, x)

    y, (dx,), _ = _call(place, run, inputs["dy"], inputs["x"], inputs["keep"])
    return {"y": y, "dx": dx}


def flatten(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Of images that are channels-last."""

    def layer(x: Array) -> Array:
        return conv.flatten(x.astype(place.number))

    y, (dx,), _ = _call(place, lambda *a: _pull(_plain(layer), *a), inputs["dy"], _last(inputs["x"]))
    return {"y": y, "dx": _first(dx)}


def conv2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """With a bias where there is one."""

    def layer(x: Array, W: Array, *b: Array) -> Array:
        return conv.conv2d(x.astype(place.number), W, b[0] if b else None, settings["window"])

    W = conv.to_internal(inputs["W"])
    arguments = [
        _last(inputs["dy"]),
        _last(inputs["x"]),
        W,
        *(inputs[name] for name in ("b",) if name in inputs),
    ]
    y, (dx, dW, *db), _ = _call(place, lambda *a: _pull(_plain(layer), *a), *arguments)
    outputs = {"y": _first(y), "dx": _first(dx), "dW": conv.to_canonical(dW)}
    return outputs | ({"db": db[0]} if db else {})


def max_pool2d(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Images."""

    def layer(x: Array) -> Array:
        return conv.max_pool2d(x.astype(place.number), settings["window"])

    arguments = _last(inputs["dy"]), _last(inputs["x"])
    y, (dx,), _ = _call(place, lambda *a: _pull(_plain(layer), *a), *arguments)
    return {"y": _first(y), "dx": _first(dx)}


def _batch_norm(manual: bool) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        def run(dy: Array, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> Any:
            running = {"running_mean": mean, "running_var": variance}

            def layer(x: Array, gamma: Array, beta: Array) -> tuple[Array, Any]:
                given = Given(statistics=running)
                y = _norm_module(gamma, beta, settings, manual)(x.astype(place.number), given)
                return y, given.updated

            y, gradients, updated = _pull(layer, dy, x, gamma, beta)
            return y, gradients, updated["running_mean"], updated["running_var"]

        names = ("gamma", "beta", "running_mean", "running_var")
        arguments = (_last(inputs["dy"]), _last(inputs["x"]), *(inputs[name] for name in names))
        y, (dx, dgamma, dbeta), mean, variance = _call(place, run, *arguments)
        outputs = {"y": _first(y), "dx": _first(dx), "dgamma": dgamma, "dbeta": dbeta}
        return outputs | {"running_mean": mean, "running_var": variance}

    return computation


def _norm_module(gamma: Array, beta: Array, settings: Settings, manual: bool) -> norm.BatchNorm:
    described = BatchNorm("norm", gamma.size, settings["eps"], settings.get("momentum", 0.0), manual)
    module = norm.BatchNorm(described)
    module.gamma, module.beta = nnx.Param(gamma), nnx.Param(beta)
    return module


def batch_norm_evaluate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By running statistics."""

    def run(x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
        module = _norm_module(gamma, beta, settings, manual=False)
        running = {"running_mean": mean, "running_var": variance}
        return module(x.astype(place.number), Given(statistics=running, by_batch=False))

    names = ("gamma", "beta", "running_mean", "running_var")
    return {"y": _first(_call(place, run, _last(inputs["x"]), *(inputs[name] for name in names)))}


def linear_norm(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Linear, then batch norm by the batch's statistics, its backward by JAX."""

    def run(dy: Array, x: Array, W: Array, b: Array, gamma: Array, beta: Array) -> Any:
        def layer(x: Array, W: Array, b: Array) -> Array:
            inner = dense.linear(x.astype(place.number), W, b)
            return _norm_module(gamma, beta, settings, manual=False)(inner, Given())

        return _pull(_plain(layer), dy, x, W, b)

    arguments = (inputs[name] for name in ("dy", "x", "W", "b", "gamma", "beta"))
    y, (dx, dW, db), _ = _call(place, run, *arguments)
    return {"y": y, "dx": dx, "dW": dW, "db": db}


def softmax(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Alone."""
    p, (ds,), _ = _call(place, lambda *a: _pull(_plain(loss.softmax), *a), inputs["dp"], inputs["s"])
    return {"p": p, "ds": ds}


def _loss(kind: str) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        def run(s: Array, labels: Array) -> Any:
            def mean(s: Array) -> tuple[Array, Array]:
                losses = loss.per_sample(kind, s, labels, settings.get("smoothing", 0.0))
                return losses.mean(), losses

            ds, losses = jax.grad(mean, has_aux=True)(s)
            return losses, ds

        losses, ds = _call(place, run, inputs["s"], inputs["labels"].astype(np.int32))
        return {"L": losses, "ds": ds}

    return computation


def l2(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """One weight."""

    def run(W: Array) -> Any:
        return jax.value_and_grad(lambda W: loss.l2_penalty([W], settings["l2"]))(W)

    penalty, dW = _call(place, run, inputs["W"])
    return {"penalty": penalty.reshape(1), "dW": dW}


def optimizer(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """Several steps; the moments start at zero."""
    o, etas = settings["optimization"], np.asarray(settings["learning_rates"], np.float64)
    scalars = optim.step_scalars(o, etas, 0)
    rounded = {name: column.astype(inputs["theta"].dtype) for name, column in scalars.items()}

    def run(theta: Array, g: Array, scalars: dict[str, Array]) -> Any:
        state, history = optim.init(o, {"theta": theta}), []
        for t in range(len(etas)):
            row = {name: column[t] for name, column in scalars.items()}
            updates, state = optim.create(o, row).update({"theta": g[t]}, state, {"theta": theta})
            theta = theta + updates["theta"]
            slots = {name: tree["theta"] for name, tree in optim.get_slots(state, o.slots).items()}
            history.append({"theta": theta, **slots})
        return {name: jnp.stack([row[name] for row in history]) for name in history[0]}

    found: Outputs = _call(place, run, inputs["theta"], inputs["g"], rounded)
    return found


def augmentation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """uint8 images, carried as floating numbers."""

    def run(images: Array, places: dict[str, Array]) -> Array:
        return augment.augment(images, places.get("shifts"), places.get("flips"), settings.get("border", 0))

    places = {key: inputs[key] for key in ("shifts", "flips") if key in inputs}
    return {"y": carried(_call(place, run, inputs["images"], places))}


conv2d_winograd = conv2d
batch_norm_manual = _batch_norm(True)
batch_norm_autodiff = _batch_norm(False)
cross_entropy = _loss("cross_entropy")
squared_error = _loss("squared_error")
hinge = _loss("hinge")
initial_parameters = whole.initial_parameters("jax")
preprocessing = whole.preprocessing("jax")
