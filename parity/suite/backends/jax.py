"""Flax NNX modules and optax chains, each compiled by itself; images are channels-last inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_models import augment, conv, dense, loss, norm, optim
from jax_models.cpu import winograd
from parity.suite.backends import Computation, whole
from parity.suite.backends.differentiated import Framework, computations
from parity.suite.backends.whole import carried
from parity.suite.norm import RUNNING
from parity.verification.adapters import Jax, as_float
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
        return jax.tree.map(as_float, run(*on_device))


def _last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def _first(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


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


DIFFERENTIATED = computations(
    Framework(
        lambda function, place: Jax(function, jit=not place.eager),
        lambda array, dtype: array.astype(dtype),
        *(dense, conv, loss),
        lambda settings, x, gamma, beta: _norm_module(gamma, beta, settings, manual=False)(x, Given()),
        *(_last, _first, lambda W: conv.to_internal(W)),
    )
)


def conv2d_winograd(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
    """And whether both ways took the transforms; elsewhere than on a CPU there is no such choice."""
    with (
        patch.object(winograd, "forward", wraps=winograd.forward) as forward,
        patch.object(winograd, "backward", wraps=winograd.backward) as backward,
    ):
        found = DIFFERENTIATED["conv2d"](inputs, settings, place)
    _, _, height, width = inputs["x"].shape
    even = not (height % 2 or width % 2)
    taken = forward.called and backward.called if place.device == "cpu" else even
    return found | {"by Winograd": np.array([taken], np.float32)}


batch_norm_manual, batch_norm_autodiff = _batch_norm(True), _batch_norm(False)
initial_parameters = whole.initial_parameters("jax")
preprocessing = whole.preprocessing("jax")
