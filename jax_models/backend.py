"""The JAX backend: data on the device, many steps in one compiled loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiment.backend import Evaluation, State, StepResults, Steps, TrainingData, saved_optimizer
from experiment.errors import UserError
from experiment.layers import Dropout, is_weight
from experiment.spec import Device, Experiment
from jax_models import loss, optim
from jax_models.model import Network, at_least_float32, bind

Array = jax.Array
EVALUATION_BATCH = 2000


class TrainState(NamedTuple):
    """What a step maps to the next: parameters by canonical name, and the optimizer chain's state."""

    parameters: dict[str, Array]
    optimizer: Any


class DeviceData(NamedTuple):
    """One split on the device, and the map (pixel - mean) * scale."""

    images: Array
    labels: Array
    mean: Array
    scale: Array | None


def build(experiment: Experiment, data: TrainingData, device: Device) -> JaxBackend:
    """The backend for `experiment`; raises UserError when JAX has no such device."""
    return JaxBackend(experiment, data, _find_device(device))


def _find_device(device: Device) -> jax.Device:
    if device == "auto":
        return jax.devices()[0]
    try:
        return jax.devices(device)[0]
    except RuntimeError:
        found = ", ".join(sorted({d.platform for d in jax.devices()}))
        raise UserError(
            f"device: JAX finds no {device} here, only {found}; use --device auto, or install JAX's "
            f"{device} build (pip install 'jax[{'cuda13' if device == 'gpu' else device}]')"
        ) from None


