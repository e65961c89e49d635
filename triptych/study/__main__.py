"""The study reproduced: its figures, its table and its open questions, beside what the report says.

    triptych study list                      every run of the study, and what is done of it
    triptych study report                    the page: published runs, and yours, beside the report
    triptych study run fig1                  train one of them, with several seeds
    triptych study run figures table1        groups: all, figures, search, table1, questions, mlp
    triptych study run 'table1-size7-*' --backend torch --seeds 2
    triptych study publish                   write your finished runs into the published table

`python -m triptych study` is the same. Repeat `run` to go on where it was interrupted; nothing finished is
trained again. Exit codes: 0 done, 2 a mistake in the command or the data, 3 a run stopped being finite (the
others were trained), 130 and 143 stopped by SIGINT and SIGTERM (with a checkpoint).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro
from tyro.conf import Positional, UseAppendAction, subcommand

from triptych.describe.protocol import installed
from triptych.describe.spec import BackendName, Device
from triptych.errors import UserError
from triptych.show import command
from triptych.study import table
from triptych.study.jobs import jobs
from triptych.study.listing import listing
from triptych.study.plan import BACKEND, GROUPS, PLAN, select
from triptych.study.results import ROOT
from triptych.study.runner import Session, run
from triptych.study.table import PUBLISHED, Table

NAMES = "names, patterns, or " + ", ".join(f"{group} ({what})" for group, what in GROUPS.items())


@dataclass(frozen=True)
class Folders:
    """Where the runs are."""

    root: Path = ROOT
    """The study's folder, with your own runs."""
    published: Path = PUBLISHED
    """The folder of the published table."""

    def table(self) -> Table:
        """The published runs, and those under the root; of the same run the one under the root."""
        if self.published == PUBLISHED and not self.published.exists():
            return table.of_folder(self.root, PLAN)  # installed without the repository
        return table.read(self.published).updated(table.of_folder(self.root, PLAN))


@dataclass(frozen=True)
class List(Folders):
    """Every run of the study, and what is done of it."""

    def __call__(self) -> int:
        print(listing(self.table(), PLAN))
        return 0


@dataclass(frozen=True)
class Train:
    """Train what is not finished under the root."""

    names: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME [NAME ...]", help=NAMES)]
    root: Path = ROOT
    """The study's folder."""
    backend: UseAppendAction[tuple[Literal[BackendName, "all"], ...]] = ()
    """May be repeated; all: those installed. Default: jax."""
    seeds: int | None = None
    """How many seeds of each, in place of the plan's number."""
    data_dir: Path | None = None
    """Folder with CIFAR-10, as for train.py."""
    device: Device = "auto"
    """As for train.py."""
    retry: bool = False
    """Train again what stopped being finite before."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of finished runs."""
    verbose: bool = False
    """Show every line that train.py would."""

    def __call__(self) -> int:
        if self.seeds is not None and self.seeds < 1:
            raise UserError(f"seeds: expected at least 1, got {self.seeds}; change --seeds")
        backends: list[BackendName] = []
        for word in self.backend or (BACKEND,):
            backends += [
                name for name in get_args(BackendName) if word == name or (word == "all" and installed(name))
            ]
        chosen = jobs(select(self.names), list(dict.fromkeys(backends)), self.seeds)
        session = Session(
            self.root, self.data_dir, self.device, self.retry, self.keep_checkpoints, self.verbose
        )
        return run(chosen, session)


@dataclass(frozen=True)
class Report(Folders):
    """Write the page of the published runs and yours."""

    out: Path | None = None
    """The page's folder. Default: page/ in the root."""
    docs: bool = False
    """Write the published runs' figures into README.md and docs/runs.md instead."""

    def __call__(self) -> int:
        if self.docs:
            changed = importlib.import_module("triptych.study.docs").write(table.read(self.published))
            print(f"changed: {', '.join(map(str, changed)) or 'nothing'}")
            return 0
        # Imported here: `run` needs none of what the page is drawn with.
        page = importlib.import_module("triptych.study.page")
        written = page.write(self.table(), self.root, self.out or self.root / "page")
        print(f"page: {written[0]}")
        return 0


@dataclass(frozen=True)
class Publish(Folders):
    """Write the finished runs under the root into the published table; runs that it has stay."""

    names: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME [NAME ...]", help=NAMES)] = ()

    def __call__(self) -> int:
        added, replaced, rows = table.publish(self.root, self.names, self.published)
        print(f"{self.published}: {added} runs added, {replaced} replaced, {rows} in all")
        return 0


Command = (
    Annotated[List, subcommand("list")]
    | Annotated[Train, subcommand("run")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Publish, subcommand("publish")]
)


def parse(argv: list[str]) -> List | Train | Report | Publish:
    """The command that a command line asks for."""
    return tyro.cli(Command, args=argv, prog="triptych study", description=__doc__)


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    return command.run(lambda: parse(argv)(), "interrupted; repeat the same command to go on")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
