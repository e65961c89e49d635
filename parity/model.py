"""Whole networks, layer by layer under teacher forcing, their first update, and their predictions.

Every layer of a traced training step is judged on the inputs and upstream gradients that the backend itself
handed to it: what an earlier layer got wrong is not held against a later one, and a layer that is wired to
the wrong neighbour, order or label shows. So is the update: new parameters are judged on the gradients
of the trace, new running statistics on each batch norm's own input. `judge_trace` and `judge_update` serve
any trace of any experiment's first step.

JAX is traced operation by operation. In a compiled program a value that two kernels need may be computed in
both, with and without fused multiply-add: the one that leaves the program need not be the one that was used.
What is compiled is judged layer by layer (parity.subjects.jax_side), and by its predictions here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from cifar10.preprocess import fit
from experiment.backend import Backend, State, Steps, TrainingData, create, plan_steps
from experiment.init import initial_parameters
from experiment.layers import (
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    is_weight,
)
from experiment.network import Model
from experiment.spec import Data, Device, Experiment, Initialization, Objective, Optimization, Training
from parity.bounded import Bounded, either
from parity.cases import Case, generator
from parity.check import Label, Result, judge
from parity.items import Item
from parity.rounding import Array, Rounding, rounding
from parity.subjects import Place, unfused
from parity.truth import Inputs, Settings, Truth, conv, dense, loss, norm, optim

MODEL = Item("model", dense.linear)
"""Its truth is each layer's own."""
CASES = {
    "MLP": Model(hidden=(12, 8), slope=0.02),
    "MLP, batch norm, dropout": Model(hidden=(12, 8), slope=0.1, dropout=0.3, batch_norm="manual"),
    "CNN": Model(channels=("4", "M", "5"), batch_norm="autodiff", head_norm=True, slope=0.0),
}
BATCH, TEST = 6, 40


def check_models(
    backend: str,
    dtypes: list[str] | None,
    device: Device,
    quick: bool,
    progress: Callable[[str], None],
    eager: bool = False,
) -> list[Result]:
    """Every model in float64 and float32 on one backend and device; quick: the second alone, in float32, and
    unless `eager` not in JAX, which compiles for long the first time.
    """
    if quick and backend == "jax" and not eager:
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


def described(model: Model, place: Place) -> Experiment:
    """The experiment whose first step is judged."""
    return Experiment(
        model=model,
        initialization=Initialization("framework"),
        objective=Objective(label_smoothing=0.1, l2=0.01),
        optimization=Optimization("adamw", 1e-3, weight_decay=0.01),
        data=Data(batch_size=BATCH),
        training=Training(steps=1, dtype=place.number),
    )


def first_step(spec: Experiment) -> tuple[TrainingData, Mapping[str, Array], Steps]:
    """Its data, parameters and batch."""
    return _data(), _parameters(spec), plan_steps(spec, np.arange(BATCH, dtype=np.int32)[None], 0)


def _check(model: Model, label: Label) -> list[Result]:
    spec = described(model, label.place)
    data, parameters, steps = first_step(spec)
    running = create(label.backend, spec, data, label.place.device)  # type: ignore[arg-type]
    running.start(parameters)
    labels = data.labels["train"][:BATCH]
    with unfused(label.backend):
        trace = running.trace(steps)
    results = judge_trace(spec, parameters, trace, labels, steps, label)
    results += _predictions(spec, parameters, data, running, label)
    with unfused(label.backend):
        running.train(steps)
    return results + judge_update(spec, parameters, trace, running.export_state(), steps, label)


def judge_trace(
    spec: Experiment, parameters: Inputs, trace: Inputs, labels: Array, steps: Steps, label: Label
) -> list[Result]:
    """One step's trace (see experiment.backend) under `parameters`; quantities are `<layer> <y, dx, ...>`."""
    layers, results = spec.layers(), []
    for before, layer in pairwise((None, *layers)):
        assert layer is not None
        inputs, settings, truth = _layer(layer, parameters, steps, rounding(label.place.dtype))
        came = "input" if before is None else f"activation/{before.name}"
        inputs["x"] = trace[came]
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
        if spec.objective.l2 and "dW" in found:
            found["dW"] = _with_penalty(found["dW"], inputs["W"], spec.objective.l2)
        wanted = {f"{layer.name} {name}": found[name] for name in named.values()}
        actual = {f"{layer.name} {name}": np.asarray(trace[key]) for key, name in named.items()}
        results += judge(wanted, actual, label)
    return results + _loss(spec, parameters, trace, labels, label)


