"""NumPy, JAX and torch on the same small experiments: every activation, gradient, update and prediction.

In float64 what is left between them is summation order: a few units of rounding (1.1e-16) of sums of up
to 3072 terms, below 1e-12 of the largest value.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jax_models.backend import JaxBackend
from tests.helpers import small
from triptych.describe.network import Model
from triptych.describe.protocol import create
from triptych.describe.spec import BackendName, Data, Dtype, Experiment, Objective, Optimization, Schedule

ROUNDING = 1e-12

EXPERIMENTS: dict[str, Experiment] = {
    "plain": small.experiment(),
    "softmax regression": small.experiment(model=Model(hidden=())),
    "batch norm, dropout, squared error, l2": small.experiment(
        model=Model(hidden=(12, 8), dropout=0.4, batch_norm="autodiff"),
        objective=Objective("squared_error", label_smoothing=0.1, l2=0.01),
    ),
    "batch norm by hand, smoothing": small.experiment(
        model=Model(hidden=(12, 8), dropout=0.4, batch_norm="manual"),
        objective=Objective(label_smoothing=0.1),
    ),
    "relu, hinge, standardized": small.experiment(
        model=Model(hidden=(12, 8), slope=0.0),
        objective=Objective("hinge"),
        data=Data(batch_size=16, preprocess="standardize"),
    ),
}

OPTIMIZERS: dict[str, Optimization] = {
    "momentum": Optimization(learning_rate=1e-4, momentum=0.9, weight_decay=0.01),
    "nesterov": Optimization(learning_rate=1e-4, momentum=0.9, nesterov=True),
    "adam with decay": Optimization("adam", 1e-3, weight_decay=0.1, beta1=0.8, beta2=0.95, epsilon=1e-4),
    "adamw": Optimization("adamw", 1e-3, weight_decay=0.1),
    "amsgrad": Optimization("adam", 1e-3, weight_decay=0.1, beta2=0.95, amsgrad=True),
}


@pytest.mark.parametrize("other", ["jax", "torch"])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_activation_and_gradient(name: str, other: BackendName) -> None:
    """With a unit at exactly 0 planted, and random images and labels."""
    spec = EXPERIMENTS[name]
    data = small.data(preprocess=spec.data.preprocess)
    reference, compared = small.started("numpy", spec, data), small.started(other, spec, data)
    one = small.steps(spec, data, 3, 1)
    left, right = reference.trace(one), compared.trace(one)
    if spec.model.hidden:
        assert np.all(left["activation/linear1"][:, 0] == 0), "the planted kink is there"
        assert np.any(left["gradient/linear1"][:, 0] != 0) or spec.model.slope == 0
    assert all(array.dtype == np.float64 for array in right.values())
    small.assert_same(left, right, ROUNDING)


@pytest.mark.parametrize("other", ["jax", "torch"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_updates_and_state(name: str, other: BackendName) -> None:
    spec = small.experiment(
        optimization=OPTIMIZERS[name],
        schedule=Schedule("cosine", warmup_steps=3),
        objective=Objective(l2=0.01),
    )
    data = small.data()
    reference, compared = small.started("numpy", spec, data), small.started(other, spec, data)
    before = reference.export_state()
    for first, count in ((0, 20), (20, 1), (21, 9)):  # the longest first: JAX compiles once
        plan = small.steps(spec, data, first, count)
        left, right = reference.train(plan), compared.train(plan)
        np.testing.assert_allclose(left.losses, right.losses, rtol=ROUNDING)
        np.testing.assert_array_equal(left.accuracies, right.accuracies)
        small.assert_same(reference.export_state(), compared.export_state(), ROUNDING)
    assert max(small.differences(before, reference.export_state()).values()) > 0.01, "the parameters moved"


@pytest.mark.parametrize("backend", small.BACKENDS)
def test_evaluation_is_over_the_whole_split(backend: BackendName) -> None:
    """37 test images fill no chunk and are not augmented; loss and accuracy are recomputed by hand."""
    augmented = Data(batch_size=16, random_crop=4, random_flip=True)
    spec, data = small.experiment(model=Model(hidden=()), data=augmented), small.data()
    ours, parameters = small.started(backend, spec, data), small.planted(spec)
    x = (data.images["test"] - data.mean).reshape(37, -1)
    s = x @ parameters["linear1.weight"].T + parameters["linear1.bias"]
    labels = data.labels["test"]
    losses = np.log(np.exp(s - s.max(1, keepdims=True)).sum(1)) + s.max(1) - s[np.arange(37), labels]
    result = ours.evaluate("test")
    np.testing.assert_array_equal(result.predictions, s.argmax(1))
    assert result.predictions.dtype == np.uint8
    assert result.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert result.accuracy == np.mean(s.argmax(1) == labels)


@pytest.mark.parametrize("backend", small.BACKENDS)
def test_evaluation_over_several_chunks(backend: BackendName) -> None:
    spec = small.experiment("float32")
    data = small.data(test=4100)
    whole = small.started(backend, spec, data).evaluate("test")
    assert whole.predictions.shape == (4100,)
    tail = replace(
        data,
        images={**data.images, "test": data.images["test"][4000:]},
        labels={**data.labels, "test": data.labels["test"][4000:]},
    )
    part = small.started(backend, spec, tail).evaluate("test")
    np.testing.assert_array_equal(whole.predictions[4000:], part.predictions)
    assert whole.accuracy == np.mean(whole.predictions == data.labels["test"])


@pytest.mark.parametrize("backend", small.BACKENDS)
def test_float32_stays_float32_and_near_the_truth(backend: BackendName) -> None:
    data = small.data()
    exact = small.started("numpy", small.experiment(), data)
    single = small.started(backend, small.experiment("float32"), data)
    plan = small.steps(small.experiment(), data, 0, 1)
    left, right = exact.trace(plan), single.trace(plan)
    assert all(array.dtype == np.float32 or key == "loss" for key, array in right.items())
    small.assert_same(left, right, 1e-5)  # 3072-term sums: at most 3072 u = 1.8e-4, in practice sqrt of that
    assert all(array.dtype == np.float32 for array in single.export_state().arrays().values())


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_bfloat16_keeps_float32_master_weights(backend: BackendName) -> None:
    data = small.data()
    spec = small.experiment("bfloat16", optimization=Optimization("adam", 1e-6))
    mixed, single = small.started(backend, spec, data), small.started("numpy", small.experiment(), data)
    plan = small.steps(spec, data, 0, 1)
    left, right = single.trace(plan), mixed.trace(plan)
    relative = small.differences(left, right)
    # bfloat16 has 8 significant bits: a product's inputs and output carry 2^-9 each.
    assert 1e-5 < relative["activation/linear1"] < 2.0**-7
    assert relative["gradient/linear3.weight"] < 2.0**-5
    before = mixed.export_state()
    mixed.train(plan)
    after = mixed.export_state()
    assert all(array.dtype == np.float32 for array in after.arrays().values())
    moved = after.parameters["linear1.weight"] - before.parameters["linear1.weight"]
    # A rate of 1e-6 is far below bfloat16's resolution of the weights; float32 masters take it.
    assert np.abs(moved).max() == pytest.approx(1e-6, rel=0.05)


def test_float32_and_float64_share_a_process() -> None:
    """A float64 backend must not turn a float32 one of the same process into float64, or back."""
    data = small.data()
    double, single = (small.started("jax", small.experiment(d), data) for d in ("float64", "float32"))
    plan = small.steps(small.experiment(), data, 0, 5)
    for backend, dtype in ((single, np.float32), (double, np.float64), (single, np.float32)):
        backend.train(plan)
        assert all(array.dtype == dtype for array in backend.export_state().arrays().values())
        backend.import_state(backend.export_state())
        assert all(
            array.dtype == dtype
            for array in backend.trace(small.steps(small.experiment(), data, 5, 1)).values()
        )


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if "," in name])
def test_jax_promotes_no_dtype_by_accident(name: str, dtype: Dtype) -> None:
    """Step, evaluation and trace with implicit promotion forbidden: it raises while JAX traces them, before
    anything is compiled.
    """
    spec = replace(EXPERIMENTS[name], training=replace(EXPERIMENTS[name].training, dtype=dtype))
    spec = replace(spec, optimization=Optimization("adam", 1e-3, weight_decay=0.01))
    data = small.data(preprocess=spec.data.preprocess)
    with jax.numpy_dtype_promotion("strict"):
        backend = small.started("jax", spec, data)
        assert isinstance(backend, JaxBackend)
        table = backend._table(small.steps(spec, data, 0, 3), 3)
        with backend.context():
            state, split = backend.state, backend.data["train"]
            after = backend._run.lower(state, split, table, 3).out_info
            backend._trace.lower(state, split, table)
            backend._evaluate.lower(state.parameters, state.statistics, backend.data["test"], False)
    wide = "float32" if dtype == "bfloat16" else dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after)} == {wide}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_jax_traces_and_compiles_training_once(optimizer: Any) -> None:
    """Whatever the number of steps in a call, up to the capacity; its own outputs and a checkpoint's state
    are inputs like the first ones.
    """
    spec, data = small.experiment("float32", optimization=Optimization(optimizer, 1e-3)), small.data()
    backend = small.started("jax", spec, data)
    assert isinstance(backend, JaxBackend)
    chex.clear_trace_counter()
    run: Any = jax.jit(chex.assert_max_traces(backend._run_steps, n=1), donate_argnums=0)
    backend._run = run
    backend.compile(10)
    for first, count in ((0, 10), (10, 3), (13, 1)):
        backend.train(small.steps(spec, data, first, count))
    backend.import_state(backend.export_state())
    backend.train(small.steps(spec, data, 14, 2))
    assert run._cache_size() == 1


@pytest.mark.parametrize("backend", small.BACKENDS)
def test_neither_a_trace_nor_a_state_round_trip_between_calls_changes_anything(backend: BackendName) -> None:
    spec = small.experiment(
        "float32", optimization=Optimization("adam", 1e-3), model=Model((12, 8), dropout=0.2)
    )
    data = small.data()
    straight, stopped = (small.started(backend, spec, data) for _ in range(2))
    straight.train(small.steps(spec, data, 0, 10))
    stopped.train(small.steps(spec, data, 0, 4))
    before = stopped.export_state()
    stopped.trace(small.steps(spec, data, 4, 1))
    small.assert_same(before, stopped.export_state(), 0.0)
    again = create(backend, spec, data, "cpu")
    again.import_state(stopped.export_state())
    again.train(small.steps(spec, data, 4, 6))
    small.assert_same(straight.export_state(), again.export_state(), 0.0)


@pytest.mark.parametrize("batch_norm", ["autodiff", "manual"])
@pytest.mark.parametrize("other", ["jax", "torch"])
def test_running_statistics_and_both_kinds_of_evaluation(other: BackendName, batch_norm: Any) -> None:
    """After training steps: state, and evaluation by running and by batch statistics, without dropout.

    With SGD: the planted unit is constant, so batch norm takes its bias out again and the bias' true
    gradient is 0. Adam would blow the rounding noise in it up to 1e-9 of a step.
    """
    spec = small.experiment(
        model=Model((12, 8), dropout=0.2, batch_norm=batch_norm),
        optimization=Optimization(learning_rate=0.01),
    )
    data = small.data(test=2001)  # one image more than a chunk: it joins the last
    pair = [small.started(name, spec, data) for name in ("numpy", other)]
    before = pair[0].export_state().statistics["norm1.running_mean"]
    for backend in pair:
        backend.train(small.steps(spec, data, 0, 12))
    left, right = (backend.export_state() for backend in pair)
    small.assert_same(left, right, ROUNDING)
    assert not np.allclose(left.statistics["norm1.running_mean"], before)
    results = {}
    for kind in ("running", "batch"):
        ours, theirs = (backend.evaluate("test", kind) for backend in pair)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
        np.testing.assert_array_equal(ours.predictions, theirs.predictions)
        results[kind] = ours.loss
    assert pair[1].evaluate("test").loss == pytest.approx(results["running"], rel=1e-12)
    assert abs(results["running"] - results["batch"]) > 1e-3
    pair[1].start(small.planted(spec))
    pair[1].import_state(left)
    assert pair[1].evaluate("test").loss == pytest.approx(results["running"], rel=1e-12)


@pytest.mark.parametrize("other", ["jax", "torch"])
def test_another_optimizer_starts_fresh_and_alike(other: BackendName) -> None:
    """From SGD's state to Adam: its bias correction counts its own updates, not the run's steps."""
    data = small.data()
    before = small.started("numpy", small.experiment(), data)
    before.train(small.steps(small.experiment(), data, 0, 7))
    adam = small.experiment(optimization=Optimization("adam", 1e-3))
    states = []
    for name in ("numpy", other):
        backend = create(name, adam, data, "cpu")
        backend.import_state(before.export_state())
        backend.train(small.steps(adam, data, 7, 1))
        states.append(backend.export_state())
    small.assert_same(states[0], states[1], ROUNDING)
    assert states[0].updates == 1
    moved = states[0].parameters["linear2.bias"] - before.export_state().parameters["linear2.bias"]
    np.testing.assert_allclose(np.abs(moved[moved != 0]), 1e-3, rtol=1e-4)  # a first step is eta sign(g)
