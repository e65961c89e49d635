"""`python -m triptych.bench.whole`: time of whole commands, a sweep's beside single runs'.

`sweep` times a training step; this times what a user waits for: start, loading, compiling, training,
evaluation, checkpoints. Each measurement is `train.py` itself, with an empty cache of compiled programs (runs
one after another share it, as a user's would), and the variants take turns. A row is the median of its
rounds; ratios are medians over rounds of the two times measured in one round.
"""

from __future__ import annotations

import json as json_format
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from triptych.show import tables
from triptych.store.run_dir import write_json

ROOT = Path(__file__).parents[2]
VARIANTS = ("jax-sweep", "jax", "torch")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    size: Literal["7", "11"] = "7"
    """The study's MLP: 3072-600-500-275-10, or size 11."""
    runs: int = 4
    """Runs of the grid, which differ in learning rate."""
    steps: int = 2500
    """Training steps of each; table 1's have 2,500."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where."""
    data_dir: Path | None = None
    """Folder with CIFAR-10; None trains on the generated images."""
    repeats: int = 3
    """Rounds."""
    variants: tuple[str, ...] = VARIANTS
    """jax-sweep: one command; jax, torch: one command for each run."""
    json: Path | None = None
    """Also write every round's seconds and test accuracies to this file."""


@dataclass(frozen=True)
class Measured:
    """One variant in one round."""

    seconds: float
    """Of all runs, from the first command's start to the last one's end."""
    accuracies: list[float]
    """Each run's test accuracy after its last step, by learning rate."""


class CommandError(Exception):
    """A command failed; the message holds it and what it wrote."""


def commands(options: Options, variant: str, folder: Path) -> list[list[str]]:
    """What trains all runs into `folder`."""
    rates = [f"{1e-3 / (i + 1):.6g}" for i in range(options.runs)]
    backend = variant.partition("-")[0]
    data = ["--dataset", "generated"]
    if options.data_dir is not None:
        data = ["--dataset", "cifar10", "--data-dir", str(options.data_dir.resolve())]
    train = [sys.executable, str(ROOT / "train.py"), "--backend", backend, "--experiment"]
    train += [f"size{options.size}", "--steps", str(options.steps), "--device", options.device, *data]
    if variant == "jax-sweep":
        values = ["--sweep", f"learning_rate={','.join(rates)}", "weight_decay=1e-4"]
        return [[*train, "--run-dir", str(folder), *values]]
    return [
        [*train, "--learning-rate", rate, "--weight-decay", "1e-4", "--run-dir", str(folder / rate)]
        for rate in rates
    ]


def measure(options: Options, variant: str) -> Measured:
    """Run the variant's commands. Raises CommandError where one fails."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        surroundings = os.environ | {"TRIPTYCH_CACHE_DIR": str(place / "cache")}
        wanted = commands(options, variant, place / "runs")
        start = time.perf_counter()
        for command in wanted:
            done = subprocess.run(
                command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if done.returncode:
                raise CommandError(f"exit code {done.returncode} of {' '.join(command)}\n{done.stdout}")
        seconds = time.perf_counter() - start
        found = {
            rate(summary): json_format.loads(summary.read_text())["test_accuracy"]
            for summary in (place / "runs").glob("*/summary.json")
        }
        if len(found) != options.runs:
            raise CommandError(f"{variant} left {len(found)} finished runs, expected {options.runs}")
        return Measured(seconds, [accuracy for _, accuracy in sorted(found.items())])


def rate(summary: Path) -> float:
    """Learning rate of the run whose summary this is."""
    config = json_format.loads((summary.parent / "config.json").read_text())
    value: float = config["experiment"]["optimization"]["learning_rate"]
    return value


def main(argv: list[str] | None = None) -> int:
    """Measure all variants in turn and print the table; returns the exit code."""
    options = tyro.cli(Options, prog="python -m triptych.bench.whole", description=__doc__, args=argv)
    if wrong := _wrong(options):
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    found: dict[str, list[Measured]] = {variant: [] for variant in options.variants}
    for _ in range(options.repeats):
        for variant in options.variants:
            try:
                one = measure(options, variant)
            except CommandError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            found[variant].append(one)
            print(f"{variant}: {one.seconds / options.runs:.2f} s a run", file=sys.stderr, flush=True)
    print(table(options, found))
    if options.json is not None:
        rounds = {variant: [vars(one) for one in row] for variant, row in found.items()}
        asked = {key: getattr(options, key) for key in ("size", "runs", "steps", "device")}
        write_json(options.json, {**asked, "rounds": rounds})
    return 0


def table(options: Options, found: dict[str, list[Measured]]) -> str:
    """Seconds a run, ratios, and how far a run's test accuracy lies from the first variant's at most."""
    first = options.variants[0]
    rows = []
    for variant, row in found.items():
        each = [one.seconds / options.runs for one in row]
        ratio = statistics.median(b.seconds / a.seconds for a, b in zip(found[first], row, strict=True))
        apart = max(
            abs(b - a)
            for one, base in zip(row, found[first], strict=True)
            for a, b in zip(base.accuracies, one.accuracies, strict=True)
        )
        seconds = (f"{value:.2f}" for value in (statistics.median(each), min(each), max(each)))
        rows.append((variant, *seconds, f"{ratio:.2f}x", f"{apart:.4f}"))
    header = ("variant", "s a run", "min", "max", f"against {first}", "accuracy apart")
    title = (
        f"size {options.size}, {options.runs} runs of {options.steps:,} steps, batch 200, {options.device}, "
        f"{options.repeats} rounds"
    )
    return f"{title}\n{tables.text(header, rows)}"


def _wrong(options: Options) -> str:
    """What is wrong with the options, "" for nothing."""
    unknown = [variant for variant in options.variants if variant not in VARIANTS]
    if unknown or not options.variants:
        got = repr(unknown[0]) if unknown else "none"
        return f"variants: expected some of {', '.join(VARIANTS)}, got {got}"
    for name in ("runs", "steps", "repeats"):
        if getattr(options, name) < 1:
            return f"{name}: expected 1 or more, got {getattr(options, name)}"
    if options.data_dir is not None and not options.data_dir.is_dir():
        return f"data-dir: no folder {options.data_dir}; name the one with CIFAR-10"
    return ""


if __name__ == "__main__":
    sys.exit(main())
