"""The NumPy backend: the reference step, in a plain loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from numpy_ref import augment, fast, loss, optim
from numpy_ref.model import Cache, Network
from triptych.describe.layers import initial_statistics, is_weight
from triptych.describe.protocol import (
    Evaluation,
    Statistics,
    StepResults,
    Steps,
    TrainingData,
    evaluation_batch,
    evaluation_slices,
)
from triptych.describe.spec import Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError

Array = np.ndarray


class Pass(NamedTuple):
    """One batch forward and backward."""

    loss: float
    accuracy: float
    gradients: dict[str, Array]
    """By parameter."""
    cache: Cache
    x: Array


def build(experiment: Experiment, data: TrainingData, device: Device) -> NumpyBackend:
    """The backend for `experiment`; raises UserError for a device or dtype that NumPy lacks."""
    if device not in ("auto", "cpu"):
        raise UserError(
            f"device: the numpy backend computes on the cpu, got {device}; "
            "use --device cpu, or --backend jax or torch"
        )
    if experiment.training.dtype == "bfloat16":
        raise UserError(
            "dtype: NumPy has no bfloat16 products; use --dtype float32, or --backend jax or torch"
        )
    return NumpyBackend(experiment, data)


class NumpyBackend:
    """Implements `triptych.describe.protocol.Backend`."""

    name = "numpy"
    device = "cpu"

    def __init__(self, experiment: Experiment, data: TrainingData) -> None:
        self.experiment = experiment
        self.dtype = np.dtype(experiment.training.dtype)
        self.images, self.labels = data.images, data.labels
        self.mean = data.mean.astype(self.dtype)
        self.scale = None if data.scale is None else data.scale.astype(self.dtype)
        self.network = Network(experiment.layers(), {})
        self.slots: dict[str, dict[str, Array]] = {}
        self.updates = 0
        self._last: Pass | None = None

    def start(self, parameters: Mapping[str, Array]) -> None:
        with np.errstate(over="ignore"):  # what overflows is the loop's to report
            self.network.parameters = {key: self._own(value) for key, value in parameters.items()}
        self.slots = {
            key: {slot: np.zeros_like(value) for slot in self.experiment.optimization.slots}
            for key, value in self.network.parameters.items()
        }
        self._start_statistics(initial_statistics(self.experiment.layers()))
        self.updates = 0

    def _start_statistics(self, statistics: Mapping[str, Array]) -> None:
        self.network.statistics = {key: np.array(value, self.dtype) for key, value in statistics.items()}

    def _own(self, parameter: Array) -> Array:
        """A copy in our dtype; convolution weights channels-last in memory, as `fast` likes them."""
        copy = np.array(parameter, self.dtype)
        return fast.channels_last(copy) if copy.ndim == 4 else copy

    def compile(self, capacity: int) -> None:
        """Nothing to compile."""

    def train(self, steps: Steps) -> StepResults:
        losses, accuracies = np.empty(len(steps)), np.empty(len(steps))
        # Overflow on the way to a non-finite loss is the loop's to report, with step and layer.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for i in range(len(steps)):
                # Kept over the call's end as well: memory given back to the system comes anew page by page.
                self._last = step = self._pass(steps, i)
                losses[i], accuracies[i] = step.loss, step.accuracy
                self._update(step.gradients, float(steps.learning_rates[i]))
                self.network.update_statistics(step.cache)
        return StepResults(losses, accuracies)

    def evaluate(self, split: str, statistics: Statistics | None = None) -> Evaluation:
        labels, logits = self.labels[split], self.logits(split, statistics)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            losses = loss.per_sample(self.experiment.objective.loss, logits, labels)
        predicted = logits.argmax(axis=1).astype(np.uint8)
        return Evaluation(
            float(losses.mean(dtype=np.float64)), float((predicted == labels).mean()), predicted
        )

    def logits(self, split: str, statistics: Statistics | None = None) -> Array:
        batch = (statistics or self.experiment.model.norm_statistics) == "batch"
        images = self.images[split]
        slices = evaluation_slices(len(images), evaluation_batch(self.experiment))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return np.concatenate(
                [self.network.predict(self._prepare(images[rows]), batch) for rows in slices]
            )

    def trace(self, steps: Steps) -> dict[str, Array]:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            outputs: dict[str, Array] = {}
            upstream: dict[str, Array] = {}
            step = self._pass(steps, 0, outputs, upstream)
        trace = {"input": step.x, "loss": np.asarray(step.loss)}
        trace |= {f"activation/{name}": array for name, array in outputs.items()}
        trace |= {f"gradient/{name}": array for name, array in {**upstream, **step.gradients}.items()}
        return trace

    def export_state(self) -> State:
        names = self.experiment.optimization.slots
        return State(
            {key: value.copy() for key, value in self.network.parameters.items()},
            {slot: {key: own[slot].copy() for key, own in self.slots.items()} for slot in names},
            {key: value.copy() for key, value in self.network.statistics.items()},
            self.updates,
        )

    def import_state(self, state: State) -> None:
        self.start(state.parameters)
        self._start_statistics(state.statistics_of(self.experiment.layers()))
        saved = state.slots_of(self.experiment.optimization)
        if saved is not None:
            self.updates = state.updates
            for key, slots in self.slots.items():
                for slot, value in slots.items():
                    value[...] = saved[slot][key]

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def _prepare(self, images: Array) -> Array:
        x = images.astype(self.dtype)
        x -= self.mean
        if self.scale is not None:
            x *= self.scale
        return x

    def _pass(
        self,
        steps: Steps,
        i: int,
        outputs: dict[str, Array] | None = None,
        upstream: dict[str, Array] | None = None,
    ) -> Pass:
        """Forward and backward on batch i; each layer's output and dL/d(output) are put into the last two."""
        objective, rows = self.experiment.objective, steps.indices[i]
        labels = self.labels["train"][rows]
        images = augment.augment(
            self.images["train"][rows],
            None if steps.shifts is None else steps.shifts[i],
            None if steps.flips is None else steps.flips[i],
            self.experiment.data.random_crop,
        )
        x = self._prepare(images)
        masks = {name: mask[i] for name, mask in steps.masks.items()}
        logits, cache = self.network.forward(x, masks, outputs=outputs)
        value = float(loss.per_sample(objective.loss, logits, labels, objective.label_smoothing).mean())
        ds = loss.per_sample_backward(objective.loss, logits, labels, objective.label_smoothing)
        gradients = self.network.backward(ds, cache, upstream)
        if objective.l2:
            weights = {key: W for key, W in self.network.parameters.items() if is_weight(key)}
            value += loss.l2_penalty(list(weights.values()), objective.l2)
            for key, W in weights.items():
                gradients[key] += loss.l2_penalty_backward(W, objective.l2)
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        return Pass(value, accuracy, gradients, cache, x)

    def _update(self, gradients: Mapping[str, Array], learning_rate: float) -> None:
        optimization = self.experiment.optimization
        self.updates += 1
        for key, theta in self.network.parameters.items():
            optim.update(theta, gradients[key], self.slots[key], optimization, learning_rate, self.updates)