class JaxBackend:
    """Implements `experiment.backend.Backend`."""

    name = "jax"

    def __init__(self, experiment: Experiment, data: TrainingData, device: jax.Device) -> None:
        self.experiment = experiment
        self._device = device
        kind = device.device_kind
        self.device = device.platform if kind == device.platform else f"{device.platform} ({kind})"
        compute = jnp.dtype(experiment.training.dtype)
        # bfloat16 keeps float32 master weights, optimizer state and loss.
        self.dtype = at_least_float32(compute)
        self.lengths = {split: len(labels) for split, labels in data.labels.items()}
        with self._context():
            mean = self._put(data.mean.astype(self.dtype))
            scale = None if data.scale is None else self._put(data.scale.astype(self.dtype))
            self.data = {}
            for split in data.images:
                images, labels = _layout(split, data)
                self.data[split] = DeviceData(self._put(images), self._put(labels), mean, scale)
            network = nnx.eval_shape(lambda: Network(experiment.layers(), compute))
            self.graph = nnx.split(network)[0]
            self.optimizer = optim.chain(experiment.optimization)
        self._run = jax.jit(self._run_steps, donate_argnums=0)
        self._evaluate = jax.jit(self._evaluate_split)
        self._trace = jax.jit(self._trace_step)
        self.capacity = 0

    # --- the protocol ---

    def start(self, parameters: Mapping[str, np.ndarray]) -> None:
        with self._context():
            on_device = {key: self._put(self._cast(value)) for key, value in parameters.items()}
            self.state = TrainState(on_device, jax.jit(self.optimizer.init)(on_device))
        self.updates = 0

    def compile(self, capacity: int) -> None:
        """Compile training for tables of `capacity` steps, and evaluation."""
        self.capacity = max(capacity, 2)  # XLA compiles a table of one row to another program
        nothing = Steps(
            0,
            np.zeros((0, self.experiment.data.batch_size), np.int32),
            np.zeros(0),
            {name: np.zeros((0, *shape), bool) for name, shape in self._mask_shapes().items()},
        )
        self.train(nothing)
        self.evaluate("test")

    def train(self, steps: Steps) -> StepResults:
        self.capacity = max(self.capacity, len(steps), 2)
        with self._context():
            table = jax.device_put(self._table(steps, self.capacity), self._device)
            self.state, losses, hits = self._run(self.state, self.data["train"], table, len(steps))
            losses, hits = jax.device_get((losses, hits))
        self.updates += len(steps)
        kept = slice(0, len(steps))
        losses, hits = (column[kept].astype(np.float64) for column in (losses, hits))
        return StepResults(losses, hits / self.experiment.data.batch_size)

    def evaluate(self, split: str) -> Evaluation:
        with self._context():
            losses, hits, predictions = jax.device_get(
                self._evaluate(self.state.parameters, self.data[split])
            )
        kept = slice(0, self.lengths[split])
        losses, hits, predictions = (part.reshape(-1)[kept] for part in (losses, hits, predictions))
        return Evaluation(
            float(losses.mean(dtype=np.float64)), float(hits.mean()), predictions.astype(np.uint8)
        )

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        with self._context():
            table = jax.device_put(self._table(steps, 1), self._device)
            trace = jax.device_get(self._trace(self.state, self.data["train"], table))
        # NumPy has no bfloat16 of its own: such values, exact in float32, leave as float32.
        return {
            key: np.asarray(array, np.float32 if array.dtype == jnp.bfloat16 else array.dtype)
            for key, array in trace.items()
        }

    def export_state(self) -> State:
        parameters, optimizer = jax.device_get(tuple(self.state))
        state = {f"parameters/{key}": np.array(value) for key, value in parameters.items()}
        for slot, tree in optim.get_slots(optimizer).items():
            state |= {f"optimizer/{slot}/{key}": np.array(value) for key, value in tree.items()}
        return state | {"optimizer/updates": np.array(self.updates, np.int64)}

    def import_state(self, state: Mapping[str, np.ndarray]) -> None:
        prefix = "parameters/"
        self.start({key.removeprefix(prefix): state[key] for key in state if key.startswith(prefix)})
        saved = saved_optimizer(self.experiment, state)
        if saved is not None:
            arrays, self.updates = saved
            slots = {
                slot: {key: self._put(value.astype(self.dtype)) for key, value in tree.items()}
                for slot, tree in arrays.items()
            }
            self.state = self.state._replace(optimizer=optim.set_slots(self.state.optimizer, slots))

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}

    # --- compiled functions: pure, nothing in them assumes one device or one run ---

    def _objective(
        self, parameters: dict[str, Array], x: Array, labels: Array, masks: Any, taps: Any = None
    ) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        objective = self.experiment.objective
        logits, outputs = bind(self.graph, parameters)(x, masks, taps)
        value = loss.per_sample(objective.loss, logits, labels, objective.label_smoothing).mean()
        if objective.l2:
            weights = [W for key, W in parameters.items() if is_weight(key)]
            value = value + loss.l2_penalty(weights, objective.l2)
        hits = (jax.lax.argmax(logits, 1, jnp.int32) == labels).sum(dtype=self.dtype)
        return value, (hits, outputs)

    def _step(self, state: TrainState, data: DeviceData, row: Any) -> tuple[TrainState, Array, Array]:
        """One training step on one row of the table."""
        x, labels = self._batch(data, row["indices"])
        gradient = jax.value_and_grad(self._objective, has_aux=True)
        (value, (hits, _)), g = gradient(state.parameters, x, labels, row["masks"])
        updates, optimizer = self.optimizer.update(
            g, state.optimizer, state.parameters, scalars=row["scalars"]
        )
        parameters = {key: theta + updates[key] for key, theta in state.parameters.items()}
        return TrainState(parameters, optimizer), value, hits

    def _run_steps(
        self, state: TrainState, data: DeviceData, table: Any, count: Array
    ) -> tuple[TrainState, Array, Array]:
        """The first `count` rows of the table. `count` is traced: one program for any number of
        steps, so a run's numbers do not depend on where it was cut into calls.
        """
        results = jnp.zeros((2, len(table["indices"])), self.dtype)

        def body(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            state, results = carry
            row = jax.tree.map(lambda column: column[i], table)
            state, value, hits = self._step(state, data, row)
            return state, results.at[:, i].set(jnp.stack([value, hits]))

        state, results = jax.lax.fori_loop(0, count, body, (state, results))
        return state, results[0], results[1]

    def _evaluate_split(self, parameters: dict[str, Array], data: DeviceData) -> tuple[Array, Array, Array]:
        """Per-sample losses, hits and predictions, each (chunks, EVALUATION_BATCH)."""

        def chunk(rows: tuple[Array, Array]) -> tuple[Array, Array, Array]:
            images, labels = rows
            logits, _ = bind(self.graph, parameters)(self._prepare(data, images))
            predictions = jax.lax.argmax(logits, 1, jnp.int32)
            losses = loss.per_sample(self.experiment.objective.loss, logits, labels)
            return losses, predictions == labels, predictions

        return jax.lax.map(chunk, (data.images, data.labels))

    def _trace_step(self, state: TrainState, data: DeviceData, table: Any) -> dict[str, Array]:
        row = jax.tree.map(lambda column: column[0], table)
        x, labels = self._batch(data, row["indices"])
        _, (_, shapes) = jax.eval_shape(self._objective, state.parameters, x, labels, row["masks"])
        taps = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        gradient = jax.value_and_grad(self._objective, argnums=(0, 4), has_aux=True)
        (value, (_, outputs)), (g, upstream) = gradient(state.parameters, x, labels, row["masks"], taps)
        trace = {"input": x, "loss": value}
        trace |= {f"activation/{name}": array for name, array in outputs.items()}
        # Gradients of what nothing trained depends on (a Flatten of the images) are left out, as in NumPy.
        trainable = [name for name in outputs if name != "flatten"]
        trace |= {f"gradient/{name}": upstream[name] for name in trainable}
        return trace | {f"gradient/{name}": array for name, array in g.items()}

    # --- helpers ---

    def _context(self) -> Any:
        return _precision(self.dtype == jnp.float64, self.experiment.training.tf32)

    def _put(self, array: np.ndarray) -> Array:
        with self._context():
            return jax.device_put(array, self._device)

    def _cast(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # what overflows is the loop's to report
            return array.astype(self.dtype)

    def _prepare(self, data: DeviceData, images: Array) -> Array:
        x = images.astype(self.dtype) - data.mean
        return x if data.scale is None else x * data.scale

    def _batch(self, data: DeviceData, indices: Array) -> tuple[Array, Array]:
        images = data.images.at[indices].get(mode="promise_in_bounds")
        return self._prepare(data, images), data.labels.at[indices].get(mode="promise_in_bounds")

    def _mask_shapes(self) -> dict[str, tuple[int, int]]:
        batch = self.experiment.data.batch_size
        layers = self.experiment.layers()
        return {layer.name: (batch, layer.features) for layer in layers if isinstance(layer, Dropout)}

    def _table(self, steps: Steps, capacity: int) -> dict[str, Any]:
        """The steps as arrays of `capacity` rows; rows past the last step are zeros and never read."""

        def pad(column: np.ndarray) -> np.ndarray:
            return np.concatenate(
                [column, np.zeros((capacity - len(column), *column.shape[1:]), column.dtype)]
            )

        scalars = optim.step_scalars(self.experiment.optimization, steps.learning_rates, self.updates)
        return {
            "indices": pad(steps.indices),
            "scalars": {name: pad(self._cast(column)) for name, column in scalars.items()},
            "masks": {name: pad(mask) for name, mask in steps.masks.items()},
        }


def _layout(split: str, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Images and int32 labels of a split; those for evaluation in full chunks of EVALUATION_BATCH,
    the last one padded with zeros whose results are dropped.
    """
    images, labels = data.images[split], data.labels[split].astype(np.int32)
    if split == "train":
        return images, labels
    padding = -len(images) % EVALUATION_BATCH
    images = np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0)))
    labels = np.pad(labels, (0, padding))
    return images.reshape(-1, EVALUATION_BATCH, *images.shape[1:]), labels.reshape(-1, EVALUATION_BATCH)


@contextmanager
def _precision(x64: bool, tf32: bool) -> Iterator[None]:
    """64-bit types only for a float64 experiment, and products in full precision unless TF32 is asked
    for: JAX's default on a GPU is TF32, torch's is not. Scoped, so that nobody else's JAX changes.
    """
    with jax.enable_x64(x64), jax.default_matmul_precision("tensorfloat32" if tf32 else "highest"):
        yield
