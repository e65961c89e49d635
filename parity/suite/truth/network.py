"""A whole training step: each layer's truth, and one step carried from the pixels to the gradients.

`of_layer` gives a layer's own truth, for judging it on what it was given. `one_step` carries values and
errors through all layers, forward and backward: what any program may make of the step that starts from
given parameters, however it orders or repeats its operations. Where an input of LeakyReLU, or the maximum
of a pool, is known no better than its error, both outcomes are admitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from parity.bounds.bounded import Bounded, either
from parity.bounds.rounding import Array, Rounding
from parity.suite.truth import conv, dense, loss, norm, winograd
from parity.verification.judge import Truth
from parity.verification.place import Inputs, Settings
from triptych.describe.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    Window,
    first_trained,
    is_weight,
)
from triptych.describe.spec import Experiment, Objective

GRADIENTS = {"weight": "dW", "bias": "db", "gamma": "dgamma", "beta": "dbeta"}
"""Parameter's own name to its gradient's."""
LOSSES: dict[str, Truth] = {
    "cross_entropy": loss.cross_entropy,
    "squared_error": loss.squared_error,
    "hinge": loss.hinge,
}
WINOGRAD_CHANNELS = 16


def of_layer(
    layer: Layer,
    parameters: Inputs,
    statistics: Inputs,
    masks: Inputs,
    r: Rounding,
    winograd_too: bool = False,
) -> tuple[dict[str, Any], Settings, Truth]:
    """A layer's inputs but for x and dy, its settings and its truth.

    `masks` map dropout layers to (B, features); `winograd_too` admits Winograd's convolution where JAX has
    it on a CPU: 3x3 kernels on even images in float32, 16 channels or more on both sides.
    """
    # A bfloat16 network keeps float32 parameters: products see them rounded, batch norm as they are.
    wide = {key.rpartition(".")[2]: r.wide.nearest(array) for key, array in _own(layer, parameters).items()}
    own: dict[str, Any] = {key: r.nearest(array) for key, array in wide.items()}
    if "bias" in wide:
        own["bias"] = dense.bias(wide["bias"], r)
    match layer:
        case Linear():
            return {"W": own["weight"], "b": own["bias"]}, {}, dense.linear
        case Conv2d(_, channels, outputs, window, bias):
            inputs = {"W": own["weight"]} | ({"b": own["bias"]} if bias else {})
            suits = window == Window((3, 3), (1, 1), (1, 1)) and min(channels, outputs) >= WINOGRAD_CHANNELS
            transformed = winograd_too and r.name == "float32" and suits
            return inputs, {"window": window}, _either_convolution if transformed else conv.conv2d
        case MaxPool2d(_, window):
            return {}, {"window": window}, conv.max_pool2d
        case Flatten():
            return {}, {}, dense.flatten
        case LeakyReLU(_, slope):
            return {}, {"slope": slope}, dense.leaky_relu
        case Dropout(name, _, rate):
            return {"keep": masks[name]}, {"rate": rate}, dense.dropout
        case BatchNorm(name, _, eps, momentum):
            running = {key: statistics[f"{name}.{key}"] for key in ("running_mean", "running_var")}
            return wide | running, {"eps": eps, "momentum": momentum}, norm.train


def _own(layer: Layer, parameters: Inputs) -> Inputs:
    return {key: array for key, array in parameters.items() if key.rpartition(".")[0] == layer.name}


def _either_convolution(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
    """By Winograd's transforms or as a direct sum, a bias added to either."""
    found = conv.conv2d(inputs, settings, r)
    if inputs["x"].shape[2] % 2 or inputs["x"].shape[3] % 2:
        return found
    other = winograd.conv2d({"dy": np.zeros(found["y"].shape, r.stored), **inputs}, settings, r)
    if "b" in inputs:
        other["y"] = other["y"] + Bounded.exact(inputs["b"], r).reshape(-1, 1, 1)
    return {key: either(value, other[key]) if key in other else value for key, value in found.items()}


def with_penalty(gradient: Bounded, weight: Array, objective: Objective) -> Bounded:
    """L2 regularization's part added to a weight's gradient, at once or for the penalty's two factors."""
    if not objective.l2:
        return gradient
    W, half = Bounded.exact(gradient.r.nearest(weight), gradient.r), 0.5 * objective.l2
    return either(gradient + objective.l2 * W, gradient + half * W + half * W)


def penalty(parameters: Inputs, objective: Objective, r: Rounding) -> Bounded:
    """l2 / 2 times the sum of all squared weights."""
    flat = [Bounded.exact(r.nearest(W), r).reshape(-1) for key, W in parameters.items() if is_weight(key)]
    squares = [W.inner(W, axis=0) for W in flat]
    return sum(squares[1:], squares[0]) * (0.5 * objective.l2)


def one_step(
    spec: Experiment,
    parameters: Inputs,
    statistics: Inputs,
    x: Bounded,
    labels: Array,
    masks: Mapping[str, Array],
    r: Rounding,
    winograd_too: bool = False,
) -> dict[str, Bounded]:
    """Prepared images x (B, 3, 32, 32) with their errors to `loss`, `gradient/<parameter>` and
    `statistics/<norm>.<which>`.
    """
    layers, found = spec.layers(), dict[str, Bounded]()
    given: list[dict[str, Any]] = []
    x = x.to(r)
    for layer in layers:
        inputs, settings, truth = of_layer(layer, parameters, statistics, masks, r, winograd_too)
        given.append({**inputs, "x": x})
        quantities = truth(given[-1] | _no_gradient(layer, x), settings, r)
        found |= {
            f"statistics/{layer.name}.{key}": quantities[key]
            for key in ("running_mean", "running_var")
            if key in quantities
        }
        x = quantities["y"]
    logits: dict[str, Any] = {"s": x.to(r.wide), "labels": labels}
    ends = LOSSES[spec.objective.loss](logits, {"smoothing": spec.objective.label_smoothing}, r.wide)
    found["loss"] = ends["L"].mean()
    if spec.objective.l2:
        found["loss"] = found["loss"] + penalty(parameters, spec.objective, r.wide)
    dy, first = ends["ds"].to(r), first_trained(layers)
    for layer, known in zip(reversed(layers), reversed(given), strict=True):
        _, settings, truth = of_layer(layer, parameters, statistics, masks, r, winograd_too)
        needed = dict(settings) | {"need_dx": layer.name != first}
        quantities = truth(known | {"dy": dy}, needed, r)
        for key, array in _own(layer, parameters).items():
            gradient = quantities[GRADIENTS[key.rpartition(".")[2]]].to(r.wide)
            found[f"gradient/{key}"] = (
                with_penalty(gradient, array, spec.objective) if is_weight(key) else gradient
            )
        if layer.name == first:
            break
        dy = quantities["dx"]
    return found


def _no_gradient(layer: Layer, x: Bounded) -> dict[str, Bounded]:
    """An upstream gradient of 0, for the forward pass alone, where a truth asks for one of y's shape."""
    zero = Bounded.exact(0.0, x.r)
    match layer:
        case Linear() | Conv2d():
            return {}
        case MaxPool2d(_, window):
            return {"dy": zero.broadcast_to((*x.shape[:2], *window.output(*x.shape[2:])))}
        case Flatten():
            return {"dy": zero.broadcast_to((len(x), x.size // len(x)))}
        case _:
            return {"dy": zero.broadcast_to(x.shape)}
