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
from parity.suite.norm import RUNNING
from parity.verification.adapters import Jax, Signature, as_float
from parity.verification.adapters.jax import implementation, precision
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
        return jax.tree.map(as_float, run(*on_device))


def _last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def _first(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _layer(function: Callable[..., Array], *names: str, fixed: tuple[str, ...] = ()) -> Computation:
    """Through the library's adapter: `function(settings, *arrays)`, and its gradient by each floating array
    of `names` that there is but for the `fixed` ones. Parameters stay float32 where x is bfloat16.
    """

    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        order = tuple(name for name in names if name in inputs)
        followed = tuple(name for name in order if inputs[name].dtype.kind == "f" and name not in fixed)
        masters = [jnp.dtype(inputs[name].dtype) for name in order[1:]]

        def of(x: Array, *rest: Array) -> Array:
            held = (array.astype(dtype) for array, dtype in zip(rest, masters, strict=True))
            return function(settings, x, *held)

        given = Jax(of, jit=not place.eager)
        one = implementation("jax", given, Signature(order, (), followed))
        return one.pull({name: inputs[name] for name in order}, inputs["dy"], place)

    return computation


def _conv2d(settings: Settings, x: Array, W: Array, *b: Array) -> Array:
    W = conv.to_internal(W)
    return _first(conv.conv2d(_last(x), W, b[0] if b else None, settings["window"]))


def _linear_norm(settings: Settings, x: Array, W: Array, b: Array, gamma: Array, beta: Array) -> Array:
    """Linear, then batch norm by the batch's statistics, its backward by JAX."""
    return _norm_module(gamma, beta, settings, manual=False)(dense.linear(x, W, b), Given())


linear = _layer(lambda settings, x, W, b: dense.linear(x, W, b), "x", "W", "b")
leaky_relu = _layer(lambda settings, x: dense.leaky_relu(x, settings["slope"]), "x")
dropout = _layer(lambda settings, x, keep: dense.dropout(x, keep, settings["rate"]), "x", "keep")
flatten = _layer(lambda settings, x: conv.flatten(_last(x)), "x")
conv2d = conv2d_winograd = _layer(_conv2d, "x", "W", "b")
max_pool2d = _layer(lambda settings, x: _first(conv.max_pool2d(_last(x), settings["window"])), "x")
linear_norm = _layer(_linear_norm, "x", "W", "b", "gamma", "beta", fixed=("gamma", "beta"))


def softmax(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By another name for y."""
    found = _layer(lambda settings, s: loss.softmax(s), "s")({**inputs, "dy": inputs["dp"]}, settings, place)
    return {"p": found["y"], "ds": found["ds"]}


def _batch_norm(manual: bool) -> Computation:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        def run(given: dict[str, Array]) -> dict[str, Array]:
            def layer(x: Array, gamma: Array, beta: Array) -> tuple[Array, Any]:
                held = Given(statistics={name: given[name] for name in RUNNING})
                y = _norm_module(gamma, beta, settings, manual)(_last(x).astype(place.number), held)
                return _first(y), held.updated

            y, pull, updated = jax.vjp(layer, *(given[name] for name in ("x", "gamma", "beta")), has_aux=True)
            dx, dgamma, dbeta = pull(given["dy"].astype(y.dtype))
            return {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta, **updated}

        found: Outputs = _call(place, run, dict(inputs))
        return found

    return computation


def _norm_module(gamma: Array, beta: Array, settings: Settings, manual: bool) -> norm.BatchNorm:
    described = BatchNorm("norm", gamma.size, settings["eps"], settings.get("momentum", 0.0), manual)
    module = norm.BatchNorm(described)
    module.gamma, module.beta = nnx.Param(gamma), nnx.Param(beta)
    return module


def batch_norm_evaluate(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """By running statistics."""

    def run(given: dict[str, Array]) -> Array:
        module = _norm_module(given["gamma"], given["beta"], settings, manual=False)
        held = Given(statistics={name: given[name] for name in RUNNING}, by_batch=False)
        return _first(module(_last(given["x"]).astype(place.number), held))

    return {"y": _call(place, run, dict(inputs))}


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


batch_norm_manual = _batch_norm(True)
batch_norm_autodiff = _batch_norm(False)
cross_entropy = _loss("cross_entropy")
squared_error = _loss("squared_error")
hinge = _loss("hinge")
initial_parameters = whole.initial_parameters("jax")
preprocessing = whole.preprocessing("jax")
