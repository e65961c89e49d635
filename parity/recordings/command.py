"""`python -m parity compare`."""

from __future__ import annotations

from pathlib import Path

import tyro

from parity.recordings.record import compared


def compare(first: tyro.conf.Positional[Path], second: tyro.conf.Positional[Path]) -> int:
    """Judge a port by its original, both recorded by `parity.record`; needs no framework.

    Exit code 0: every comparison holds, 1: something differs, which is named.

    Args:
        first: The original's recording.
        second: The port's, which was recorded from the first.
    """
    told, report = compared(first, second)
    lines = ["These differ:", *(f"  {line}" for line in told)] if told else ["The same versions and settings"]
    print("\n".join([*lines, "", str(report)]))
    return 0 if report.passed else 1
