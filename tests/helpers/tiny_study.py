"""A study of four tiny runs on the tiny data set, and a program that dies on demand.

    python -m tests.helpers.tiny_study SIGKILL:plan:9 run all --root FOLDER

is `python -m triptych study run all --root FOLDER` on it, killed just before its ninth call of that kind
(`tests.helpers.tiny.DEATHS`).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import tiny
from triptych.study import plan, table
from triptych.study.__main__ import main as study
from triptych.study.plan import Planned

TINY_PLAN = {
    "fig1": Planned("momentum", "figure", tiny.settings(momentum=0.9, dropout=0.3), "fig1", 2, reported=0.1),
    "table1-a": Planned("adam", "table1", tiny.settings(optimizer="adam"), "fig1", 1),
    "table1-b": Planned(
        "adam, slower", "table1", tiny.settings(optimizer="adam", learning_rate=5e-6), "fig1", 1
    ),
    "wild": Planned("too fast", "question", tiny.settings(learning_rate=1e30), "fig1", 1, question="x"),
}
"""Each run takes 12 steps, in six backend calls, with checkpoints at 0, 4, 8 and 12."""


def install(patch: Callable[[Any, str, Any], None]) -> None:
    """Let every study in this process be the tiny one."""
    tiny.install(patch)
    for module in (plan, sys.modules["triptych.study.jobs"], sys.modules["triptych.study.__main__"]):
        patch(module, "PLAN", TINY_PLAN)


def call(root: Path, *words: str) -> int:
    """The exit code of `python -m triptych study run ...` in NumPy."""
    return study(["run", *words, "--backend", "numpy", "--root", str(root)])


def listed(root: Path) -> int:
    """The exit code of `triptych study list`, without any published run."""
    table.write(root / "published", table.Table())
    return study(["list", "--root", str(root), "--published", str(root / "published")])


def process(root: Path, moment: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own that dies at that moment."""
    command = ("-W", "error", "-m", "tests.helpers.tiny_study", moment, "run", *words)
    return tiny.python(*command, "--backend", "numpy", "--root", str(root))


def main(argv: list[str]) -> int:
    install(setattr)
    tiny.arm(setattr, argv[0], lambda number: os.kill(os.getpid(), signal.Signals(number)))
    return study(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
