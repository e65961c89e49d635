"""The JAX backend: data on the device, many steps in one compiled loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jax_models import augment, cache, conv, loss, optim
from jax_models.conv import AnyArray
from jax_models.model import Network, bind
from jax_models.precision import at_least_float32
from triptych.describe.layers import first_trained, initial_statistics, is_weight
from triptych.describe.protocol import (
    Evaluation,
    Statistics,
    StepResults,
    Steps,
    TrainingData,
    evaluation_batch,
    evaluation_slices,
    no_steps,
)
from triptych.describe.spec import Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError

Array = jax.Array
Batch = tuple[Array, Array]
"""Prepared images (B, 3, 32, 32) and labels int32 (B,)."""


class TrainState(NamedTuple):
    """What a step maps to the next: parameters and batch norm's running statistics by canonical name, and
    the optimizer chain's state.
    """

    parameters: dict[str, Array]
    statistics: dict[str, Array]
    optimizer: Any


class DeviceData(NamedTuple):
    """One split on the device, images as rows (N, 3072), and the map (pixel - mean) * scale.

    Rows, since a TPU pads the last axis to 128: images (3, 32, 32) would be copied, four times their size, in
    every call.
    """

    images: Array
    labels: Array
    mean: Array
    scale: Array | None


def build(experiment: Experiment, data: TrainingData, device: Device) -> JaxBackend:
    """The backend for `experiment`; raises UserError when JAX has no such device."""
    cache.enable()
    return JaxBackend(experiment, data, find_devices(device)[0])


CHUNK = 20
"""Steps of an inner loop. On an H100 fig1's step takes 53 us so, and 69 in one loop of unknown length."""

DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
"""The first covers scatters, reductions, cuDNN's convolutions and max-pool's backward; the second keeps
what was fastest today from choosing the algorithm."""


