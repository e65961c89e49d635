"""One of the two that are held beside each other: a backend, what it trains, and how it takes a step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.runs.locate.findings import Divergence
from parity.suite.backends import unfused
from parity.suite.images import fitted, moved, prepared
from parity.verification.place import Place
from triptych.cifar10.batches import BatchOrder
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


# --- what two sides' settings say before anything is computed ---


def require_alike(left: Side, right: Side) -> None:
    """Raises UserError where the networks' parameters do not have the same shapes."""
    shapes = [parameter_shapes(side.experiment.layers()) for side in (left, right)]
    if shapes[0] != shapes[1]:
        names = [name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name)]
        name = names[0]
        raise UserError(
            f"locate: the networks differ: {name} is {shapes[0].get(name, 'missing')} in {left.name} and "
            f"{shapes[1].get(name, 'missing')} in {right.name}; give two runs of one network"
        )


def other_layers(left: Side, right: Side, first: int) -> Divergence | None:
    """The first layer that only one of the networks has."""
    ours, theirs = ([layer.name for layer in side.experiment.layers()] for side in (left, right))
    if ours == theirs:
        return None
    odd = next(name for name in (*ours, *theirs) if (name in ours) != (name in theirs))
    who = left if odd in ours else right
    return Divergence(
        first + 1, "forward", odd, "y", "right", float("inf"), note=f"only {who.name} has this layer"
    )


def planned_difference(left: Side, right: Side, first: int, last: int) -> Divergence | None:
    """The first step whose batch, augmentation, masks or learning rate the settings make another."""
    alike = len(left.data.labels["train"]) == len(right.data.labels["train"])
    if left.experiment == right.experiment and alike:
        return None
    for start in range(first, last, CALL):
        plans = [side.plan(start, min(CALL, last - start)) for side in (left, right)]
        columns: list[tuple[str, Array | None, Array | None]] = [
            ("batch order", plans[0].indices, plans[1].indices),
            ("crop", plans[0].shifts, plans[1].shifts),
            ("flip", plans[0].flips, plans[1].flips),
            *((f"mask {name}", mask, plans[1].masks.get(name)) for name, mask in plans[0].masks.items()),
            ("learning rate", plans[0].learning_rates, plans[1].learning_rates),
        ]
        rows = [(_first_row(a, b), name, a, b) for name, a, b in columns]
        row, name, a, b = min(rows, key=lambda item: item[0])
        if row < CALL:
            return _planned(start + row, name, None if a is None else a[row], None if b is None else b[row])
    return None


def _first_row(a: Array | None, b: Array | None) -> int:
    """The first row in which two columns differ, or CALL."""
    if a is None or b is None or a.shape != b.shape:
        return CALL if a is None and b is None else 0
    rows = (a != b).reshape(len(a), -1).any(axis=1)
    return int(np.argmax(rows)) if rows.any() else CALL


def _planned(step: int, name: str, a: Array | None, b: Array | None) -> Divergence:
    index: tuple[int, ...] = ()
    actual = truth = float("nan")
    if a is not None and b is not None and a.shape == b.shape:
        index = tuple(int(i) for i in np.argwhere(np.asarray(a != b))[0])
        actual, truth = float(b[index]), float(a[index])
    layer = name.removeprefix("mask ") if name.startswith("mask ") else ""
    kind: Literal["schedule", "data"] = "schedule" if name == "learning rate" else "data"
    quantity = "mask" if layer else name
    return Divergence(
        step + 1, kind, layer, quantity, "right", float("inf"), index, actual, truth, 0.0,
        note="by the settings; every step before is right",
    )  # fmt: skip


def differing_settings(left: Side, right: Side) -> list[str]:
    """`group.setting: LEFT's, RIGHT's` for each in which they differ."""
    a, b = (flat(LATER) | flat(to_dict(side.experiment)) for side in (left, right))
    return [f"{key}: {a[key]!r}, {b[key]!r}" for key in a if a[key] != b[key]]
