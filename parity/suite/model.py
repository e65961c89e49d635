"""Whole networks, layer by layer under teacher forcing, their first update, and their evaluation.

Every layer of a traced training step is judged on the inputs and upstream gradients that the backend itself
handed to it: what an earlier layer got wrong is not held against a later one, and a layer that is wired to
the wrong neighbour, order or label shows. So is the update: new parameters are judged on the gradients
of the trace, new running statistics on each batch norm's own input. `judge_trace` and `judge_update` serve
any trace of any experiment's first step.

JAX is traced operation by operation. In a compiled program a value that two kernels need may be computed in
both, with and without fused multiply-add: the one that leaves the program need not be the one that was used.
What is compiled is judged layer by layer (parity.suite.backends.jax), and by its predictions here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.suite import network, optim
from parity.suite.backends import unfused
from parity.suite.evaluation import judge_evaluation
from parity.suite.registry import in_network
from parity.verification.case import Case, generator
from parity.verification.judge import Item, Label, Result, judge
from parity.verification.place import Inputs, Place
from triptych.cifar10.preprocess import fit
from triptych.describe.init import initial_parameters
from triptych.describe.layers import Layer, initial_statistics, is_weight
from triptych.describe.network import Model
from triptych.describe.protocol import Backend, Steps, TrainingData, create, plan_steps
from triptych.describe.spec import Data, Device, Experiment, Initialization, Objective, Optimization, Training
from triptych.describe.state import State

MODEL = Item("model", lambda inputs, settings, r: {})
"""What is expected is each layer's own."""
CASES = {
    "one layer": Model(hidden=()),
    "MLP": Model(hidden=(12, 8), slope=0.02),
    "MLP, batch norm, dropout": Model(hidden=(12, 8), slope=0.1, dropout=0.3, batch_norm="manual"),
    "shallow CNN": Model(channels=("4", "M"), batch_norm="manual", slope=0.02),
    "CNN": Model(channels=("4", "M", "5"), batch_norm="autodiff", head_norm=True, slope=0.0),
}
BATCH, TEST = 6, 20


def check_models(
    backend: str,
    dtypes: list[str] | None,
    device: Device,
    quick: bool,
    progress: Callable[[str], None],
    eager: bool = False,
) -> list[Result]:
    """Every model in every format on one backend and device; quick: one of them, in float32, and unless
    `eager` not in JAX, which compiles for long the first time.
    """
    if quick and backend == "jax" and not eager:
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