def make_deterministic() -> None:
    """See triptych.describe.protocol. XLA reads its flags when the first device is asked for."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*flags, *(flag for flag in DETERMINISTIC if flag not in flags)])


def find_devices(device: Device) -> list[jax.Device]:
    """All devices of that kind, or of the kind that JAX prefers; raises UserError where it has none."""
    asked = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # JAX 0.10 asserts where no platform of the list is there
        raise UserError(
            f"device: JAX_PLATFORMS={asked} names no platform that JAX finds here; unset it, or install "
            "JAX's build for it (make train ACCEL=cuda, or ACCEL=tpu)"
        ) from None
    try:
        return jax.devices(None if device == "auto" else device)
    except RuntimeError:
        found = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise UserError(
            f"device: JAX finds no {device} here, only {found}; use --device auto, or install JAX's "
            f"{device} build (pip install 'jax[{'cuda13' if device == 'gpu' else device}]')"
        ) from None


class JaxBackend:
    """Implements `triptych.describe.protocol.Backend`."""

    name = "jax"

    def __init__(
        self,
        experiment: Experiment,
        data: TrainingData,
        device: jax.Device,
        placement: jax.sharding.Sharding | None = None,
    ) -> None:
        """On `device`, or by `placement` on several of its kind."""
        self.experiment = experiment
        self._device = placement or device
        self._chunked = device.platform != "cpu"
        kind = device.device_kind
        self.device = device.platform if kind == device.platform else f"{device.platform} ({kind})"
        compute = jnp.dtype(experiment.training.dtype)
        # bfloat16 keeps float32 master weights, optimizer state and loss.
        self.dtype = at_least_float32(compute)
        with self.context():
            mean = self._put(data.mean.astype(self.dtype))
            scale = None if data.scale is None else self._put(data.scale.astype(self.dtype))
            self.data = {}
            for split in data.images:
                labels = self._put(data.labels[split].astype(np.int32))
                rows = data.images[split].reshape(len(data.images[split]), -1)
                self.data[split] = DeviceData(self._put(rows), labels, mean, scale)
            network = nnx.eval_shape(lambda: Network(experiment.layers(), compute))
            self.graph = nnx.split(network)[0]
        self._run = jax.jit(self._run_steps, donate_argnums=0)
        self._evaluate = jax.jit(self.evaluate_split, static_argnums=3)
        self._evaluations: dict[tuple[str, bool], jax.stages.Compiled] = {}
        self._trace = jax.jit(self._trace_step)
        self.capacity = 0

    # --- the protocol ---

    def start(self, parameters: Mapping[str, np.ndarray]) -> None:
        with self.context():
            on_device, o = self._take(parameters), self.experiment.optimization
            # Zeros depend on no input, so jit leaves it open where they lie; said here, or the first step's
            # program, compiled for inputs left open, would be compiled again for its own outputs.
            optimizer = jax.device_put(jax.jit(partial(optim.init, o))(on_device), self._device)
        statistics = self._statistics(initial_statistics(self.experiment.layers()))
        self.state = TrainState(on_device, statistics, optimizer)
        self.updates = 0

    def _statistics(self, statistics: Mapping[str, np.ndarray]) -> dict[str, Array]:
        return {key: self._put(value.astype(self.dtype)) for key, value in statistics.items()}

    def compile(self, capacity: int) -> None:
        """Compile training for tables of `capacity` steps, and evaluation."""
        self.capacity = max(capacity, 2)  # XLA compiles a table of one row to another program
        self.train(no_steps(self.experiment))
        self._evaluation("test", self.experiment.model.norm_statistics == "batch")

    def train(self, steps: Steps) -> StepResults:
        self.capacity = max(self.capacity, len(steps), 2)
        with self.context():
            table = jax.device_put(self._table(steps, self.capacity), self._device)
            self.state, losses, hits = self._run(self.state, self.data["train"], table, len(steps))
            losses, hits = jax.device_get((losses, hits))
        self.updates += len(steps)
        return self.step_results(losses, hits, len(steps))

    def step_results(self, losses: np.ndarray, hits: np.ndarray, count: int) -> StepResults:
        """The first `count` entries of what the compiled loop returned."""
        losses, hits = (column[:count].astype(np.float64) for column in (losses, hits))
        return StepResults(losses, hits / self.experiment.data.batch_size)

    def evaluate(self, split: str, statistics: Statistics | None = None) -> Evaluation:
        batch = (statistics or self.experiment.model.norm_statistics) == "batch"
        program = self._evaluation(split, batch)
        with self.context():
            results = jax.device_get(program(self.state.parameters, self.state.statistics, self.data[split]))
        return evaluation(*results)

    def logits(self, split: str, statistics: Statistics | None = None) -> np.ndarray:
        batch = (statistics or self.experiment.model.norm_statistics) == "batch"
        run = jax.jit(self._split_logits, static_argnums=3)
        with self.context():
            found = run(self.state.parameters, self.state.statistics, self.data[split], batch)
            return np.asarray(jax.device_get(found))

    def _evaluation(self, split: str, batch: bool) -> Callable[..., Any]:
        """The compiled program for a split: made without running it, a pass over the test set."""
        if (split, batch) not in self._evaluations:
            if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
                return partial(self._evaluate, batch=batch)  # nothing is compiled ahead then
            state = self.state.parameters, self.state.statistics
            with self.context():
                lowered = self._evaluate.lower(*state, self.data[split], batch)
                self._evaluations[split, batch] = lowered.compile()
        return self._evaluations[split, batch]

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        with self.context():
            table = jax.device_put(self._table(steps, 1), self._device)
            trace = jax.device_get(self._trace(self.state, self.data["train"], table))
        # NumPy has no bfloat16 of its own: such values, exact in float32, leave as float32.
        return {
            key: np.asarray(array, np.float32 if array.dtype == jnp.bfloat16 else array.dtype)
            for key, array in trace.items()
        }

    def export_state(self) -> State:
        with self.context():
            parameters, statistics, optimizer = jax.device_get(tuple(self.state))

        def canonical(tree: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {key: np.array(_canonical(value), order="C") for key, value in tree.items()}

        found = optim.get_slots(optimizer, self.experiment.optimization.slots)
        slots = {slot: canonical(tree) for slot, tree in found.items()}
        return State(canonical(parameters), slots, canonical(statistics), self.updates)

    def import_state(self, state: State) -> None:
        self.start(state.parameters)
        statistics = self._statistics(state.statistics_of(self.experiment.layers()))
        self.state = self.state._replace(statistics=statistics)
        saved = state.slots_of(self.experiment.optimization)
        if saved is not None:
            self.updates = state.updates
            slots = {slot: self._take(tree) for slot, tree in saved.items()}
            self.state = self.state._replace(optimizer=optim.set_slots(self.state.optimizer, slots))

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}

    # --- compiled functions: pure, nothing in them assumes one device or one run ---

    def _objective(
        self, parameters: dict[str, Array], taps: Any, statistics: dict[str, Array], batch: Batch, masks: Any
    ) -> tuple[Array, tuple[Array, dict[str, Array], dict[str, Array]]]:
        """The loss; beside it the number of right predictions, new statistics and every layer's output."""
        objective, (x, labels) = self.experiment.objective, batch
        logits, outputs, updated = bind(self.graph, parameters)(x, statistics, masks, taps)
        value = loss.per_sample(objective.loss, logits, labels, objective.label_smoothing).mean()
        if objective.l2:
            weights = [W for key, W in parameters.items() if is_weight(key)]
            value = value + loss.l2_penalty(weights, objective.l2)
        hits = (jax.lax.argmax(logits, 1, jnp.int32) == labels).sum(dtype=self.dtype)
        return value, (hits, updated, outputs)

    def _step(
        self, state: TrainState, data: DeviceData, row: Any, weight_decay: Array | None
    ) -> tuple[TrainState, Array, Array]:
        """One training step on one row of the table; `weight_decay` in place of the description's."""
        batch = self._batch(data, row)
        gradient = jax.value_and_grad(self._objective, has_aux=True)
        (value, (hits, statistics, _)), g = gradient(
            state.parameters, None, state.statistics, batch, row["masks"]
        )
        rule = optim.create(self.experiment.optimization, row["scalars"], weight_decay)
        updates, optimizer = rule.update(g, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        return TrainState(parameters, statistics, optimizer), value, hits

    def _run_steps(
        self, state: TrainState, data: DeviceData, table: Any, count: Array
    ) -> tuple[TrainState, Array, Array]:
        def row(i: Array) -> Any:
            return jax.tree.map(lambda column: column[i], table)

        return self.loop(state, data, row, len(table["indices"]), count)

    def loop(
        self,
        state: TrainState,
        data: DeviceData,
        row: Callable[[Array], Any],
        capacity: int,
        count: Array,
        weight_decay: Array | None = None,
    ) -> tuple[TrainState, Array, Array]:
        """The steps of the first `count` of `capacity` rows. `count` is traced: one program for any number
        of steps, so a run's numbers do not depend on where it was cut into calls.

        On an accelerator most steps are taken in loops of `CHUNK`, a length that the compiler knows: before
        each round of any other the host waits for the device to say whether one more follows.
        """
        results = jnp.zeros((2, capacity), self.dtype)

        def body(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, results = carry
            state, value, hits = self._step(state, data, row(i), weight_decay)
            return state, results.at[:, i].set(jnp.stack([value, hits]))

        carry, done = (state, results), jnp.int32(0)
        if self._chunked and capacity >= CHUNK:

            def chunk(c: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
                return jax.lax.fori_loop(0, CHUNK, lambda i, carry: body(c * CHUNK + i, carry), carry)

            carry, done = jax.lax.fori_loop(0, count // CHUNK, chunk, carry), count // CHUNK * CHUNK
        state, results = jax.lax.fori_loop(done, count, body, carry)
        return state, results[0], results[1]

    def evaluate_split(
        self, parameters: dict[str, Array], statistics: dict[str, Array], data: DeviceData, batch: bool
    ) -> tuple[Array, Array, Array]:
        """Per-sample losses, hits and predictions; `batch` normalises by each chunk's own statistics."""

        def chunk(rows: tuple[Array, Array]) -> tuple[Array, Array, Array]:
            images, labels = rows
            logits = self._logits(parameters, statistics, data, images, batch)
            predictions = jax.lax.argmax(logits, 1, jnp.int32)
            losses = loss.per_sample(self.experiment.objective.loss, logits, labels)
            return losses, predictions == labels, predictions

        return self._by_chunk(chunk, data)

    def _split_logits(
        self, parameters: dict[str, Array], statistics: dict[str, Array], data: DeviceData, batch: bool
    ) -> Array:
        def chunk(rows: tuple[Array, Array]) -> tuple[Array]:
            return (self._logits(parameters, statistics, data, rows[0], batch),)

        logits: Array = self._by_chunk(chunk, data)[0]
        return logits

    def _logits(
        self, parameters: Any, statistics: Any, data: DeviceData, images: Array, batch: bool
    ) -> Array:
        network, x = bind(self.graph, parameters), self._prepare(data, images)
        logits, _, _ = network(x, statistics, batch_statistics=batch)
        return logits

    def _by_chunk(self, chunk: Callable[[tuple[Array, Array]], Any], data: DeviceData) -> Any:
        """What `chunk` gives for images and labels evaluated together, over the whole split."""
        size = evaluation_batch(self.experiment)
        slices = evaluation_slices(len(data.labels), size)
        rows = (data.images, data.labels)
        # All full chunks are one compiled loop; what is left over is a chunk of its own size.
        full = sum(part.stop - part.start == size for part in slices)
        looped = jax.tree.map(
            lambda column: column[: full * size].reshape(full, size, *column.shape[1:]), rows
        )
        parts = []
        if full:
            together = jax.lax.map(chunk, looped)
            parts = [jax.tree.map(lambda column: column.reshape(-1, *column.shape[2:]), together)]
        parts += [chunk((data.images[part], data.labels[part])) for part in slices[full:]]
        return tuple(jnp.concatenate(column) for column in zip(*parts, strict=True))

    def _trace_step(self, state: TrainState, data: DeviceData, table: Any) -> dict[str, Array]:
        row = jax.tree.map(lambda column: column[0], table)
        batch = self._batch(data, row)
        rest = state.statistics, batch, row["masks"]
        _, (_, _, shapes) = jax.eval_shape(self._objective, state.parameters, None, *rest)
        taps = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        gradient = jax.value_and_grad(self._objective, argnums=(0, 1), has_aux=True)
        (value, (_, _, outputs)), (g, upstream) = gradient(state.parameters, taps, *rest)
        trace = {"input": batch[0], "loss": value}
        trace |= {f"activation/{name}": _canonical_image(array) for name, array in outputs.items()}
        # Gradients before the first trained layer are asked for by nobody: left out, as in NumPy.
        layers = self.experiment.layers()
        names = [layer.name for layer in layers]
        trained = names[names.index(first_trained(layers)) :]
        trace |= {f"gradient/{name}": _canonical_image(upstream[name]) for name in trained}
        return trace | {f"gradient/{name}": _canonical(array) for name, array in g.items()}

    # --- helpers ---

    def context(self) -> Any:
        return _precision(self.dtype == jnp.float64, self.experiment.training.tf32)

    def _put(self, array: np.ndarray) -> Array:
        with self.context():
            return jax.device_put(array, self._device)

    def _take(self, parameters: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Canonical parameters, or arrays of their shapes, on the device in our dtype and layout."""
        return {key: self._put(_internal(self._cast(value))) for key, value in parameters.items()}

    def _cast(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # what overflows is the loop's to report
            return array.astype(self.dtype)

    def _prepare(self, data: DeviceData, images: Array) -> Array:
        x = images.reshape(-1, *data.mean.shape).astype(self.dtype) - data.mean
        return x if data.scale is None else x * data.scale

    def _batch(self, data: DeviceData, row: Any) -> Batch:
        images = data.images.at[row["indices"]].get(mode="promise_in_bounds")
        images = images.reshape(-1, *data.mean.shape)
        border = self.experiment.data.random_crop
        images = augment.augment(images, row.get("shifts"), row.get("flips"), border)
        return self._prepare(data, images), data.labels.at[row["indices"]].get(mode="promise_in_bounds")

    def _table(self, steps: Steps, capacity: int) -> dict[str, Any]:
        """The steps as arrays of `capacity` rows."""
        return self.inputs(steps, capacity) | {"scalars": self.scalars(steps, self.updates, capacity)}

    def inputs(self, steps: Steps, capacity: int) -> dict[str, Any]:
        """What the steps read, as far as the seed decides it."""
        return {
            "indices": _pad(steps.indices, capacity),
            "masks": {name: _pad(mask, capacity) for name, mask in steps.masks.items()},
        } | {
            name: _pad(column, capacity)
            for name, column in (("shifts", steps.shifts), ("flips", steps.flips))
            if column is not None
        }

    def scalars(self, steps: Steps, updates: int, capacity: int) -> dict[str, np.ndarray]:
        """Learning rates and Adam's corrections of the steps after so many updates, in our dtype."""
        scalars = optim.step_scalars(self.experiment.optimization, steps.learning_rates, updates)
        return {name: _pad(self._cast(column), capacity) for name, column in scalars.items()}


def evaluation(losses: np.ndarray, hits: np.ndarray, predictions: np.ndarray) -> Evaluation:
    """From what `evaluate_split` gives for each image."""
    return Evaluation(float(losses.mean(dtype=np.float64)), float(hits.mean()), predictions.astype(np.uint8))


def _pad(column: np.ndarray, capacity: int) -> np.ndarray:
    """`capacity` rows; those past the column's own are zeros and never read."""
    return np.concatenate([column, np.zeros((capacity - len(column), *column.shape[1:]), column.dtype)])


def _internal(parameter: np.ndarray) -> np.ndarray:
    """Convolution weights in our layout; other parameters as they are."""
    return conv.to_internal(parameter) if parameter.ndim == 4 else parameter


def _canonical(parameter: AnyArray) -> AnyArray:
    """The reverse of `_internal`."""
    return conv.to_canonical(parameter) if parameter.ndim == 4 else parameter


def _canonical_image(array: Array) -> Array:
    """(B, H, W, C) to (B, C, H, W); other arrays as they are."""
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


@contextmanager
def _precision(x64: bool, tf32: bool) -> Iterator[None]:
    """64-bit types only for a float64 experiment, and products in full precision unless TF32 is asked
    for: JAX's default on a GPU is TF32, torch's is not. JAX's own searches for faults are set aside: the loop
    names the step and layer of a NaN itself. Scoped, so that nobody else's JAX changes.
    """
    with ExitStack() as stack:
        for one in (
            jax.enable_x64(x64),
            jax.default_matmul_precision("tensorfloat32" if tf32 else "highest"),
            jax.debug_nans(False),
            jax.debug_infs(False),
            jax.transfer_guard("allow"),
            jax.numpy_rank_promotion("allow"),
        ):
            stack.enter_context(one)
        yield
