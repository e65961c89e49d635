"""Mutants that change no result, each with the reason: found among the survivors, and listed by hand."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {}
"""(module, the line as shipped, the line as changed) without indentation, to the reason. A test holds that
each is still a mutant.
"""


def key(module: str, shown: str) -> tuple[str, str, str]:
    """Of a mutant's diff."""
    lines = shown.splitlines()
    old, new = ("\n".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return module, old, new


def reason(module: str, shown: str) -> str:
    """Why the mutant of this diff changes nothing; empty where it is not listed."""
    return EQUIVALENT.get(key(module, shown), "")
