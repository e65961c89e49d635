"""Times, in this process, of runs of the study's grid that train in one program, and of one alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from triptych.bench.cases import Case
from triptych.bench.runners import measure_case, random_data, steps_of
from triptych.cifar10.batches import BatchOrder
from triptych.describe.catalogue import find
from triptych.describe.cost import steps_per_call
from triptych.describe.init import initial_parameters
from triptych.describe.protocol import plan_steps
from triptych.describe.spec import Device, Experiment
from triptych.train.lockstep import call_length

if TYPE_CHECKING:
    from jax_models.sweep import JaxSweep

IMAGES = 50_000


def experiments(size: str, runs: int) -> list[Experiment]:
    """Runs of the study's grid that differ in learning rate and decay."""
    base = find(f"size{size}").experiment
    return [
        replace(
            base, optimization=replace(base.optimization, learning_rate=1e-3 / (i + 1), weight_decay=1e-4)
        )
        for i in range(runs)
    ]


def measure(variant: str, size: str, runs: int, device: Device, calls: int) -> float:
    """Milliseconds of one run's step (median over calls)."""
    if variant in ("jax-sweep", "jax-vmap"):
        sweep = Sweep(experiments(size, runs), device, None if variant == "jax-sweep" else runs)
        return 1e3 * statistics.median([sweep.seconds() for _ in range(calls + 1)][1:])
    if variant == "torch-func":
        from triptych.bench import torch_func

        return 1e3 * torch_func.seconds_per_step(experiments(size, runs), calls)
    case = Case(f"size{size}", variant, find(f"size{size}").experiment.data.batch_size, "float32", device)
    # As long as the sweep's: a machine's slow moments then fall on both alike.
    request = {"size": steps_of(case), "calls": calls * runs, "images": IMAGES, "reference": False}
    seconds = measure_case({**case.plain(), **request, "spawned": time.time()})["seconds"]
    return 1e3 * float(np.median(np.reshape(seconds, (calls, runs)).mean(axis=1)))


def paired(size: str, runs: int, device: Device, rounds: int) -> list[tuple[float, float]]:
    """Milliseconds of one run's step in the sweep and alone, round by round, whichever first in turn."""
    from jax_models.backend import JaxBackend, find_devices

    sweep = Sweep(experiments(size, runs), device, None)
    run = sweep.made[0]
    alone = JaxBackend(run, sweep.data, find_devices(device)[0])
    alone.start(initial_parameters(run))
    alone.compile(sweep.size)
    first = 0

    def one_by_one() -> float:
        nonlocal first
        plan = plan_steps(run, sweep.order.table(first, sweep.size), first)
        first += sweep.size
        start = time.perf_counter()
        for _ in range(runs):
            alone.train(plan)
        return (time.perf_counter() - start) / sweep.size / runs

    both: list[Callable[[], float]] = [sweep.seconds, one_by_one]
    measured = []
    for turn in range(rounds + 1):
        one, other = (1e3 * timed() for timed in (both[::-1] if turn % 2 else both))
        measured.append((other, one) if turn % 2 else (one, other))
    return measured[1:]


class Sweep:
    """Runs in one program, compiled, on random images."""

    def __init__(self, made: list[Experiment], device: Device, at_once: int | None) -> None:
        from jax_models.backend import find_devices
        from jax_models.sweep import JaxSweep

        self.made, self.data = made, random_data(IMAGES)
        self.order = BatchOrder(IMAGES, made[0].data.batch_size, 0)
        self.first = 0
        self.sweep: JaxSweep = JaxSweep(made, self.data, find_devices(device), at_once)
        for member, run in zip(self.sweep.members, made, strict=True):
            member.start(initial_parameters(run))
        self.size = call_length(steps_per_call(made[0], device), min(self.sweep.width, len(made)))
        self.sweep.compile(self.size)

    def seconds(self) -> float:
        """Of one run's step in the next call, which trains all runs."""
        table = self.order.table(self.first, self.size)
        plans = {place: plan_steps(run, table, self.first) for place, run in enumerate(self.made)}
        self.first += self.size
        start = time.perf_counter()
        self.sweep.train(plans)
        return (time.perf_counter() - start) / self.size / len(self.made)
