"""`python -m tools.soak`: see the package."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers import tiny
from tools.soak import faults, kill, mutate, resume, signals
from tools.soak.report import Report

PARTS = ("kill", "signals", "faults", "resume", "mutate")


def parts(short: bool, backends: tuple[str, ...], seed: int) -> dict[str, Callable[[Path], Report]]:
    """Each part at full size, which is what docs/reliability.md shows, or in a form for every day."""
    quick = tuple(resume.SETTINGS)[:3]
    return {
        "kill": lambda folder: kill.run(5 if short else 100, backends, folder, seed),
        "signals": lambda folder: signals.run(4 if short else 50, backends, folder, seed),
        "faults": lambda folder: faults.run(folder, every=7 if short else 1),
        "resume": lambda folder: resume.run(backends, folder, quick if short else tuple(resume.SETTINGS)),
        "mutate": lambda folder: mutate.run(2000 if short else 100_000, folder, seed),
    }


def main() -> int:
    """Run the parts; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="default: all of them")
    parser.add_argument("--short", action="store_true", help="a few of each, for every day")
    parser.add_argument("--backends", nargs="+", choices=tiny.BACKENDS, default=list(tiny.BACKENDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"), help="folder for the figures")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    names = [name for name in PARTS if name in (chosen.parts or PARTS)]
    if len(names) > 1:
        # Each in a process of its own: they fork, and JAX's threads, once it was used, are lost in a fork.
        options = [word for word in sys.argv[1:] if word not in PARTS]
        codes = [subprocess.call([sys.executable, "-m", "tools.soak", name, *options]) for name in names]
        return max(codes)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = parts(chosen.short, tuple(chosen.backends), chosen.seed)[names[0]](Path(folder) / names[0])
    report.write(chosen.out, time.monotonic() - start)
    report.show()
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
