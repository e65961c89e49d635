"""Time a training step of each backend, next to torch as others write it.

    python -m triptych bench                                     every model and variant that runs on this CPU
    python -m triptych bench --models cnn --batches 32 128 --variants numpy jax torch-best --json cnn.json
    python -m triptych bench --device gpu --precisions float32 tf32 bfloat16 --json gpu.json --plot gpu.png
    python -m triptych bench compare A.json B.json                    two machines, or two commits
    python -m triptych bench table FILE.json                          its rows in Markdown
    python -m triptych bench list                                     the variants

Each measurement is a process of its own (two frameworks in one slow each other down) and the processes
take turns: every case once, then every case again. A row is the median of its processes' medians with least
and most; first start and compiling stand apart. Every process trains the same first steps, and a row whose
losses disagree with the reference's gets no speed. Exit codes: 0; 1 some rows were refused or failed; 2 a
mistake in the command, or a device, package or compiler that is not there.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from triptych.bench import compare, text
from triptych.bench.cases import MODELS, PRECISIONS, VARIANTS, Case, choose, obstacle
from triptych.bench.collect import Ask, Collected, Processes, Settings, cache_folder, collect, report
from triptych.describe.catalogue import find
from triptych.errors import UserError
from triptych.show import command
from triptych.store.checkpoint import write_atomically


@dataclass(frozen=True)
class Options:
    """What to measure."""

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
    """Write everything here, and again after each process, so that nothing is lost when it is stopped."""
    plot: Path | None = None
    """Draw step times and their floors here (.png)."""

    def __post_init__(self) -> None:
        for name in ("repeats", "calls", "images"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: expected at least 1, got {getattr(self, name)}; change --{name}")
        if self.batches and min(self.batches) < 2:
            raise UserError(f"batches: expected at least 2 images, got {min(self.batches)}; change --batches")


def plan(options: Options) -> tuple[list[Case], list[tuple[Case, str]]]:
    """The cases to measure, references first, and those left out, each with its reason.

    Raises UserError for unknown names, and for a variant that was named but cannot run.
    """
    choose("models", options.models, tuple(MODELS))
    choose("precisions", options.precisions, PRECISIONS)
    named = options.variants
    chosen = choose("variants", named, tuple(VARIANTS)) if named else tuple(VARIANTS)
    cases, skipped = [], []
    for model in options.models:
        for batch in options.batches or (find(MODELS[model]).experiment.data.batch_size,):
            for precision in sorted(options.precisions, key=PRECISIONS.index):
                for variant in sorted(chosen, key=tuple(VARIANTS).index):
                    case = Case(model, variant, batch, precision, options.device)
                    reason = obstacle(variant, precision, options.device)
                    if reason:
                        skipped.append((case, reason))
                    else:
                        cases.append(case)
    for variant in named:
        reasons = [reason for case, reason in skipped if case.variant == variant]
        if reasons and not any(case.variant == variant for case in cases):
            raise UserError(f"variants: {variant} cannot run here: {reasons[0]}; change --variants")
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
            _write(options.json, report(collected, settings, skipped))

    collected = collect(cases, repeats, settings, ask, note, deadline)
    return report(collected, settings, skipped)


def _write(path: Path, data: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.run(lambda: _main(argv), "interrupted; --json holds what was measured until then")


def _main(argv: list[str]) -> int:
    match argv:
        case ["list"]:
            print(text.variants())
        case ["table", *files]:
            print(text.markdown(compare.read(_files(files, 1, "table FILE.json")[0])))
        case ["compare", *files]:
            before, after = _files(files, 2, "compare A.json B.json")
            print(compare.compare(compare.read(before), compare.read(after)))
        case _:
            return _measure(argv)
    return 0


def _measure(argv: list[str]) -> int:
    options = tyro.cli(Options, prog="python -m triptych bench", description=__doc__, args=argv)
    with cache_folder() as cache:
        data = measure(options, Processes(cache))
    if options.json:
        _write(options.json, data)
    print(text.terminal(data))
    if options.plot:
        from triptych.bench import picture

        write_atomically(options.plot, picture.draw(data))
    return 1 if data["refused"] or data["failed"] else 0


def _files(words: list[str], count: int, form: str) -> list[Path]:
    if len(words) != count:
        raise UserError(f"bench: expected `python -m triptych bench {form}`, got {len(words)} file names")
    return [Path(word) for word in words]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
