"""Train one network on CIFAR-10 with one backend.

  python train.py --backend jax         the study's run 1
  python train.py list                  every known run
  python train.py --hidden 600 500 275 --epochs 4
  python train.py --config RUN/run.toml repeats a run
  python train.py --help-all            every option

Repeat a command to resume it where it was interrupted.
Exit codes: 0 done, 2 a mistake in the command or the data,
3 training stopped being finite, 128 + n stopped by signal n
(with a checkpoint).
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from triptych.describe.catalogue import FRAMEWORK, find, listing
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show import command, tables, usage
from triptych.show.progress import Terminal
from triptych.show.wrapping import fitted
from triptych.train import config_file
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


TRAINING_IMAGES = 50_000
EARLY = {
    "--config FILE": "Options from a TOML file, such as a run's run.toml; those typed override it.",
    "--epochs X": "In place of --steps: how often to show each of CIFAR-10's 50,000 training images, "
    "less those held out.",
}
"""Options that are read before the others."""


@dataclass(frozen=True)
class _Defaults:
    """The options that decide what the others start from."""

    experiment: str | None = None
    resume: Path | None = None


def parse(argv: list[str]) -> Arguments:
    """Arguments from a command line; the experiment, or the run resumed, gives the defaults."""
    pages = [word for word in ("--help-all", "--help", "-h") if word in argv]
    epochs, argv = _early([word for word in argv if word not in pages])
    known, _ = tyro.cli(_Defaults, args=argv, prog="train.py", add_help=False, return_unknown_args=True)
    if known.resume is not None and not pages:
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
    if pages:
        groups = [default.run, *vars(settings).values()]
        print(usage.text(groups, str(__doc__), everything=pages[0] == "--help-all", more=EARLY))
        raise SystemExit(0)
    found = tyro.cli(tyro.conf.OmitArgPrefixes[Arguments], default=default, args=argv, prog="train.py")
    if epochs is not None:
        found = replace(found, settings=_for_epochs(found.settings, epochs))
    given = {word.partition("=")[0] for word in argv}
    own = given & {"--hidden", "--channels"} and not given & {"--init", "--init-std", "--resume"}
    if own and found.settings.initialization.init == "normal":
        # The study's run 1 starts from values so small that a deeper network never leaves them.
        return replace(found, settings=replace(found.settings, initialization=FRAMEWORK))
    return found


def _early(argv: list[str]) -> tuple[float | None, list[str]]:
    """--epochs, and the other words behind those of the --config file, which they override."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--config", type=Path)
    try:
        typed, words = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UserError(f"{str(error).removeprefix('argument ')}; see --help") from None
    steps = "--steps" in {word.partition("=")[0] for word in words}
    if typed.epochs is not None and steps:
        raise UserError("epochs: expected --epochs or --steps, got both; leave one out")
    if typed.config is None:
        return typed.epochs, words
    file, filed = parser.parse_known_args(config_file.words(typed.config))
    if file.epochs is not None and "--steps" in filed:
        raise UserError(f"config {typed.config}: expected epochs or steps, got both; take one out")
    epochs = file.epochs if typed.epochs is None and not steps else typed.epochs
    return epochs, [*filed, *words]


def _for_epochs(settings: Experiment, epochs: float) -> Experiment:
    """The settings with as many steps as show each of CIFAR-10's training images so often."""
    if not (math.isfinite(epochs) and epochs > 0):
        raise UserError(f"epochs: expected a finite number > 0, got {epochs}; change --epochs")
    images = TRAINING_IMAGES - settings.data.validation
    steps = max(1, math.ceil(epochs * images / settings.data.batch_size))
    return replace(settings, training=replace(settings.training, steps=steps))


def main(argv: list[str]) -> int:
    """The command; returns its exit code."""
    stopped = "interrupted before training began or after it ended; nothing more was saved"
    return command.run(lambda: _train(argv), stopped)


def _train(argv: list[str]) -> int:
    if argv in (["list"], ["list", "--all"], ["--experiment", "list"], ["--experiment=list"]):
        header, rows, notes = listing("--all" in argv)
        print(tables.text(header, rows))
        Terminal().line("\n".join(["", *notes]))
        return 0
    arguments = parse(argv)
    try:
        if arguments.run.sweep:
            return sweep(arguments.run, arguments.settings)
        return launch(arguments.run, arguments.settings)
    except NonFiniteError as error:
        print(fitted(f"error: {error}", sys.stderr), file=sys.stderr)
        return 3
