"""`python -m parity runs RUN RUN ...`: how far apart finished runs of one experiment are."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from experiment.errors import UserError
from parity import trajectory


def runs(folders: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Hold finished runs of one experiment beside each other; the first is the reference.

    Args:
        folders: Run folders, two or more.
    """
    if len(folders) < 2:
        raise UserError(f"runs: expected two run folders or more, got {len(folders)}")
    print(trajectory.table([trajectory.read(path) for path in folders]))


def main(argv: list[str]) -> int:
    """The command; returns its exit code: 0, or 2 for a user's mistake."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"runs": runs}, args=argv, prog="python -m parity", description=__doc__
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
