"""A whole training step: each layer's expected values, and one step carried from the pixels to the gradients.

`of_layer` gives a layer's own, for judging it on what it was given. `one_step` carries values and
errors through all layers, forward and backward: what any program may make of the step that starts from
given parameters, however it orders or repeats its operations. Where an input of LeakyReLU, or the maximum
of a pool, is known no better than its error, both outcomes are admitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parity.bounds.bounded import Bounded, either
from parity.bounds.rounding import Array, Rounding
from parity.suite.operator import Held
from parity.suite.registry import ITEMS, in_network
from parity.verification.judge import Truth
from parity.verification.place import Inputs, Settings
from triptych.describe.layers import Layer, first_trained, is_weight
from triptych.describe.spec import Experiment, Objective


def own(layer: Layer, arrays: Inputs) -> dict[str, Array]:
    """A layer's arrays by the last part of their names."""
    parts = ((key.rpartition("."), array) for key, array in arrays.items())
    return {last: array for (name, _, last), array in parts if name == layer.name}


def of_layer(
    layer: Layer,
    parameters: Inputs,
    statistics: Inputs,
    masks: Inputs,
    r: Rounding,
    winograd_too: bool = False,
) -> tuple[Mapping[str, Any], Settings, Truth]:
    """A layer's inputs but for x and dy, its settings and its expected values.

    `masks` map dropout layers to (B, features); `winograd_too` admits Winograd's convolution where JAX has
    it on a CPU.
    """
    arrays = own(layer, parameters) | own(layer, statistics)
    if layer.name in masks:
        arrays["keep"] = masks[layer.name]
    return in_network(layer).train(layer, Held(arrays, r, winograd_too))


def evaluated(layer: Layer, arrays: Inputs, x: Bounded, batch_statistics: bool = False) -> Bounded:
    """The layer's output in evaluation, of an x that may carry errors; `arrays` are its own, by the last part
    of their names. Batch norm takes running statistics, or those of x.
    """
    record, held = in_network(layer), Held(arrays, x.r)
    if record.evaluate is not None:
        return record.evaluate(layer, held, x, batch_statistics)
    inputs, settings, expected = record.train(layer, held)
    given: dict[str, Any] = {**inputs, "x": x}
    return expected(given, settings, x.r)["y"]


def loss(objective: Objective, logits: Any, labels: Array, r: Rounding) -> dict[str, Bounded]:
    """L (B,) and ds (B, 10) of the batch mean."""
    inputs = {"s": logits, "labels": labels}
    return ITEMS[objective.loss].truth(inputs, {"smoothing": objective.label_smoothing}, r)


def total(found: Mapping[str, Bounded], parameters: Inputs, objective: Objective, r: Rounding) -> Bounded:
    """The loss: the batch's mean, and l2 / 2 times the sum of all squared weights."""
    value = found["L"].mean()
    if not objective.l2:
        return value
    flat = [Bounded.exact(r.nearest(W), r).reshape(-1) for key, W in parameters.items() if is_weight(key)]
    squares = [W.inner(W, axis=0) for W in flat]
    return value + sum(squares[1:], squares[0]) * (0.5 * objective.l2)


def with_penalty(gradient: Bounded, weight: Array, objective: Objective) -> Bounded:
    """L2 regularization's part added to a weight's gradient, at once or for the penalty's two factors."""
    if not objective.l2:
        return gradient
    W, half = Bounded.exact(gradient.r.nearest(weight), gradient.r), 0.5 * objective.l2
    return either(gradient + objective.l2 * W, gradient + half * W + half * W)


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
    layers, objective, found = spec.layers(), spec.objective, dict[str, Bounded]()
    prepared = [of_layer(layer, parameters, statistics, masks, r, winograd_too) for layer in layers]
    given: list[dict[str, Any]] = []
    x = x.to(r)
    for layer, (inputs, settings, expected) in zip(layers, prepared, strict=True):
        given.append({**inputs, "x": x})
        quantities = expected(given[-1], settings, r)
        for key in in_network(layer).statistics:
            found[f"statistics/{layer.name}.{key}"] = quantities[key]
        x = quantities["y"]
    ends = loss(objective, x.to(r.wide), labels, r.wide)
    found["loss"] = total(ends, parameters, objective, r.wide)
    dy, first = ends["ds"].to(r), first_trained(layers)
    for layer, known, (_, settings, expected) in reversed(list(zip(layers, given, prepared, strict=True))):
        quantities = expected(known | {"dy": dy}, {**settings, "need_dx": layer.name != first}, r)
        for last, weight in own(layer, parameters).items():
            g, key = quantities[in_network(layer).gradients[last]].to(r.wide), f"{layer.name}.{last}"
            found[f"gradient/{key}"] = with_penalty(g, weight, objective) if is_weight(key) else g
        if layer.name == first:
            break
        dy = quantities["dx"]
    return found