def described(model: Model, place: Place) -> Experiment:
    """The experiment whose first step is judged."""
    return Experiment(
        model=model,
        initialization=Initialization("framework"),
        objective=Objective(label_smoothing=0.1, l2=0.01),
        optimization=Optimization("adamw", 1e-3, weight_decay=0.01),
        data=Data(batch_size=BATCH),
        training=Training(steps=1, dtype=place.number, tf32=place.tf32),
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
    with unfused(label.backend):
        running.train(steps)
    results += judge_update(spec, parameters, trace, labels, running.export_state(), steps, label)
    results.append(_resumed(spec, data, running, steps, label))
    return results + judge_evaluation(spec, data, running, label)


def _resumed(spec: Experiment, data: TrainingData, running: Backend, steps: Steps, label: Label) -> Result:
    """One more step, here and from the exported state: bit for bit the same."""
    other = create(label.backend, spec, data, label.place.device)  # type: ignore[arg-type]
    state = running.export_state()
    other.import_state(state)
    with unfused(label.backend):
        running.train(steps)
        other.train(steps)
    expected, found = running.export_state(), other.export_state()
    running.import_state(state)  # evaluation is judged after the first step
    trees = {"parameters": (expected.parameters, found.parameters)}
    trees |= {"statistics": (expected.statistics, found.statistics)}
    trees |= {slot: (tree, found.slots[slot]) for slot, tree in expected.slots.items()}
    parts = [
        f"{name} of {key}"
        for name, (ours, theirs) in trees.items()
        for key in ours
        if not np.array_equal(ours[key], theirs[key], equal_nan=True)
    ]
    if parts:
        return label.failure("resumed", f"another step from the saved state: {parts[0]} differ")
    return label.result("resumed", True, 0.0)


def judge_trace(
    spec: Experiment, parameters: Inputs, trace: Inputs, labels: Array, steps: Steps, label: Label
) -> list[Result]:
    """One step's trace under `parameters`; quantities are `<layer> <y, dx, ...>`."""
    r = rounding(label.place.dtype, label.place.device)
    fresh = initial_statistics(spec.layers())
    winograd_too = label.backend == "jax" and label.place.device == "cpu"
    wanted, keys = expected_trace(spec, parameters, fresh, trace, labels, steps, r, winograd_too)
    actual = {name: traced(trace, key, r) for name, key in keys.items() if key in trace}
    return judge({name: wanted[name] for name in keys}, actual, label)


def traced(trace: Inputs, key: str, r: Rounding) -> Array:
    """One array of a trace. NumPy takes the mean of the loss in float64."""
    return r.wide.nearest(trace[key]) if key == "loss" else np.asarray(trace[key])


def expected_trace(
    spec: Experiment,
    parameters: Inputs,
    statistics: Inputs,
    trace: Inputs,
    labels: Array,
    steps: Steps,
    r: Rounding,
    winograd_too: bool = False,
) -> tuple[dict[str, Bounded], dict[str, str]]:
    """`<layer> <quantity>`, `loss` and `loss ds` to expected values on what the trace says each layer was
    given, and to the trace's keys. Running statistics, which no trace has, are `<layer> running_mean` etc.
    """
    found: dict[str, Bounded] = {}
    keys: dict[str, str] = {}
    masks = {name: mask[0] for name, mask in steps.masks.items()}
    for before, layer in pairwise((None, *spec.layers())):
        assert layer is not None
        named = _named(before, layer, parameters, trace)
        inputs, settings, expected = network.of_layer(layer, parameters, statistics, masks, r, winograd_too)
        came = "input" if before is None else f"activation/{before.name}"
        # Before the first trained layer there are no gradients.
        nothing = np.zeros_like(trace[f"activation/{layer.name}"])
        # The images come in float32, and a bfloat16 network rounds them.
        given = {**inputs, "x": r.nearest(trace[came]), "dy": trace.get(f"gradient/{layer.name}", nothing)}
        with np.errstate(all="ignore"):
            quantities = expected(given, {**settings, "need_dx": "dx" in named.values()}, r)
            for key in filter(is_weight, parameters):
                if name := named.get(f"gradient/{key}"):
                    gradient = quantities[name].to(r.wide)
                    quantities[name] = network.with_penalty(gradient, parameters[key], spec.objective)
        for key, name in named.items():
            found[f"{layer.name} {name}"], keys[f"{layer.name} {name}"] = quantities[name], key
        found |= {f"{layer.name} {name}": quantities[name] for name in in_network(layer).statistics}
    last = spec.layers()[-1].name
    keys |= {"loss": "loss", "loss ds": f"gradient/{last}"}
    with np.errstate(all="ignore"):  # of a bfloat16 network in float32
        ends = network.loss(spec.objective, trace[f"activation/{last}"], labels.astype(np.int64), r.wide)
        found["loss"] = network.total(ends, parameters, spec.objective, r.wide)
        found["loss ds"] = ends["ds"].to(r)
    return found, keys


def _named(before: Layer | None, layer: Layer, parameters: Inputs, trace: Inputs) -> dict[str, str]:
    """The trace's keys of what a layer gives, to the names of its quantities."""
    named = {f"activation/{layer.name}": "y"}
    if before is not None and f"gradient/{before.name}" in trace:
        named[f"gradient/{before.name}"] = "dx"
    gradients, own = in_network(layer).gradients, network.own(layer, parameters)
    return named | {f"gradient/{layer.name}.{last}": gradients[last] for last in own}


def judge_update(
    spec: Experiment,
    parameters: Inputs,
    trace: Inputs,
    labels: Array,
    after: State,
    steps: Steps,
    label: Label,
) -> list[Result]:
    """The state after the traced step: `<parameter> updated`, its moments, and running statistics."""
    r = rounding(label.place.dtype, label.place.device)
    wanted: dict[str, Bounded] = {}
    actual: dict[str, Array] = {}
    how = {"optimization": spec.optimization, "learning_rates": steps.learning_rates}
    for name, theta in parameters.items():
        inputs = {"theta": r.wide.nearest(theta), "g": trace[f"gradient/{name}"][None]}
        with np.errstate(all="ignore"):
            found = optim.steps(inputs, how, r.wide)
        for slot, value in found.items():
            quantity = f"{name} {'updated' if slot == 'theta' else slot}"
            stored = after.parameters if slot == "theta" else after.slots[slot]
            wanted[quantity], actual[quantity] = value[0], stored[name]
    fresh = initial_statistics(spec.layers())
    truths, _ = expected_trace(spec, parameters, fresh, trace, labels, steps, r)
    for key in fresh:
        layer, _, which = key.rpartition(".")
        wanted[f"{layer} {which}"] = truths[f"{layer} {which}"]
        actual[f"{layer} {which}"] = after.statistics[key]
    return judge(wanted, actual, label)


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
