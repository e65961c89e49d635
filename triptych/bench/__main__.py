"""Time training in each backend, next to torch as others write it.

    triptych bench                                    a training step: every model and variant that runs here
    triptych bench --models cnn --batches 32 128 --variants numpy jax torch-best --json cnn.json
    triptych bench --device gpu --precisions float32 tf32 bfloat16 --json gpu.json
    triptych bench compare A.json B.json              two machines, or two commits
    triptych bench table FILE.json                    a report's rows, in Markdown
    triptych bench picture FILE.json FILE.png         a report's step times and their floors, drawn
    triptych bench list                               the variants
    triptych bench sweep --runs 4                     a step of one run when many train in one program
    triptych bench whole --runs 4                     whole commands, from start to last checkpoint

Without a subcommand it is `step`; each has its own --help. Exit codes: 0; 1 rows were refused or failed; 2 a
mistake in the command, or a device, package or compiler that is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tyro.conf import Positional
from tyro.extras import subcommand_cli_from_dict

from triptych.bench import picture, reports, steps, sweep, text, whole
from triptych.show import command
from triptych.store.files import write_atomically


def compare(before: Positional[Path], after: Positional[Path]) -> str:
    """Two reports of `step`: each common row's times, and whether they differ by more than the spread."""
    return reports.compare(reports.read(before), reports.read(after))


def table(report: Positional[Path]) -> str:
    """A report of `step` in Markdown."""
    return text.markdown(reports.read(report))


def draw(report: Positional[Path], file: Positional[Path]) -> str:
    """A report of `step` as a PNG: a bar for each variant, a line for the floor."""
    write_atomically(file, picture.draw(reports.read(report)))
    return f"wrote {file}"


SUBCOMMANDS: dict[str, Callable[..., Any]] = {
    "step": steps.Options,
    "sweep": sweep.Options,
    "whole": whole.Options,
    "compare": compare,
    "table": table,
    "picture": draw,
    "list": text.variants,
}


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    words = argv if argv[:1] and argv[0] in (*SUBCOMMANDS, "-h", "--help") else ["step", *argv]
    return command.run(lambda: _run(words), "interrupted; --json holds what was measured until then")


def _run(words: list[str]) -> int:
    result: Any = subcommand_cli_from_dict(
        SUBCOMMANDS, prog="triptych bench", description=__doc__, args=words
    )
    if isinstance(result, str):
        print(result)
        return 0
    code: int = result.run()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
