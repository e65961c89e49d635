"""The inputs that everything is compared on: one table of hand-picked traps, all from seeded generators.

Upstream gradients are random and never constant. Floating inputs are float64 here and rounded to the judged
format before anyone sees them. `quick` marks the rows of `--quick`.
"""

from __future__ import annotations

from functools import cache

from parity.verification.case import Case


@cache
def table() -> tuple[Case, ...]:
    """Every case, made once."""
    from parity.suite.cases import augmentation, layers, others, special

    return (*layers.cases(), *others.cases(), *augmentation.cases(), *special.cases())


def table_of(item: str) -> list[Case]:
    """One item's cases."""
    return [case for case in table() if case.item == item]
