"""`python -m bench.sweep`: time of a training step of one run, when many runs train in one program.

Compared with the same runs one after another, as `bench` measures them: in JAX, in our torch and in torch's
usual loop (default Adam); torch-func is torch's way of training many at once (vmap of its gradient).
Each measurement is a process of its own, and the processes take turns; a row is the median of its processes.
Ratios are medians over rounds of the two times measured in one round.
"""

from __future__ import annotations

import json as json_format
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from bench.cases import Case
from bench.collect import steps_of
from bench.measure import measure_case
from experiment.catalogue import find
from experiment.cost import steps_per_call
from experiment.run_dir import write_json
from experiment.spec import Experiment

VARIANTS = ("jax-sweep", "jax", "torch", "torch-usual")
ALL = (*VARIANTS, "jax-vmap", "torch-func")
IMAGES = 50_000


@dataclass(frozen=True)
class Options:
    """What to measure."""

    size: Literal["7", "11"] = "7"
    """The study's MLP: 3072-600-500-275-10, or size 11."""
    runs: int = 4
    """Runs in the program."""
    calls: int = 4
    """Timed calls of each measurement; one by one, as many for each run."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where."""
    repeats: int = 5
    """Processes per variant."""
    variants: tuple[str, ...] = VARIANTS
    """Which to measure; jax-vmap and torch-func carry out all runs at once as batched products."""
    json: Path | None = None
    """Also write every process's milliseconds to this file."""
    only: str = ""
    """Measure this variant once, in this process, and print milliseconds of a run's step as JSON."""


def experiments(size: str, runs: int) -> list[Experiment]:
    """Runs of the study's grid that differ in learning rate and decay."""
    base = find(f"size{size}").experiment
    return [
        replace(
            base, optimization=replace(base.optimization, learning_rate=1e-3 / (i + 1), weight_decay=1e-4)
        )
        for i in range(runs)
    ]


def measure(options: Options) -> float:
    """Milliseconds of one run's step (median over calls), in this process."""
    variant, made = options.only, experiments(options.size, options.runs)
    if variant in ("jax-sweep", "jax-vmap"):
        return _sweep(made, options, None if variant == "jax-sweep" else options.runs)
    if variant == "torch-func":
        from bench import torch_func

        return 1e3 * torch_func.seconds_per_step(made, options.calls)
    case = Case(f"size{options.size}", variant, made[0].data.batch_size, "float32", options.device)
    # As long as the sweep's: a machine's slow moments then fall on both alike.
    calls = options.calls * options.runs
    request = {"size": steps_of(case), "calls": calls, "images": IMAGES, "reference": False}
    seconds = measure_case({**case.plain(), **request, "spawned": time.time()})["seconds"]
    turns = np.reshape(seconds, (options.calls, options.runs)).mean(axis=1)
    return 1e3 * float(np.median(turns))


def _sweep(made: list[Experiment], options: Options, at_once: int | None) -> float:
    from cifar10.batches import BatchOrder
    from experiment.backend import TrainingData, plan_steps
    from experiment.init import initial_parameters
    from experiment.lockstep import call_length
    from jax_models.backend import find_devices
    from jax_models.sweep import JaxSweep

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES, dtype=np.uint8)
    splits = {"train": images, "test": images[:2000]}, {"train": labels, "test": labels[:2000]}
    sweep = JaxSweep(
        made, TrainingData(*splits, images.mean(axis=0), None), find_devices(options.device), at_once
    )
    for member, run in zip(sweep.members, made, strict=True):
        member.start(initial_parameters(run))
    size = call_length(steps_per_call(made[0], options.device), min(sweep.width, len(made)))
    sweep.compile(size)
    order = BatchOrder(IMAGES, made[0].data.batch_size, 0)
    seconds = []
    for first in range(0, size * (options.calls + 1), size):
        table = order.table(first, size)
        plans = {place: plan_steps(run, table, first) for place, run in enumerate(made)}
        start = time.perf_counter()
        sweep.train(plans)
        seconds.append((time.perf_counter() - start) / size / len(made))
    return 1e3 * statistics.median(seconds[1:])


def main() -> None:
    """Measure all variants in turn and print the table."""
    options = tyro.cli(Options, prog="python -m bench.sweep", description=__doc__)
    unknown = {*options.variants, options.only} - {*ALL, ""}
    if unknown:
        print(f"variants: expected some of {', '.join(ALL)}, got {unknown.pop()!r}", file=sys.stderr)
        raise SystemExit(2)
    if options.only:
        print(json_format.dumps(measure(options)))
        return
    times: dict[str, list[float]] = {variant: [] for variant in options.variants}
    for _ in range(options.repeats):
        for variant in options.variants:
            command = [sys.executable, "-m", "bench.sweep", "--only", variant, "--size", options.size]
            command += [
                "--runs",
                str(options.runs),
                "--calls",
                str(options.calls),
                "--device",
                options.device,
            ]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            times[variant].append(json_format.loads(output))
            print(f"{variant}: {times[variant][-1]:.2f} ms", file=sys.stderr, flush=True)
    _print(options, times)
    if options.json is not None:
        found = {"size": options.size, "runs": options.runs, "device": options.device, "milliseconds": times}
        write_json(options.json, found)


def _print(options: Options, times: dict[str, list[float]]) -> None:
    first = options.variants[0]
    print(
        f"size {options.size}, {options.runs} runs, batch 200, {options.device}, "
        f"{options.repeats} processes each"
    )
    print(f"{'variant':<12} {'ms a step of a run':>19} {'min':>9} {'max':>9}  time against {first}")
    for variant, row in times.items():
        ratio = statistics.median(b / a for a, b in zip(times[first], row, strict=True))
        print(
            f"{variant:<12} {statistics.median(row):>19.2f} {min(row):>9.2f} {max(row):>9.2f}  {ratio:.2f}x"
        )


if __name__ == "__main__":
    main()
