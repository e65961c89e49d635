"""`python -m bench.training`: time of a training step in each backend, and in torch's usual loop.

Each measurement is a process of its own (two frameworks in one process slow each other down), and the
processes take turns. A process takes calls of the length that training takes, leaves out compiling and the
first call, and reports the median; a row is the median of its processes with the spread. Gathering the batch
and preparing its images are in. Images are random bytes: speed does not depend on them. Memory is the
process's peak, with 50,000 images, the framework itself and its compiler in it.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import tyro

from experiment.catalogue import find
from experiment.cost import step_flops, steps_per_call
from experiment.errors import UserError
from experiment.spec import Experiment

VARIANTS = ("numpy", "jax", "torch", "torch-usual")
IMAGES = 50_000


@dataclass(frozen=True)
class Options:
    """What to measure."""

    experiment: str = "fig1"
    """A run of the catalogue."""
    calls: int = 6
    """Timed calls of each measurement: about a second's work at 100 GFLOP/s each, at most 100 steps."""
    repeats: int = 5
    """Processes per variant."""
    variants: tuple[str, ...] = VARIANTS
    """Which to measure; torch-usual is torch as its tutorials write it."""
    only: str = ""
    """Measure this variant once, in this process, and print the result as JSON."""


def measure(variant: str, experiment: Experiment, calls: int) -> dict[str, float]:
    """Milliseconds of a step (median over calls) and peak memory in GB, in this process."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES, dtype=np.uint8)
    size = steps_per_call(experiment)
    if variant == "torch-usual":
        from bench import usual_torch

        seconds = usual_torch.seconds_per_step(experiment, images, labels, size, calls)
    else:
        seconds = _backend_seconds(variant, experiment, images, labels, size, calls)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"ms": 1e3 * statistics.median(seconds), "peak_gb": peak / 1e9}


def _backend_seconds(
    variant: str, experiment: Experiment, images: np.ndarray, labels: np.ndarray, size: int, calls: int
) -> list[float]:
    from cifar10.batches import BatchOrder
    from experiment.backend import TrainingData, create, plan_steps
    from experiment.init import initial_parameters

    splits = {"train": images, "test": images[:2000]}, {"train": labels, "test": labels[:2000]}
    data = TrainingData(*splits, images.mean(axis=0), None)
    backend = create(variant, experiment, data, "cpu")  # type: ignore[arg-type]
    backend.start(initial_parameters(experiment))
    backend.compile(size)
    order = BatchOrder(IMAGES, experiment.data.batch_size, 0)
    seconds = []
    for first in range(0, size * (calls + 1), size):
        plan = plan_steps(experiment, order.table(first, size), first)
        start = time.perf_counter()
        backend.train(plan)
        seconds.append((time.perf_counter() - start) / size)
    return seconds[1:]


def main() -> None:
    """Measure all variants in turn and print the table."""
    options = tyro.cli(Options, prog="python -m bench.training", description=__doc__)
    try:
        experiment = find(options.experiment).experiment
        unknown = {*options.variants, options.only} - {*VARIANTS, ""}
        if unknown:
            raise UserError(f"variants: expected some of {', '.join(VARIANTS)}, got {unknown.pop()!r}")
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if options.only:
        print(json.dumps(measure(options.only, experiment, options.calls)))
        return
    results: dict[str, list[dict[str, float]]] = {variant: [] for variant in options.variants}
    for _ in range(options.repeats):
        for variant in options.variants:
            command = [sys.executable, "-m", "bench.training", "--only", variant]
            command += ["--experiment", options.experiment, "--calls", str(options.calls)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            results[variant].append(json.loads(output))
    _print(options, experiment, results)


def _print(options: Options, experiment: Experiment, results: dict[str, list[dict[str, float]]]) -> None:
    medians = {variant: statistics.median(r["ms"] for r in rows) for variant, rows in results.items()}
    yardstick = medians.get("torch-usual") or next(iter(medians.values()))
    print(
        f"{options.experiment}, batch {experiment.data.batch_size}, {experiment.training.dtype}, cpu, "
        f"{options.repeats} processes each"
    )
    print(f"{'variant':<12} {'ms/step':>9} {'min':>9} {'max':>9} {'GFLOP/s':>8} {'peak GB':>8} {'time':>7}")
    for variant, rows in results.items():
        times = [row["ms"] for row in rows]
        print(
            f"{variant:<12} {medians[variant]:>9.3f} {min(times):>9.3f} {max(times):>9.3f} "
            f"{step_flops(experiment) / medians[variant] / 1e6:>8.1f} "
            f"{max(row['peak_gb'] for row in rows):>8.2f} {medians[variant] / yardstick:>6.2f}x"
        )
    print(f"time: against {'torch-usual' if 'torch-usual' in medians else next(iter(medians))}")


if __name__ == "__main__":
    main()
