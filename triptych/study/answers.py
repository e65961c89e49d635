"""The form of an answer: a short sentence, and the measured numbers that it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field

from triptych.study.plan import BACKEND


@dataclass(frozen=True)
class Series:
    """One line of an answer's plot."""

    label: str
    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class Needed:
    """Runs that an answer waits for, as `python -m triptych study run` takes them."""

    names: tuple[str, ...]
    backend: str = BACKEND
    seeds: int | None = None
    """None for the plan's number."""


@dataclass(frozen=True)
class Answer:
    """A question that the report left open, and what the runs say of it."""

    question: str
    answer: str
    """Two or three sentences; every number in them computed from the runs. "" where runs are missing."""
    missing: Needed | None = None
    """What to run first, where the runs are not there."""
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    """The evidence as a table; empty for none."""
    plot: list[Series] = field(default_factory=list)
    """The evidence as a plot; empty for none."""
    x_label: str = ""
    y_label: str = ""
