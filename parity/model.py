"""Whole networks, layer by layer under teacher forcing, and their evaluation.

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
from experiment.backend import Steps, TrainingData, create, plan_steps
from experiment.init import initial_parameters
from experiment.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d
from experiment.network import Model
from experiment.spec import Data, Device, Experiment, Initialization, Objective, Training
from parity.bounded import Bounded, either
from parity.cases import Case, generator
from parity.check import Label, Result, judge
from parity.evaluation import judge_evaluation
from parity.items import Item
from parity.rounding import Array, Rounding, rounding
from parity.subjects import Place, unfused
from parity.truth import Inputs, Settings, Truth, conv, dense, loss, norm

MODEL = Item("model", dense.linear)
"""Its truth is each layer's own."""
CASES = {
    "one layer": Model(hidden=()),
    "MLP": Model(hidden=(12, 8), slope=0.02),
    "MLP, batch norm, dropout": Model(hidden=(12, 8), slope=0.1, dropout=0.3, batch_norm="manual"),
    "shallow CNN": Model(channels=("4", "M"), batch_norm="manual", slope=0.02),
    "CNN": Model(channels=("4", "M", "5"), batch_norm="autodiff", head_norm=True, slope=0.0),
}
BATCH, TEST = 6, 20


def check_models(
    backend: str, dtypes: list[str] | None, device: Device, quick: bool, progress: Callable[[str], None]
) -> list[Result]:
    """Every model in every format on one backend and device; quick: one of them, in float32, and not in JAX,
    which compiles for long.
    """
    if quick and backend == "jax":
        return []
    results: list[Result] = []
    formats = ("float64", "float32", *(() if backend == "numpy" else ("bfloat16",)))
    formats += ("tf32",) if device == "gpu" else ()
    for name, model in CASES.items():
        for dtype in formats:
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
        training=Training(steps=1, dtype=label.place.number, tf32=label.place.tf32),
    )
    data, parameters = _data(), _parameters(spec)
    running = create(label.backend, spec, data, label.place.device)  # type: ignore[arg-type]
    running.start(parameters)
    steps = plan_steps(spec, np.arange(BATCH, dtype=np.int32)[None], 0)
    labels = data.labels["train"][:BATCH]
    with unfused(label.backend):
        trace = running.trace(steps)
    results = judge_trace(spec, parameters, trace, labels, steps, label)
    return results + judge_evaluation(spec, data, running, label)


def judge_trace(
    spec: Experiment, parameters: Inputs, trace: Inputs, labels: Array, steps: Steps, label: Label
) -> list[Result]:
    """One step's trace (see experiment.backend) under `parameters`; quantities are `<layer> <y, dx, ...>`.

    A bfloat16 network keeps float32 parameters: products see them rounded, batch norm as they are.
    """
    layers, results, r = spec.layers(), [], rounding(label.place.dtype)
    for before, layer in pairwise((None, *layers)):
        assert layer is not None
        inputs, settings, truth = _layer(layer, parameters, steps, r)
        came = "input" if before is None else f"activation/{before.name}"
        inputs["x"] = r.nearest(trace[came])  # the images come in float32, and the network rounds them
        named = {f"activation/{layer.name}": "y"}
        if before is not None and f"gradient/{before.name}" in trace:
            named[f"gradient/{before.name}"] = "dx"
        names = {"weight": "dW", "bias": "db", "gamma": "dgamma", "beta": "dbeta"}
        for key in parameters:
            if key.rpartition(".")[0] == layer.name:
                named[f"gradient/{key}"] = names[key.rpartition(".")[2]]
        # Before the first trained layer there are no gradients; what y asks of dy is its shape.
        inputs["dy"] = trace.get(f"gradient/{layer.name}", np.zeros_like(trace[f"activation/{layer.name}"]))
        found = _truth(truth, inputs, settings, label)
        if label.place.dtype == "bfloat16" and "b" in inputs:
            found["y"] = _with_either_bias(found["y"], truth, inputs, settings, label)
        wanted = {f"{layer.name} {name}": found[name] for name in named.values()}
        actual = {f"{layer.name} {name}": np.asarray(trace[key]) for key, name in named.items()}
        results += judge(wanted, actual, label)
    return results + _loss(spec, trace, labels, label)


def _loss(spec: Experiment, trace: Inputs, labels: Array, label: Label) -> list[Result]:
    last, objective = spec.layers()[-1].name, spec.objective
    kinds: dict[str, Truth] = {
        "cross_entropy": loss.cross_entropy,
        "squared_error": loss.squared_error,
        "hinge": loss.hinge,
    }
    inputs = {"s": trace[f"activation/{last}"], "labels": labels.astype(np.int64)}
    r = rounding(label.place.dtype, label.place.device)
    with np.errstate(all="ignore"):
        found = kinds[objective.loss](inputs, {"smoothing": objective.label_smoothing}, r.wide)
    # The loss of a bfloat16 network is float32's; its gradient enters the network rounded.
    wanted = {"loss": found["L"].mean(), "loss ds": found["ds"].to(r)}
    value = r.wide.nearest(trace["loss"])  # NumPy takes the mean in float64
    return judge(wanted, {"loss": value, "loss ds": trace[f"gradient/{last}"]}, label)


def _truth(truth: Truth, inputs: Inputs, settings: Settings, label: Label) -> dict[str, Bounded]:
    with np.errstate(all="ignore"):
        return truth(inputs, settings, rounding(label.place.dtype, label.place.device))


def _with_either_bias(y: Bounded, truth: Truth, inputs: Inputs, settings: Settings, label: Label) -> Bounded:
    """A bfloat16 layer's output with its bias rounded, as `y` has it, or added in float32 as it is."""
    exact = _truth(truth, {**inputs, "b": inputs["exact_b"]}, settings, label)["y"]
    return either(y, exact)


def _layer(
    layer: Layer, parameters: Inputs, steps: Steps, r: Rounding
) -> tuple[dict[str, Array], Settings, Truth]:
    """Its inputs but for x and dy, its settings and its truth."""
    wide = {key.rpartition(".")[2]: r.wide.nearest(array) for key, array in _own(layer, parameters).items()}
    own = {key: r.nearest(array) for key, array in wide.items()}
    match layer:
        case Linear():
            return {"W": own["weight"], "b": own["bias"], "exact_b": wide["bias"]}, {}, dense.linear
        case Conv2d(_, _, _, window, bias):
            inputs = {"W": own["weight"]}
            inputs |= {"b": own["bias"], "exact_b": wide["bias"]} if bias else {}
            return inputs, {"window": window}, conv.conv2d
        case MaxPool2d(_, window):
            return {}, {"window": window}, conv.max_pool2d
        case Flatten():
            return {}, {}, dense.flatten
        case LeakyReLU(_, slope):
            return {}, {"slope": slope}, dense.leaky_relu
        case Dropout(name, _, rate):
            return {"keep": steps.masks[name][0]}, {"rate": rate}, dense.dropout
        case BatchNorm(_, features, eps, momentum):
            fresh = {"running_mean": np.zeros(features), "running_var": np.ones(features)}
            return wide | fresh, {"eps": eps, "momentum": momentum}, norm.train


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
