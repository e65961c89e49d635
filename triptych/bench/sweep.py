"""The time of a training step of one run, when many runs train in one program."""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triptych.bench import grid, text
from triptych.bench.cases import at_least, choose
from triptych.bench.collect import processes
from triptych.store.run_dir import write_json

VARIANTS = ("jax-sweep", "jax", "torch", "torch-usual")
ALL = (*VARIANTS, "jax-vmap", "torch-func")


@dataclass(frozen=True)
class Options:
    """The time of a training step of one run, when many runs train in one program.

    It stands beside the same runs one after another, as `step` measures them: in JAX, in our torch and in
    torch's usual loop (default Adam). torch-func is torch's way of training many at once (vmap of its
    gradient). Each measurement is a process of its own, and the processes take turns; a row is the median of
    its processes. Ratios are medians over rounds of the two times measured in one round.
    """

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
    """Instead of the variants, so many rounds of the sweep and of one run alone in JAX, call by call in turn
    in one process: neither is luckier with its memory, and the machine's slow moments fall on both."""
    json: Path | None = None
    """Also write every process's (or, paired, every round's) milliseconds to this file."""

    def __post_init__(self) -> None:
        choose("variants", self.variants, ALL)
        at_least(1, runs=self.runs, calls=self.calls, repeats=self.repeats)
        at_least(0, paired=self.paired)

    def run(self) -> int:
        """Measure and print; returns the exit code."""
        asked: dict[str, Any] = {"size": self.size, "runs": self.runs, "device": self.device}
        title = f"size {self.size}, {self.runs} runs, batch 200, {self.device}"
        found: dict[str, Any]
        if self.paired:
            rounds = grid.paired(**asked, rounds=self.paired)
            print(paired(title, rounds))
            found = {"rounds": rounds}
        else:
            times = self._in_turn({**asked, "calls": self.calls})
            print(f"{title}, {self.repeats} processes each")
            print(text.ratios(times, "ms a step of a run"))
            found = {"milliseconds": times}
        if self.json is not None:
            write_json(self.json, {**asked, **found})
        return 0

    def _in_turn(self, request: dict[str, Any]) -> dict[str, list[float]]:
        """Variant to milliseconds of each of its processes."""
        times: dict[str, list[float]] = {variant: [] for variant in self.variants}
        with processes() as ask:
            for _ in range(self.repeats):
                for variant, row in times.items():
                    row.append(ask({**request, "grid": variant})["milliseconds"])
                    print(f"{variant}: {row[-1]:.2f} ms", file=sys.stderr, flush=True)
        return times


def paired(title: str, rounds: list[tuple[float, float]]) -> str:
    """Medians of both, and of their ratio, with its range."""
    together, alone = zip(*rounds, strict=True)
    ratios = [a / b for a, b in rounds]
    return (
        f"{title}, one process, {len(rounds)} rounds\n"
        f"ms a step of a run: in the sweep {statistics.median(together):.2f}, alone "
        f"{statistics.median(alone):.2f}; in the sweep it takes {statistics.median(ratios):.3f} of its time "
        f"alone ({min(ratios):.3f} to {max(ratios):.3f})"
    )
