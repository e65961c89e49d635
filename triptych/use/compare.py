"""`triptych compare RUN RUN...`: curves, settings and accuracies of several runs, side by side.

    triptych compare runs/fig1-jax-1a2b3c4d runs/fig1-numpy-5e6f7a8b
    triptych compare runs/sweep-fig1-jax-9c0d1e2f

Runs that differ by their seed alone are one group. A folder of run folders, such as a sweep's, stands for all
the runs in it. Prints the accuracies with 95% intervals (Wilson's of one run, Student's t over seeds) and the
settings that differ, and writes compare.html and compare.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from triptych.errors import UserError
from triptych.show import command, runs, side_by_side
from triptych.show.wrapping import fitted

OUT = Path("runs/compare")


def compare(run: tyro.conf.Positional[tuple[Path, ...]], /, out: Path = OUT) -> int:
    """Compare runs.

    Args:
        run: Two or more run folders, or folders of them.
        out: The folder that compare.html and compare.png are written into.
    """
    if not run:
        raise UserError("run: expected the folders of the runs to compare, got none; see ./runs")
    comparison = runs.compare(run)
    count = sum(len(group.members) for group in comparison.groups)
    if count < 2:
        left_out = "".join(f" ({notice})" for notice in comparison.notices)
        raise UserError(f"run: expected two runs or more to compare, got {count}{left_out}; name another")
    print(fitted(side_by_side.text(comparison), sys.stdout))
    page, _ = side_by_side.write(comparison, out, "Made by triptych compare.")
    print(fitted(f"\npage: {page}", sys.stdout))
    return 0


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.call(compare, argv, __doc__)
