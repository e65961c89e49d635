"""The time of a training step: which cases, and the whole of their measurement."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triptych.bench import text
from triptych.bench.cases import MODELS, PRECISIONS, VARIANTS, Case, at_least, choose, obstacle
from triptych.bench.collect import Ask, Collected, Settings, collect, processes, report
from triptych.describe.catalogue import find
from triptych.errors import UserError
from triptych.store.run_dir import write_json


@dataclass(frozen=True)
class Options:
    """The time of a training step.

    Each measurement is a process of its own (two frameworks in one slow each other down) and the processes
    take turns: every case once, then every case again. A row is the median of its processes' medians with
    least and most; first start and compiling stand apart. Every process trains the same first steps, and a
    row whose losses disagree with the reference's gets no speed.
    """

    models: tuple[str, ...] = tuple(MODELS)
    """Networks and their training: fig1, size11, size11-bn (figure 5), cnn (figure 7)."""
    variants: tuple[str, ...] = ()
    """Ways to run a step, see `list`. Default: all that can run here; the others are named with a reason."""
    batches: tuple[int, ...] = ()
    """Images a step. Default: each model's own (200; the CNN's is 32)."""
    precisions: tuple[str, ...] = ("float32",)
    """float32, tf32 (a GPU's) and bfloat16, each pinned alike on both sides."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where to compute; NumPy knows the CPU only."""
    repeats: int = 5
    """Processes a case, in turns."""
    calls: int = 6
    """Timed calls in a process, of one to four seconds' work each."""
    images: int = 50_000
    """Random training images on the device."""
    quick: bool = False
    """Few images, one process and two calls each: shows that everything runs, its times mean little."""
    minutes: float = 0.0
    """Start no process after so many minutes, and report what there is; 0 for no limit."""
    json: Path | None = None
    """Write the report here, and again after each process, so that nothing is lost when it is stopped."""

    def __post_init__(self) -> None:
        at_least(1, repeats=self.repeats, calls=self.calls, images=self.images)
        if self.batches:
            at_least(2, batches=min(self.batches))

    def run(self) -> int:
        """Measure and print; returns the exit code."""
        with processes() as ask:
            data = measure(self, ask)
        if self.json:
            write_json(self.json, data)
        print(text.terminal(data))
        return 1 if data["refused"] or data["failed"] else 0


def plan(options: Options) -> tuple[list[Case], list[tuple[Case, str]]]:
    """The cases to measure, references first, and those left out, each with its reason.

    Raises UserError for unknown names, and for a variant that was named but cannot run.
    """
    choose("models", options.models, tuple(MODELS))
    choose("precisions", options.precisions, PRECISIONS)
    chosen = choose("variants", options.variants or tuple(VARIANTS), tuple(VARIANTS))
    wanted = [
        Case(model, variant, batch, precision, options.device)
        for model in options.models
        for batch in options.batches or (find(MODELS[model]).experiment.data.batch_size,)
        for precision in sorted(options.precisions, key=PRECISIONS.index)
        for variant in sorted(chosen, key=tuple(VARIANTS).index)
    ]
    reasons = {case: obstacle(case.variant, case.precision, case.device) for case in wanted}
    cases = [case for case, reason in reasons.items() if not reason]
    skipped = [(case, reason) for case, reason in reasons.items() if reason]
    able = {case.variant for case in cases}
    for case, reason in skipped:
        if case.variant in options.variants and case.variant not in able:
            raise UserError(f"variants: {case.variant} cannot run here: {reason}; change --variants")
    if not cases:
        raise UserError(f"variants: none of them can run here: {skipped[0][1]}")
    return cases, skipped


def measure(options: Options, ask: Ask) -> dict[str, Any]:
    """The whole bench; the report as it goes to JSON."""
    cases, skipped = plan(options)
    if options.quick:
        settings = Settings(calls=2, images=min(options.images, 1000), quick=True)
    else:
        settings = Settings(options.calls, options.images, quick=False)
    repeats = 1 if options.quick else options.repeats
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")

    def note(collected: Collected, what: str) -> None:
        print(what, file=sys.stderr, flush=True)
        if options.json:
            write_json(options.json, report(collected, settings, skipped))

    collected = collect(cases, repeats, settings, ask, note, deadline)
    return report(collected, settings, skipped)
