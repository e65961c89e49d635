"""The time of whole commands, a sweep's beside single runs'."""

from __future__ import annotations

import json as json_format
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from triptych.bench import text
from triptych.bench.cases import at_least, choose
from triptych.errors import UserError
from triptych.store.run_dir import write_json

TRAIN = (sys.executable, "-m", "triptych", "train")
VARIANTS = ("jax-sweep", "jax", "torch")


class Measured(NamedTuple):
    """One variant in one round."""

    seconds: float
    """Of all runs, from the first command's start to the last one's end."""
    accuracies: list[float]
    """Each run's test accuracy after its last step, by learning rate."""


@dataclass(frozen=True)
class Options:
    """The time of whole commands, a sweep's beside single runs'.

    `sweep` times a training step; this times what a user waits for: start, loading, compiling, training,
    evaluation, checkpoints. Each measurement is `triptych train` itself, with an empty cache of compiled
    programs (runs one after another share it, as a user's would), and the variants take turns. A row is the
    median of its rounds; ratios are medians over rounds of the two times measured in one round.
    """

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

    def __post_init__(self) -> None:
        choose("variants", self.variants, VARIANTS)
        at_least(1, runs=self.runs, steps=self.steps, repeats=self.repeats)
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise UserError(f"data-dir: no folder {self.data_dir}; name the one with CIFAR-10")

    def run(self) -> int:
        """Measure all variants in turn and print the table; returns the exit code."""
        found: dict[str, list[Measured]] = {variant: [] for variant in self.variants}
        for _ in range(self.repeats):
            for variant, row in found.items():
                try:
                    row.append(measure(self, variant))
                except CommandFailed as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 1
                print(f"{variant}: {row[-1].seconds / self.runs:.2f} s a run", file=sys.stderr, flush=True)
        print(table(self, found))
        if self.json is not None:
            rounds = {variant: [one._asdict() for one in row] for variant, row in found.items()}
            asked = {key: getattr(self, key) for key in ("size", "runs", "steps", "device")}
            write_json(self.json, {**asked, "rounds": rounds})
        return 0


class CommandFailed(Exception):
    """The message holds the command and what it wrote."""


def commands(options: Options, variant: str, folder: Path) -> list[list[str]]:
    """What trains all runs into `folder`."""
    rates = [f"{1e-3 / (i + 1):.6g}" for i in range(options.runs)]
    backend = variant.partition("-")[0]
    data = ["--dataset", "generated"]
    if options.data_dir is not None:
        data = ["--dataset", "cifar10", "--data-dir", str(options.data_dir.resolve())]
    train = [*TRAIN, "--backend", backend, "--experiment", f"size{options.size}"]
    train += ["--steps", str(options.steps), "--device", options.device, *data]
    if variant == "jax-sweep":
        values = ["--sweep", f"learning_rate={','.join(rates)}", "weight_decay=1e-4"]
        return [[*train, "--run-dir", str(folder), *values]]
    return [
        [*train, "--learning-rate", rate, "--weight-decay", "1e-4", "--run-dir", str(folder / rate)]
        for rate in rates
    ]


def measure(options: Options, variant: str) -> Measured:
    """Run the variant's commands. Raises CommandFailed where one fails."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        environment = os.environ | {"TRIPTYCH_CACHE_DIR": str(place / "cache")}
        wanted = commands(options, variant, place / "runs")
        start = time.perf_counter()
        for command in wanted:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            if done.returncode:
                raise CommandFailed(f"exit code {done.returncode} of {' '.join(command)}\n{done.stdout}")
        seconds = time.perf_counter() - start
        found = {
            rate(summary): json_format.loads(summary.read_text())["test_accuracy"]
            for summary in (place / "runs").glob("*/summary.json")
        }
        if len(found) != options.runs:
            raise CommandFailed(f"{variant} left {len(found)} finished runs, expected {options.runs}")
        return Measured(seconds, [accuracy for _, accuracy in sorted(found.items())])


def rate(summary: Path) -> float:
    """Learning rate of the run whose summary this is."""
    config = json_format.loads((summary.parent / "config.json").read_text())
    value: float = config["experiment"]["optimization"]["learning_rate"]
    return value


def table(options: Options, found: dict[str, list[Measured]]) -> str:
    """Seconds a run, ratios, and how far a run's test accuracy lies from the first variant's at most."""
    seconds = {variant: [one.seconds / options.runs for one in row] for variant, row in found.items()}
    bases = found[options.variants[0]]
    apart = [
        max(
            abs(b - a)
            for one, base in zip(row, bases, strict=True)
            for a, b in zip(base.accuracies, one.accuracies, strict=True)
        )
        for row in found.values()
    ]
    title = (
        f"size {options.size}, {options.runs} runs of {options.steps:,} steps, batch 200, {options.device}, "
        f"{options.repeats} rounds"
    )
    return (
        f"{title}\n{text.ratios(seconds, 's a run', ('accuracy apart', [f'{each:.4f}' for each in apart]))}"
    )
