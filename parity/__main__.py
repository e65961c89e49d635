"""`parity`, or `python -m parity`: do the backends compute the same, within what rounding allows?

    parity [report]       every proof, and one page that shows them (--quick: under a minute)
    parity check          each layer, loss and optimizer against the true value
    parity grow           whole runs side by side: how differences grow
    parity self-test      real bugs, planted: what catches them
    parity mutate          small mistakes at random: what notices them
    parity locate A B     the first step, layer and kind in which two runs part
    parity convert A B    weights to and from plain torch, Flax, safetensors
    parity compare A B    two models that parity.record wrote down, on whichever machine
    parity ulps           the accuracy of this machine's exp, log and the rest

Each command has its own --help.
"""

from __future__ import annotations

import importlib
import sys

from parity.errors import UsageError
from triptych.errors import UserError
from triptych.show import command

COMMANDS = {
    "report": "parity.report.command",
    "check": "parity.report.check_command",
    "grow": "parity.runs.growth_command",
    "self-test": "parity.planted.self_test",
    "mutate": "parity.planted.mutate",
    "locate": "parity.runs.locate.command",
    "convert": "parity.convert.command",
    "ulps": "parity.suite.ulps",
    "compare": "parity.recordings.command",
}
"""Name to the module whose function of that name it runs; imported when asked for."""


def main(argv: list[str] | None = None) -> int:
    """Return the exit code: 0, 1 where something fails, 2 for a user's mistake."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    if not words or words[0].startswith("-"):
        words = ["report", *words]
    interrupted = "interrupted; what was written until then stays"
    return command.run(lambda: _run(*words), interrupted, (UserError, UsageError))


def _run(name: str, *arguments: str) -> int:
    if name not in COMMANDS:
        raise UserError(f"expected one of {', '.join(COMMANDS)}, got {name!r}")
    tyro = importlib.import_module("tyro")
    function = getattr(importlib.import_module(COMMANDS[name]), name.replace("-", "_"))
    code: int | None = tyro.cli(function, args=arguments, prog=f"python -m parity {name}")
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
