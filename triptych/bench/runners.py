"""One training step in each variant, behind one face: start, compile, train; and its time."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from triptych.bench import agree
from triptych.bench.cases import Case, case_of
from triptych.describe.cost import steps_per_call
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


def random_data(count: int) -> TrainingData:
    """Random images: speed does not depend on them, and 1,000 different ones are enough to tell a right step
    from a wrong one.
    """
    rng = np.random.default_rng(0)
    different = min(count, 1000)
    pictures = rng.integers(0, 256, (different, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, different, dtype=np.uint8)
    rows = np.arange(count) % different
    images, numbers = pictures[rows], labels[rows]
    splits = {"train": images, "test": images[:2000]}, {"train": numbers, "test": numbers[:2000]}
    return TrainingData(*splits, pictures.mean(axis=0), None)


def create_runner(case: Case, count: int) -> Runner:
    """The case's runner over `count` images; raises UserError where the device is not there."""
    data = random_data(count)
    if case.variant in OURS:
        return OurRunner(case, data, *OURS[case.variant])
    from triptych.bench import torch_side

    return torch_side.PlainRunner(case, data)


OURS: Mapping[str, tuple[BackendName, bool]] = {
    "numpy": ("numpy", False),
    "jax": ("jax", False),
    "jax-step": ("jax", True),
    "torch": ("torch", False),
}
"""Variants that are our backends: which, and whether each step is a call of its own."""


class OurRunner:
    """A backend of ours, driven as the training loop drives it."""

    def __init__(self, case: Case, data: TrainingData, name: BackendName, one_by_one: bool) -> None:
        self.experiment, self.one_by_one = case.experiment(), one_by_one
        self.backend: Backend = create(name, self.experiment, data, case.device)
        self.order = case.order(len(data.labels["train"]))

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


def steps_of(case: Case) -> int:
    """Steps of a timed call: as many as training takes."""
    return steps_per_call(case.experiment(), case.device)


def measure_case(request: dict[str, Any]) -> dict[str, Any]:
    """Train the compared steps, then time calls of `size` steps, each waiting for the device at its end.

    Seconds: `first_step_s` from the process's start (`spawned`, by the clock) to the end of the first step,
    compiling included; `compile_s` of compiling alone; `seconds` of a step in each timed call. A call's
    inputs (the table of batches) are drawn beforehand and sent to the device within it; the images lie there.
    """
    case, size, calls = case_of(request), request["size"], request["calls"]
    runner = create_runner(case, request["images"])
    runner.start()
    start = time.perf_counter()
    runner.compile(size)
    compile_s = time.perf_counter() - start
    losses = list(runner.train(runner.plan(0, 1)))
    first_step_s = time.time() - request["spawned"]
    for step in range(1, agree.STEPS):
        losses += list(runner.train(runner.plan(step, 1)))
    untrained = list(runner.untrained(agree.STEPS)) if request["reference"] else None
    seconds = []
    for call in range(calls + 1):
        plan = runner.plan(agree.STEPS + call * size, size)
        start = time.perf_counter()
        runner.train(plan)
        seconds.append((time.perf_counter() - start) / size)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "seconds": seconds[1:],
        "compile_s": compile_s,
        "first_step_s": first_step_s,
        "losses": losses,
        "untrained": untrained,
        "host_bytes": peak,
        "device_bytes": _device_bytes(case.variant, case.device),
        "device_name": runner.device(),
        "versions": runner.versions(),
    }


def _device_bytes(variant: str, device: str) -> int | None:
    """The most memory in use on a GPU so far."""
    if device != "gpu":
        return None
    if variant.startswith("jax"):
        import jax

        statistics = jax.devices(device)[0].memory_stats()
        return None if statistics is None else int(statistics["peak_bytes_in_use"])
    import torch

    return int(torch.cuda.max_memory_allocated())
