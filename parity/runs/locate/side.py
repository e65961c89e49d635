"""One of the two that are held beside each other: a backend, what it trains, and how it takes a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.suite.backends import unfused
from parity.suite.images import fitted, moved, prepared
from parity.verification.place import Place
from triptych.cifar10.batches import BatchOrder
from triptych.describe.protocol import Backend, Steps, TrainingData, plan_steps
from triptych.describe.spec import Device, Experiment
from triptych.describe.state import State


@dataclass(frozen=True)
class Outcome:
    """What one training step left behind."""

    loss: float
    accuracy: float
    state: State


@dataclass(eq=False)
class Side:
    """A backend with its experiment and data."""

    name: str
    """How the report calls it: a backend's name, or a run's folder."""
    backend: Backend
    experiment: Experiment
    data: TrainingData

    @property
    def compiled(self) -> bool:
        """Whether a step is one compiled program, whose inner values need not be those of a trace."""
        return self.backend.name == "jax"

    @property
    def repeats(self) -> bool:
        """Whether a step's gradients are, bit for bit, those of a trace: on a GPU sums may be reordered."""
        return self.place.device == "cpu" and not self.compiled

    @cached_property
    def place(self) -> Place:
        """In which numbers and where it computes."""
        training, kind = self.experiment.training, self.backend.device.partition(" ")[0]
        device: Device = kind if kind in ("cpu", "tpu") else "gpu"  # type: ignore[assignment]
        tf32 = training.tf32 and training.dtype == "float32" and device == "gpu"
        return Place("tf32" if tf32 else training.dtype, device)

    @property
    def rounding(self) -> Rounding:
        """Its arithmetic."""
        return rounding(self.place.dtype, self.place.device)

    @cached_property
    def reference(self) -> Reference:
        """Its own settings and data as what steps are held to."""
        return Reference(self)

    @cached_property
    def order(self) -> BatchOrder:
        """Which images each step sees."""
        spec = self.experiment
        return BatchOrder(len(self.data.labels["train"]), spec.data.batch_size, spec.training.seed)

    def plan(self, first: int, count: int = 1) -> Steps:
        """The inputs of `count` steps after the first `first`, by this side's own settings."""
        return plan_steps(self.experiment, self.order.table(first, count), first)

    def put(self, state: State) -> None:
        """Continue from a state, this side's own or the other's."""
        self.backend.import_state(state)

    def step(self, steps: Steps) -> Outcome:
        """Take one step from where it stands, as it does in training."""
        results = self.backend.train(steps)
        return Outcome(float(results.losses[0]), float(results.accuracies[0]), self.backend.export_state())

    def trace(self, steps: Steps) -> dict[str, Array]:
        """The step's inner values, operation by operation."""
        with unfused(self.backend.name):
            return self.backend.trace(steps)

    def step_unfused(self, steps: Steps) -> Outcome:
        """`step`, operation by operation."""
        with unfused(self.backend.name):
            return self.step(steps)


class Reference:
    """What the left side's settings and data say about every step; both sides are held to it."""

    def __init__(self, side: Side) -> None:
        self.experiment, self.data, self._side = side.experiment, side.data, side
        self.names = [layer.name for layer in side.experiment.layers()]
        self.map = fitted(side.data.images["train"], side.experiment.data.preprocess)

    def plan(self, first: int) -> Steps:
        """One step's inputs."""
        return self._side.plan(first)

    def labels(self, steps: Steps) -> Array:
        """Of the batch, int64 (B,)."""
        return self.data.labels["train"][steps.indices[0]].astype(np.int64)

    def input(self, steps: Steps, r: Rounding) -> Bounded:
        """The prepared batch (B, 3, 32, 32)."""
        shifts, flips = (None if a is None else a[0] for a in (steps.shifts, steps.flips))
        raw = self.data.images["train"][steps.indices[0]]
        images = moved(raw, shifts, flips, self.experiment.data.random_crop)
        return prepared(images, *self.map, r)