def _with_penalty(dW: Bounded, W: Array, l2: float) -> Bounded:
    """dW + l2 W, or the penalty's two factors one after the other."""
    W_, half = Bounded.exact(W, dW.r), Bounded.constant(0.5 * l2, dW.r)
    return either(dW + l2 * W_, dW + half * W_ + half * W_)


def judge_update(
    spec: Experiment, parameters: Inputs, trace: Inputs, after: State, steps: Steps, label: Label
) -> list[Result]:
    """The state after the traced step: `<parameter> updated`, its moments, and running statistics."""
    r = rounding(label.place.dtype, label.place.device).wide
    wanted: dict[str, Bounded] = {}
    actual: dict[str, Array] = {}
    how = {"optimization": spec.optimization, "learning_rates": steps.learning_rates}
    for name, theta in parameters.items():
        inputs = {"theta": r.nearest(theta), "g": trace[f"gradient/{name}"][None]}
        with np.errstate(all="ignore"):
            found = optim.steps(inputs, how, r)
        keys = {slot: f"optimizer/{slot}/{name}" for slot in found} | {"theta": f"parameters/{name}"}
        for slot, value in found.items():
            quantity = f"{name} {'updated' if slot == 'theta' else slot}"
            wanted[quantity], actual[quantity] = value[0], after[keys[slot]]
    for before, layer in pairwise(spec.layers()):
        if isinstance(layer, BatchNorm):
            inputs, settings, truth = _layer(layer, parameters, steps, rounding(label.place.dtype))
            x = trace[f"activation/{before.name}"]
            found = _truth(truth, inputs | {"x": x, "dy": np.zeros_like(x)}, settings, label)
            for key in ("running_mean", "running_var"):
                wanted[f"{layer.name} {key}"] = found[key]
                actual[f"{layer.name} {key}"] = after[f"statistics/{layer.name}.{key}"]
    return judge(wanted, actual, label)


def _loss(spec: Experiment, parameters: Inputs, trace: Inputs, labels: Array, label: Label) -> list[Result]:
    last, objective = spec.layers()[-1].name, spec.objective
    kinds: dict[str, Truth] = {
        "cross_entropy": loss.cross_entropy,
        "squared_error": loss.squared_error,
        "hinge": loss.hinge,
    }
    inputs = {"s": trace[f"activation/{last}"], "labels": labels.astype(np.int64)}
    found = _truth(kinds[objective.loss], inputs, {"smoothing": objective.label_smoothing}, label)
    wanted = {"loss": _objective(found["L"], spec, parameters), "loss ds": found["ds"]}
    value = rounding(label.place.dtype).nearest(trace["loss"])  # NumPy takes the mean in float64
    return judge(wanted, {"loss": value, "loss ds": trace[f"gradient/{last}"]}, label)


def _objective(L: Bounded, spec: Experiment, parameters: Inputs) -> Bounded:
    """The mean loss and the L2 penalty of all weights."""
    flat = [Bounded.exact(L.r.nearest(W), L.r).reshape(-1) for key, W in parameters.items() if is_weight(key)]
    squares = [W.inner(W, axis=0) for W in flat]
    return L.mean() + sum(squares[1:], squares[0]) * (0.5 * spec.objective.l2)


def _truth(truth: Truth, inputs: Inputs, settings: Settings, label: Label) -> dict[str, Bounded]:
    with np.errstate(all="ignore"):
        return truth(inputs, settings, rounding(label.place.dtype, label.place.device))


def _layer(
    layer: Layer, parameters: Inputs, steps: Steps, r: Rounding
) -> tuple[dict[str, Array], Settings, Truth]:
    """Its inputs but for x and dy, its settings and its truth."""
    own = {key.rpartition(".")[2]: r.nearest(array) for key, array in _own(layer, parameters).items()}
    match layer:
        case Linear():
            return {"W": own["weight"], "b": own["bias"]}, {}, dense.linear
        case Conv2d(_, _, _, window, bias):
            inputs = {"W": own["weight"]} | ({"b": own["bias"]} if bias else {})
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
            return own | fresh, {"eps": eps, "momentum": momentum}, norm.train


def _own(layer: Layer, parameters: Inputs) -> Inputs:
    return {key: array for key, array in parameters.items() if key.rpartition(".")[0] == layer.name}


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
