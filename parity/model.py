"""Whole networks, layer by layer under teacher forcing, and their predictions.

Every layer of a traced training step is judged on the inputs and upstream gradients that the backend itself
handed to it: what an earlier layer got wrong is not held against a later one, and a layer that is wired to
the wrong neighbour, order or label shows. `judge_trace` serves any trace of any experiment.

JAX is traced operation by operation. In a compiled program a value that two kernels need may be computed in
both, with and without fused multiply-add: the one that leaves the program need not be the one that was used.
What is compiled is judged layer by layer (parity.subjects.jax_side), and by its predictions here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from cifar10.preprocess import fit
from experiment.backend import Backend, Steps, TrainingData, create, plan_steps
from experiment.init import initial_parameters
from experiment.layers import BatchNorm, Conv2d, Layer, LeakyReLU, Linear, initial_statistics, is_weight
from experiment.network import Model
from experiment.spec import Data, Device, Experiment, Initialization, Objective, Training
from parity.bounded import Bounded
from parity.cases import Case, generator
from parity.check import Label, Result, judge
from parity.items import Item
from parity.rounding import Array, Rounding, rounding
from parity.subjects import Place, unfused
from parity.truth import Inputs, dense, network

MODEL = Item("model", dense.linear)
"""Its truth is each layer's own."""
CASES = {
    "MLP": Model(hidden=(12, 8), slope=0.02),
    "MLP, batch norm, dropout": Model(hidden=(12, 8), slope=0.1, dropout=0.3, batch_norm="manual"),
    "CNN": Model(channels=("4", "M", "5"), batch_norm="autodiff", head_norm=True, slope=0.0),
}
BATCH, TEST = 6, 40


def check_models(
    backend: str, dtypes: list[str] | None, device: Device, quick: bool, progress: Callable[[str], None]
) -> list[Result]:
    """Every model in float64 and float32 on one backend and device; quick: the second alone, in float32, and
    not in JAX, which compiles for long.
    """
    if quick and backend == "jax":
        return []
    results: list[Result] = []
    for name, model in CASES.items():
        for dtype in ("float64", "float32"):
            fast = (dtype, name) == ("float32", "MLP, batch norm, dropout")
            if (dtypes is None or dtype in dtypes) and (fast or not quick):
                progress(f"model {name}, {backend} on {device}")
                label = Label(MODEL, Case("model", name, {}), backend, Place(dtype, device))
                results += _check(model, label)
    return results


def _check(model: Model, label: Label) -> list[Result]:
    spec = Experiment(
        model=model,
        initialization=Initialization("framework"),
        objective=Objective(label_smoothing=0.1),
        data=Data(batch_size=BATCH),
        training=Training(steps=1, dtype=label.place.number),
    )
    data, parameters = _data(), _parameters(spec)
    running = create(label.backend, spec, data, label.place.device)  # type: ignore[arg-type]
    running.start(parameters)
    steps = plan_steps(spec, np.arange(BATCH, dtype=np.int32)[None], 0)
    labels = data.labels["train"][:BATCH]
    with unfused(label.backend):
        trace = running.trace(steps)
    results = judge_trace(spec, parameters, trace, labels, steps, label)
    return results + _predictions(spec, parameters, data, running, label)


def judge_trace(
    spec: Experiment, parameters: Inputs, trace: Inputs, labels: Array, steps: Steps, label: Label
) -> list[Result]:
    """One step's trace (see experiment.backend) under `parameters`; quantities are `<layer> <y, dx, ...>`."""
    r = rounding(label.place.dtype, label.place.device)
    fresh = initial_statistics(spec.layers())
    winograd_too = label.backend == "jax" and label.place.device == "cpu"
    wanted, keys = trace_truths(spec, parameters, fresh, trace, labels, steps, r, winograd_too)
    actual = {name: traced(trace, key, r) for name, key in keys.items() if key in trace}
    return judge({name: wanted[name] for name in keys}, actual, label)


def traced(trace: Inputs, key: str, r: Rounding) -> Array:
    """One array of a trace. NumPy takes the mean of the loss in float64."""
    return r.wide.nearest(trace[key]) if key == "loss" else np.asarray(trace[key])


