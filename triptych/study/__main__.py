"""The study reproduced: its figures, its table and its open questions, beside what the report says.

    python -m triptych study list                    every run of the study, and what is done of it
    python -m triptych study run fig1                one of them, with several seeds
    python -m triptych study run figures table1      groups: all, figures, search, table1, questions, mlp
    python -m triptych study run 'table1-size7-*' --backend torch --seeds 2
    python -m triptych study report                  the page that sets the finished runs beside the report
    python -m triptych study unpack                  the published runs, as if they had been trained here
    python -m triptych study pack                    the finished runs as files that the repository holds

Repeat `run` to go on where it was interrupted; nothing finished is trained again. Exit codes: 0 done,
2 a mistake in the command or the data, 3 a run stopped being finite (the others were trained), 130 and
143 stopped by SIGINT and SIGTERM (with a checkpoint).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import get_args

from triptych.describe.protocol import installed
from triptych.describe.spec import BackendName, Device
from triptych.errors import UserError
from triptych.show import command
from triptych.study.jobs import jobs
from triptych.study.listing import listing
from triptych.study.plan import BACKEND, GROUPS, PLAN, select
from triptych.study.runner import Session, run

ROOT = Path("runs/study")
PUBLISHED = Path("docs/study-results")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog="python -m triptych study", description=__doc__, formatter_class=raw)
    commands = top.add_subparsers(dest="command", required=True)
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--root", type=Path, default=ROOT, help="the study's folder (default %(default)s)")
    commands.add_parser("list", parents=[where], help="every run, and what is done of it")
    words = "names, patterns, or " + ", ".join(f"{group} ({what})" for group, what in GROUPS.items())
    train = commands.add_parser("run", parents=[where], help="train what is not finished")
    train.add_argument("names", nargs="+", metavar="NAME", help=words)
    train.add_argument(
        "--backend",
        action="append",
        choices=[*get_args(BackendName), "all"],
        help=f"may be repeated; all: those installed (default {BACKEND})",
    )
    train.add_argument("--seeds", type=int, help="how many seeds of each, in place of the plan's number")
    train.add_argument("--data-dir", type=Path, help="folder with CIFAR-10, as for train.py")
    train.add_argument("--device", choices=get_args(Device), default="auto", help="as for train.py")
    train.add_argument("--retry", action="store_true", help="train again what stopped being finite before")
    train.add_argument(
        "--keep-checkpoints", action="store_true", help="keep the checkpoints of finished runs"
    )
    train.add_argument("--verbose", action="store_true", help="show every line that train.py would")
    report = commands.add_parser("report", parents=[where], help="write the page")
    report.add_argument("--out", type=Path, help="the page's folder (default: the root's page/)")
    pack = commands.add_parser("pack", parents=[where], help="write finished runs into the published files")
    pack.add_argument("--out", type=Path, default=PUBLISHED, help="their folder (default %(default)s)")
    unpack = commands.add_parser("unpack", parents=[where], help="put published runs among the finished ones")
    unpack.add_argument(
        "--from", dest="source", type=Path, default=PUBLISHED, help="their folder (default %(default)s)"
    )
    for published in (pack, unpack):
        published.add_argument("names", nargs="*", metavar="NAME", help=f"{words} (default: what is there)")
    return top


def train(arguments: argparse.Namespace) -> int:
    """`run`; returns its exit code."""
    if arguments.seeds is not None and arguments.seeds < 1:
        raise UserError(f"seeds: expected at least 1, got {arguments.seeds}; change --seeds")
    backends: list[BackendName] = []
    for word in arguments.backend or [BACKEND]:
        backends += [
            name for name in get_args(BackendName) if word == name or (word == "all" and installed(name))
        ]
    chosen = jobs(select(arguments.names), list(dict.fromkeys(backends)), arguments.seeds)
    session = Session(
        root=arguments.root,
        data_dir=arguments.data_dir,
        device=arguments.device,
        retry=arguments.retry,
        keep_checkpoints=arguments.keep_checkpoints,
        verbose=arguments.verbose,
    )
    return run(chosen, session)


def report(root: Path, out: Path | None) -> None:
    """Write the page of the finished runs."""
    # Imported here: `run` needs none of what the page is drawn with.
    written = importlib.import_module("triptych.study.page").write(root, out or root / "page")
    print(f"page: {written[0]}")


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.run(lambda: _main(argv), "interrupted; repeat the same command to go on")


def _main(argv: list[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.command == "list":
        print(listing(arguments.root, PLAN))
    elif arguments.command == "run":
        return train(arguments)
    elif arguments.command == "report":
        report(arguments.root, arguments.out)
    else:
        # Imported here: a Python may come without xz, which the rest can do without.
        publish = importlib.import_module("triptych.study.publish")
        if arguments.command == "pack":
            publish.pack(arguments.root, arguments.names, arguments.out)
        else:
            publish.unpack(arguments.source, arguments.names, arguments.root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
