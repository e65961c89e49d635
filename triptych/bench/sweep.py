"""`python -m triptych.bench.sweep`: time of a training step of one run, when many runs train in one program.

Compared with the same runs one after another, as `bench` measures them: in JAX, in our torch and in torch's
usual loop (default Adam); torch-func is torch's way of training many at once (vmap of its gradient).
Each measurement is a process of its own, and the processes take turns; a row is the median of its processes.
Ratios are medians over rounds of the two times measured in one round.

`--paired ROUNDS` measures the sweep and one run alone in JAX in a single process instead, call by call in
turn: no process is luckier than the other with its memory, and slow moments of the machine fall on both.
"""

from __future__ import annotations

import json as json_format
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro

from triptych.bench.cases import Case
from triptych.bench.collect import steps_of
from triptych.bench.measure import measure_case
from triptych.cifar10.batches import BatchOrder
from triptych.describe.catalogue import find
from triptych.describe.cost import steps_per_call
from triptych.describe.init import initial_parameters
from triptych.describe.protocol import TrainingData, plan_steps
from triptych.describe.spec import Experiment
from triptych.show import tables
from triptych.store.run_dir import write_json
from triptych.train.lockstep import call_length

if TYPE_CHECKING:
    from jax_models.sweep import JaxSweep

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
    paired: int = 0
    """Rounds of a sweep's calls and as many alone, in one process; the variants are left aside."""
    json: Path | None = None
    """Also write every process's (or, paired, every round's) milliseconds to this file."""
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
        from triptych.bench import torch_func

        return 1e3 * torch_func.seconds_per_step(made, options.calls)
    case = Case(f"size{options.size}", variant, made[0].data.batch_size, "float32", options.device)
    # As long as the sweep's: a machine's slow moments then fall on both alike.
    calls = options.calls * options.runs
    request = {"size": steps_of(case), "calls": calls, "images": IMAGES, "reference": False}
    seconds = measure_case({**case.plain(), **request, "spawned": time.time()})["seconds"]
    turns = np.reshape(seconds, (options.calls, options.runs)).mean(axis=1)
    return 1e3 * float(np.median(turns))


def _data() -> TrainingData:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES, dtype=np.uint8)
    splits = {"train": images, "test": images[:2000]}, {"train": labels, "test": labels[:2000]}
    return TrainingData(*splits, images.mean(axis=0), None)


def _started(
    made: list[Experiment], data: TrainingData, options: Options, at_once: int | None
) -> tuple[JaxSweep, int]:
    """The runs in one program, compiled, and the steps of a call."""
    from jax_models.backend import find_devices
    from jax_models.sweep import JaxSweep

    sweep = JaxSweep(made, data, find_devices(options.device), at_once)
    for member, run in zip(sweep.members, made, strict=True):
        member.start(initial_parameters(run))
    size = call_length(steps_per_call(made[0], options.device), min(sweep.width, len(made)))
    sweep.compile(size)
    return sweep, size


def _sweep(made: list[Experiment], options: Options, at_once: int | None) -> float:
    sweep, size = _started(made, _data(), options, at_once)
    order = BatchOrder(IMAGES, made[0].data.batch_size, 0)
    seconds = [_timed(sweep, made, order.table(first, size), first) for first in _firsts(size, options.calls)]
    return 1e3 * statistics.median(seconds[1:])


def _firsts(size: int, calls: int) -> range:
    """First step of each call, of one more than are counted."""
    return range(0, size * (calls + 1), size)


def _timed(sweep: JaxSweep, made: list[Experiment], table: np.ndarray, first: int) -> float:
    """Seconds of one run's step in a call of the sweep for all runs."""
    plans = {place: plan_steps(run, table, first) for place, run in enumerate(made)}
    start = time.perf_counter()
    sweep.train(plans)
    return (time.perf_counter() - start) / len(table) / len(made)


def paired(options: Options) -> list[tuple[float, float]]:
    """Milliseconds of one run's step in the sweep and alone, round by round, whichever first in turn."""
    from jax_models.backend import JaxBackend, find_devices

    made, data = experiments(options.size, options.runs), _data()
    sweep, size = _started(made, data, options, None)
    alone = JaxBackend(made[0], data, find_devices(options.device)[0])
    alone.start(initial_parameters(made[0]))
    alone.compile(size)
    order, rounds = BatchOrder(IMAGES, made[0].data.batch_size, 0), []

    def one_by_one(table: np.ndarray, first: int) -> float:
        plan = plan_steps(made[0], table, first)
        start = time.perf_counter()
        for _ in made:
            alone.train(plan)
        return (time.perf_counter() - start) / size / len(made)

    for turn, first in enumerate(_firsts(size, options.paired)):
        table = order.table(first, size)
        if turn % 2:
            single = one_by_one(table, first)
            rounds.append((_timed(sweep, made, table, first), single))
        else:
            together = _timed(sweep, made, table, first)
            rounds.append((together, one_by_one(table, first)))
    return [(1e3 * together, 1e3 * single) for together, single in rounds[1:]]


def main() -> None:
    """Measure all variants in turn and print the table."""
    options = tyro.cli(Options, prog="python -m triptych.bench.sweep", description=__doc__)
    if wrong := _wrong(options):
        print(f"error: {wrong}", file=sys.stderr)
        raise SystemExit(2)
    if options.only:
        print(json_format.dumps(measure(options)))
        return
    if options.paired > 0:
        _print_paired(options, paired(options))
        return
    times: dict[str, list[float]] = {variant: [] for variant in options.variants}
    for _ in range(options.repeats):
        for variant in options.variants:
            command = [
                sys.executable,
                "-m",
                "triptych.bench.sweep",
                "--only",
                variant,
                "--size",
                options.size,
            ]
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


def _wrong(options: Options) -> str:
    """What is wrong with the options, "" for nothing."""
    unknown = {*options.variants, options.only} - {*ALL, ""}
    if unknown:
        return f"variants: expected some of {', '.join(ALL)}, got {unknown.pop()!r}"
    for name, least in (("runs", 1), ("calls", 1), ("repeats", 1), ("paired", 0)):
        if getattr(options, name) < least:
            return f"{name}: expected {least} or more, got {getattr(options, name)}"
    return ""


def _print_paired(options: Options, rounds: list[tuple[float, float]]) -> None:
    together, alone = zip(*rounds, strict=True)
    ratios = [a / b for a, b in rounds]
    print(
        f"size {options.size}, {options.runs} runs, batch 200, {options.device}, one process, "
        f"{len(rounds)} rounds\n"
        f"ms a step of a run: in the sweep {statistics.median(together):.2f}, alone "
        f"{statistics.median(alone):.2f}; in the sweep it takes {statistics.median(ratios):.3f} of its time "
        f"alone ({min(ratios):.3f} to {max(ratios):.3f})"
    )
    if options.json is not None:
        found = {"size": options.size, "runs": options.runs, "device": options.device, "rounds": rounds}
        write_json(options.json, found)


def _print(options: Options, times: dict[str, list[float]]) -> None:
    first = options.variants[0]
    print(
        f"size {options.size}, {options.runs} runs, batch 200, {options.device}, "
        f"{options.repeats} processes each"
    )
    rows = []
    for variant, row in times.items():
        ratio = statistics.median(b / a for a, b in zip(times[first], row, strict=True))
        milliseconds = (f"{value:.2f}" for value in (statistics.median(row), min(row), max(row)))
        rows.append((variant, *milliseconds, f"{ratio:.2f}x"))
    header = ("variant", "ms a step of a run", "min", "max", f"time against {first}")
    print(tables.text(header, rows))


if __name__ == "__main__":
    main()