def trace_truths(
    spec: Experiment,
    parameters: Inputs,
    statistics: Inputs,
    trace: Inputs,
    labels: Array,
    steps: Steps,
    r: Rounding,
    winograd_too: bool = False,
) -> tuple[dict[str, Bounded], dict[str, str]]:
    """`<layer> <quantity>`, `loss` and `loss ds` to truths on what the trace says each layer was given, and
    to the trace's keys. Behind batch norm also `<layer> running_mean` and `running_var`, which no trace has.
    """
    found: dict[str, Bounded] = {}
    keys: dict[str, str] = {}
    for before, layer in pairwise((None, *spec.layers())):
        assert layer is not None
        came = "input" if before is None else f"activation/{before.name}"
        named = {f"activation/{layer.name}": "y"}
        if before is not None and f"gradient/{before.name}" in trace:
            named[f"gradient/{before.name}"] = "dx"
        own = [key for key in parameters if key.rpartition(".")[0] == layer.name]
        named |= {f"gradient/{key}": network.GRADIENTS[key.rpartition(".")[2]] for key in own}
        masks = {name: mask[0] for name, mask in steps.masks.items()}
        inputs, settings, truth = network.of_layer(layer, parameters, statistics, masks, r, winograd_too)
        # Before the first trained layer there are no gradients; what y asks of dy is its shape.
        nothing = np.zeros_like(trace[f"activation/{layer.name}"])
        given = {**inputs, "x": trace[came], "dy": trace.get(f"gradient/{layer.name}", nothing)}
        with np.errstate(all="ignore"):
            quantities = truth(given, {**settings, "need_dx": "dx" in named.values()}, r)
            for key in own:
                if is_weight(key):
                    name = named[f"gradient/{key}"]
                    quantities[name] = network.with_penalty(quantities[name], parameters[key], spec.objective)
        for key, name in named.items():
            found[f"{layer.name} {name}"], keys[f"{layer.name} {name}"] = quantities[name], key
        found |= {f"{layer.name} {name}": quantities[name] for name in STATISTICS if name in quantities}
    last = spec.layers()[-1].name
    keys |= {"loss": "loss", "loss ds": f"gradient/{last}"}
    return found | _loss(spec, parameters, trace[f"activation/{last}"], labels, r), keys


STATISTICS = ("running_mean", "running_var")


def _loss(
    spec: Experiment, parameters: Inputs, logits: Array, labels: Array, r: Rounding
) -> dict[str, Bounded]:
    """The loss and its gradient by the logits, of a bfloat16 network in float32."""
    objective = spec.objective
    inputs = {"s": logits, "labels": labels.astype(np.int64)}
    with np.errstate(all="ignore"):
        found = network.LOSSES[objective.loss](inputs, {"smoothing": objective.label_smoothing}, r.wide)
        value = found["L"].mean()
        if objective.l2:
            value = value + network.penalty(parameters, objective, r.wide)
        return {"loss": value, "loss ds": found["ds"].to(r)}


# --- predictions ---


def _predictions(
    spec: Experiment, parameters: Inputs, data: TrainingData, running: Backend, label: Label
) -> list[Result]:
    """Wherever the largest true logit leads by more than both limits, it must be the one predicted."""
    if any(isinstance(layer, Conv2d) for layer in spec.layers()):
        return []
    found = running.evaluate("test").predictions
    with np.errstate(all="ignore"):
        s = _logits(spec, parameters, data, rounding(label.place.dtype, label.place.device))
    rows, first = np.arange(len(found)), s.value.argmax(axis=1)
    rivals = s.value.astype(np.float64) + s.error
    rivals[rows, first] = -np.inf
    lead = (s.value[rows, first] - s.error[rows, first]).astype(np.float64) - rivals.max(axis=1)
    wrong = int(np.count_nonzero((lead > 0) & (first != found)))
    sure = int(np.count_nonzero(lead > 0))
    if sure == 0:
        return [label.failure("predictions", "no image has a logit that leads beyond rounding")]
    if wrong:
        return [label.failure("predictions", f"{wrong} of {sure} sure ones are wrong")]
    return [label.result("predictions", True, 0.0, note=f"{sure} of {len(found)} sure, all right")]


def _logits(spec: Experiment, parameters: Inputs, data: TrainingData, r: Rounding) -> Bounded:
    """Evaluation of an MLP on the test images, errors carried from the pixels on."""
    mean = Bounded.constant(data.mean, r)
    x = (Bounded.exact(data.images["test"], r) - mean).reshape(len(data.labels["test"]), -1)
    for layer in spec.layers():
        own = {key.rpartition(".")[2]: r.nearest(array) for key, array in _own(layer, parameters).items()}
        exact = {name: Bounded.exact(array, r) for name, array in own.items()}
        match layer:
            case Linear():
                x = x @ exact["weight"].T + exact["bias"]
            case LeakyReLU(_, slope):
                steepest = Bounded(x.value, x.error * max(1.0, slope), r)
                scaled = x * slope
                value = np.where(x.value > 0, x.value, scaled.value)
                x = Bounded(value, np.maximum(steepest.error, scaled.error), r)
            case BatchNorm(_, _, eps):
                # Running mean 0 and variance 1, as they start.
                scale = exact["gamma"] * (Bounded.exact(1.0, r) + eps).rsqrt(least=1.0)
                x = x * scale + exact["beta"]
    return x


def _own(layer: Layer, parameters: Inputs) -> Inputs:
    return {key: array for key, array in parameters.items() if key.rpartition(".")[0] == layer.name}


def _data() -> TrainingData:
    rng = generator("model")
    sizes = {"train": BATCH, "test": TEST}
    images = {name: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for name, n in sizes.items()}
    labels = {name: rng.integers(0, 10, n).astype(np.uint8) for name, n in sizes.items()}
    mean, scale = fit(images["train"], "mean-image")
    return TrainingData(images, labels, mean, scale)


def _parameters(spec: Experiment) -> Mapping[str, Array]:
    """As drawn, with gamma and beta away from 1 and 0."""
    drawn = initial_parameters(spec)
    moved = {
        key: array + 0.3 * generator(key).normal(size=array.shape)
        for key, array in drawn.items()
        if key.endswith((".gamma", ".beta"))
    }
    return drawn | moved
