"""Checks of one setting's value; each raises UserError that names the setting and its option."""

from __future__ import annotations

import math

from triptych.errors import UserError


def require(condition: bool, name: str, expected: str, actual: object) -> None:
    """Raise UserError unless `condition` holds."""
    if not condition:
        option = "--" + name.replace("_", "-")
        raise UserError(f"{name}: expected {expected}, got {actual!r}; change {option}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """One of the choices."""
    require(value in choices, name, "one of " + ", ".join(choices), value)


def require_count(name: str, value: int, low: int) -> None:
    """A whole number from `low` that a file can hold: below 2^63."""
    require(isinstance(value, int) and value >= low, name, f"a whole number of at least {low}", value)
    require(value < 2**63, name, "a whole number below 2^63", value)


def require_number(
    name: str,
    value: float,
    low: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> None:
    """A finite number, at least `low`, greater than `above`, less than `below`, at most `most`."""
    signs = ((">=", low), (">", above), ("<", below), ("<=", most))
    bounds = [f"{sign} {bound:g}" for sign, bound in signs if bound is not None]
    ok = math.isfinite(value)
    ok = ok and (low is None or value >= low) and (above is None or value > above)
    ok = ok and (below is None or value < below) and (most is None or value <= most)
    require(ok, name, "a finite number " + " and ".join(bounds), value)
