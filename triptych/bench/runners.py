"""One training step in each variant, behind one face: start, compile, train, and untrained losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from triptych.bench.cases import Case
from triptych.describe.init import initial_parameters
from triptych.describe.protocol import Backend, Steps, TrainingData, create, plan_steps
from triptych.describe.spec import BackendName


class Runner(Protocol):
    """A variant ready to train: from the start, batch by batch, in the experiment's own order."""

    def start(self) -> None:
        """Initial parameters, a fresh optimizer."""

    def compile(self, size: int) -> None:
        """Get ready for calls of `size` steps."""

    def plan(self, first: int, count: int) -> object:
        """The inputs of `count` steps after the first `first`, for `train`."""

    def train(self, plan: object) -> np.ndarray:
        """Take these steps and wait for the device; their losses, float64."""

    def untrained(self, count: int) -> np.ndarray:
        """Losses of the first `count` batches with the parameters as they start."""

    def device(self) -> str:
        """What computes, in words."""

    def versions(self) -> dict[str, str]:
        """Package name to version."""


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images (count, 3, 32, 32) and labels (count,): speed does not depend on them, and 1,000
    different ones are enough to tell a right step from a wrong one.
    """
    rng = np.random.default_rng(0)
    different = min(count, 1000)
    pictures = rng.integers(0, 256, (different, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, different, dtype=np.uint8)
    rows = np.arange(count) % different
    return pictures[rows], labels[rows]


def create_runner(case: Case, count: int) -> Runner:
    """The case's runner over `count` images; raises UserError where the device is not there."""
    pictures, labels = images(count)
    if case.variant in OURS:
        name, one_by_one = OURS[case.variant]
        return OurRunner(name, case, pictures, labels, one_by_one)
    from triptych.bench import torch_side

    return torch_side.PlainRunner(case, pictures, labels)


OURS: Mapping[str, tuple[BackendName, bool]] = {
    "numpy": ("numpy", False),
    "jax": ("jax", False),
    "jax-step": ("jax", True),
    "torch": ("torch", False),
}
"""Variants that are our backends: which, and whether each step is a call of its own."""


class OurRunner:
    """A backend of ours, driven as the training loop drives it."""

    def __init__(
        self, name: BackendName, case: Case, pictures: np.ndarray, labels: np.ndarray, one_by_one: bool
    ) -> None:
        self.experiment, self.one_by_one = case.experiment(), one_by_one
        few = slice(0, 2000)
        splits = {"train": pictures, "test": pictures[few]}, {"train": labels, "test": labels[few]}
        mean = pictures[:1000].mean(axis=0)
        device = "gpu" if case.device == "gpu" else "cpu"
        data = TrainingData(*splits, mean, None)
        self.backend: Backend = create(name, self.experiment, data, device)  # type: ignore[arg-type]
        self.order = case.order(len(labels))

    def start(self) -> None:
        self.backend.start(initial_parameters(self.experiment))

    def compile(self, size: int) -> None:
        self.backend.compile(1 if self.one_by_one else size)

    def plan(self, first: int, count: int) -> list[Steps]:
        cuts = range(first, first + count) if self.one_by_one else [first]
        length = 1 if self.one_by_one else count
        return [plan_steps(self.experiment, self.order.table(at, length), at) for at in cuts]

    def train(self, plan: object) -> np.ndarray:
        assert isinstance(plan, list)
        return np.concatenate([self.backend.train(steps).losses for steps in plan])

    def untrained(self, count: int) -> np.ndarray:
        self.start()
        losses = []
        for steps in self.plan(0, count):
            still = Steps(
                steps.first, steps.indices, np.zeros_like(steps.learning_rates), steps.masks,
                steps.shifts, steps.flips,
            )  # fmt: skip
            losses.append(self.backend.train(still).losses)
        return np.concatenate(losses)

    def device(self) -> str:
        return self.backend.device

    def versions(self) -> dict[str, str]:
        return self.backend.versions()
