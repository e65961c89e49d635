"""One of the two that are held beside each other: a backend, what it trains, and how it takes a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.runs.locate.findings import At, Divergence, differs
from parity.suite.backends import unfused
from parity.suite.images import fitted, moved, prepared
from parity.verification.place import Place
from triptych.cifar10.batches import BatchOrder
from triptych.describe.init import initial_parameters
from triptych.describe.layers import parameter_shapes
from triptych.describe.plain import LATER, to_dict
from triptych.describe.protocol import Backend, Steps, TrainingData, plan_steps
from triptych.describe.spec import Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError
from triptych.store.run_dir import flat

CALL = 50
"""Steps planned, or taken, at once."""


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
        return rounding(self.place.dtype, self.place.device)

    @cached_property
    def layers(self) -> list[str]:
        """Their names."""
        return [layer.name for layer in self.experiment.layers()]

    # --- its settings and data: LEFT's are what both sides are held to ---

    @cached_property
    def _order(self) -> BatchOrder:
        spec = self.experiment
        return BatchOrder(len(self.data.labels["train"]), spec.data.batch_size, spec.training.seed)

    def plan(self, first: int, count: int = 1) -> Steps:
        """The inputs of `count` steps after the first `first`, by this side's own settings."""
        return plan_steps(self.experiment, self._order.table(first, count), first)

    def labels(self, steps: Steps) -> Array:
        """Of one step's batch, int64 (B,)."""
        return self.data.labels["train"][steps.indices[0]].astype(np.int64)

    @cached_property
    def _map(self) -> tuple[Bounded, Bounded | None]:
        return fitted(self.data.images["train"], self.experiment.data.preprocess)

    def input(self, steps: Steps, r: Rounding, mirrored: bool = False) -> Bounded:
        """One step's prepared batch (B, 3, 32, 32); `mirrored`: every flip the other way."""
        raw = self.data.images["train"][steps.indices[0]]
        shifts = None if steps.shifts is None else steps.shifts[0]
        flips = np.zeros(len(raw), bool) if steps.flips is None else steps.flips[0]
        images = moved(raw, shifts, flips ^ mirrored, self.experiment.data.random_crop)
        return prepared(images, *self._map, r)

    # --- its training ---

    def put(self, state: State) -> None:
        """Continue from a state, this side's own or the other's."""
        self.backend.import_state(state)

    def step(self, steps: Steps) -> Outcome:
        """Take one step from where it stands, as it does in training."""
        results = self.backend.train(steps)
        return Outcome(float(results.losses[0]), float(results.accuracies[0]), self.backend.export_state())

    def train(self, state: State, first: int, last: int) -> tuple[Array, State]:
        """Losses of the steps first + 1 .. last from `state`, and the state after them."""
        self.put(state)
        calls = range(first, last, CALL)
        losses = [self.backend.train(self.plan(at, min(CALL, last - at))).losses for at in calls]
        return np.concatenate([*losses, np.empty(0)]), self.backend.export_state()

    def trace(self, steps: Steps) -> dict[str, Array]:
        """The step's inner values, operation by operation."""
        with unfused(self.backend.name):
            return self.backend.trace(steps)

    def step_unfused(self, steps: Steps) -> Outcome:
        """`step`, operation by operation."""
        with unfused(self.backend.name):
            return self.step(steps)


def begin(side: Side) -> State:
    """The side's own start."""
    side.backend.start(initial_parameters(side.experiment))
    return side.backend.export_state()


# --- what the settings of two sides say before anything is computed ---


def differing_settings(left: Experiment, right: Experiment) -> tuple[str, ...]:
    """`setting: LEFT's, RIGHT's` for each in which they differ."""
    a, b = (flat(LATER) | flat(to_dict(one)) for one in (left, right))
    return tuple(f"{key}: {a[key]!r}, {b[key]!r}" for key in a if a[key] != b[key])


def require_alike(left: Experiment, right: Experiment) -> None:
    """Raises UserError, which names the settings that differ, where the networks' parameters do not have the
    same shapes.
    """
    ours, theirs = (parameter_shapes(one.layers()) for one in (left, right))
    for name in ours | theirs:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"locate: the networks differ: {name} is {ours.get(name, 'missing')} on the left and "
                f"{theirs.get(name, 'missing')} on the right; the settings that differ (left's, right's): "
                f"{'; '.join(differing_settings(left, right))}; give two runs of one network, or see such "
                "runs side by side with triptych compare"
            )


def other_layers(left: Side, right: Side, first: int) -> Divergence | None:
    """The first layer that only one of the networks has."""
    for name in (*left.layers, *right.layers):
        if (name in left.layers) != (name in right.layers):
            who = left if name in left.layers else right
            return Divergence(
                first + 1, "forward", name, "y", "right", note=f"only {who.name} has this layer"
            )
    return None


def planned_difference(left: Side, right: Side, first: int, last: int) -> Divergence | None:
    """The first step whose batch, augmentation, masks or learning rate the settings make another."""
    alike = len(left.data.labels["train"]) == len(right.data.labels["train"])
    if left.experiment == right.experiment and alike:
        return None
    note = "by the settings; every step before is right"
    for step in range(first, last):
        ours, theirs = (_columns(side.plan(step)) for side in (left, right))
        for at, a in ours.items():
            b = theirs.get(at)
            if a is None or b is None or a.shape != b.shape:
                if a is not b:
                    return Divergence(step + 1, *at[:3], "right", note=note)
            elif found := differs(step + 1, at, a[0], b[0], note=note):
                return found
    return None


def _columns(steps: Steps) -> dict[At, Array | None]:
    return {
        At("data", "", "batch order"): steps.indices,
        At("data", "", "crop"): steps.shifts,
        At("data", "", "flip"): steps.flips,
        **{At("data", name, "mask"): mask for name, mask in steps.masks.items()},
        At("schedule", "", "learning rate"): steps.learning_rates,
    }
