"""`python -m bench.mlp`: training steps per second of an MLP in each backend, and in torch's usual loop.

Each measurement is a process of its own (two frameworks in one process slow each other down), the
processes take turns, and each row is the median of its repeats with the spread. Compiling and the first
call are left out; gathering the batch and preparing its images are in. Images are random bytes: speed
does not depend on them.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import tyro

from experiment.catalogue import find
from experiment.spec import Experiment

VARIANTS = ("numpy", "jax", "torch", "torch-usual")
IMAGES = 50_000


@dataclass(frozen=True)
class Options:
    """What to measure."""

    experiment: str = "fig1"
    """A run of the catalogue."""
    steps: int = 600
    """Timed steps of each measurement."""
    repeats: int = 5
    """Processes per variant."""
    only: str = ""
    """Measure this variant once, in this process, and print its steps/s."""


def measure(variant: str, experiment: Experiment, steps: int) -> float:
    """Steps per second of one variant, in this process."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, IMAGES, dtype=np.uint8)
    if variant == "torch-usual":
        from bench.usual_torch import train

        return train(experiment, images, labels, steps)
    return _backend(variant, experiment, images, labels, steps)


def _backend(
    variant: str, experiment: Experiment, images: np.ndarray, labels: np.ndarray, steps: int
) -> float:
    from cifar10.batches import BatchOrder
    from experiment.backend import TrainingData, create, plan_steps
    from experiment.init import initial_parameters

    splits = {"train": images, "test": images[:2000]}, {"train": labels, "test": labels[:2000]}
    data = TrainingData(*splits, images.mean(axis=0), None)
    backend = create(variant, experiment, data, "cpu")  # type: ignore[arg-type]
    backend.start(initial_parameters(experiment))
    backend.compile(100)
    order = BatchOrder(IMAGES, experiment.data.batch_size, 0)
    plans = [plan_steps(experiment, order.table(first, 100), first) for first in range(0, 100 + steps, 100)]
    backend.train(plans[0])
    start = time.perf_counter()
    for plan in plans[1:]:
        backend.train(plan)
    return 100 * len(plans[1:]) / (time.perf_counter() - start)


def main() -> None:
    """Measure all variants in turn and print the table."""
    options = tyro.cli(Options, prog="python -m bench.mlp", description=__doc__)
    experiment = find(options.experiment).experiment
    if options.only:
        print(measure(options.only, experiment, options.steps))
        return
    results: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.repeats):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "bench.mlp", "--only", variant]
            command += ["--experiment", options.experiment, "--steps", str(options.steps)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results[variant].append(float(output))
    usual = statistics.median(results["torch-usual"])
    print(f"{options.experiment}, cpu, {options.repeats} processes each, {options.steps} steps")
    print(f"{'variant':<12} {'steps/s':>8} {'min':>8} {'max':>8} {'against torch-usual':>20}")
    for variant, rates in results.items():
        median = statistics.median(rates)
        print(
            f"{variant:<12} {median:>8.0f} {min(rates):>8.0f} {max(rates):>8.0f} {median / usual:>19.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
