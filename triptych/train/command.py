"""Train one network on CIFAR-10 with one backend.

    python train.py --backend jax                            the study's run 1 (report figure 1)
    python train.py list                                     all runs of the study, reported accuracy
    python train.py --backend numpy --experiment fig2        another run, gradients by hand
    python train.py --hidden 600 500 275 --optimizer adam --learning-rate 1e-3
    python train.py --backend torch --resume RUN --steps 3000   go on from any backend's run
    python train.py --sweep learning_rate=1e-2,1e-3 seed=0,1    every combination, in one program

Repeat a command to resume it where it was interrupted. Exit codes: 0 done, 2 a mistake in the
command or the data, 3 training stopped being finite, 130 and 143 stopped by SIGINT and SIGTERM
(with a checkpoint).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from triptych.describe.catalogue import FRAMEWORK, find, listing
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import command, tables
from triptych.train.diagnose import NonFiniteError
from triptych.train.launch import launch
from triptych.train.options import RunOptions
from triptych.train.resume import settings_of
from triptych.train.sweep import sweep


@dataclass(frozen=True)
class Arguments:
    """Everything the command line sets."""

    run: RunOptions = field(default_factory=RunOptions)
    settings: Annotated[Experiment, tyro.conf.arg(name="")] = field(default_factory=Experiment)


@dataclass(frozen=True)
class _Defaults:
    """The options that decide what the others start from."""

    experiment: str | None = None
    resume: Path | None = None


def parse(argv: list[str]) -> Arguments:
    """Arguments from a command line; the experiment, or the run resumed, gives the defaults."""
    known, _ = tyro.cli(_Defaults, args=argv, prog="train.py", add_help=False, return_unknown_args=True)
    if known.resume is not None and not {"-h", "--help"} & set(argv):
        name, settings = settings_of(known.resume)
        if known.experiment not in (None, name):
            raise UserError(
                f"experiment: --resume {known.resume} goes on with its own settings, those of {name}, got "
                f"--experiment {known.experiment}; leave out --experiment, or change single settings"
            )
    else:
        name = known.experiment or RunOptions.experiment
        settings = find(name).experiment
    default = Arguments(replace(RunOptions(), experiment=name), settings)
    found = tyro.cli(
        tyro.conf.OmitArgPrefixes[Arguments], default=default, args=argv, prog="train.py", description=__doc__
    )
    given = {word.partition("=")[0] for word in argv}
    own = given & {"--hidden", "--channels"} and not given & {"--init", "--init-std", "--resume"}
    if own and found.settings.initialization.init == "normal":
        # The study's run 1 starts from values so small that a deeper network never leaves them.
        return replace(found, settings=replace(found.settings, initialization=FRAMEWORK))
    return found


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    stopped = "interrupted before training began or after it ended; nothing more was saved"
    return command.run(lambda: _train(argv), stopped)


def _train(argv: list[str]) -> int:
    if argv in (["list"], ["--experiment", "list"], ["--experiment=list"]):
        print(tables.text(*listing()))
        return 0
    arguments = parse(argv)
    try:
        if arguments.run.sweep:
            return sweep(arguments.run, arguments.settings)
        return launch(arguments.run, arguments.settings)
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
