"""What the study runs: every run of the report, and runs that answer the questions it left open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiment.backend import Statistics
from experiment.catalogue import CATALOGUE
from experiment.spec import Experiment

Group = Literal["figure", "search", "table1", "question"]


@dataclass(frozen=True)
class Planned:
    """One experiment of the study, to be run with several seeds."""

    title: str
    group: Group
    experiment: Experiment
    """With seed 0."""
    entry: str
    """The catalogue's run that it is, or from which it departs."""
    seeds: int
    """How many seeds, 0 and up, `run` trains where nobody says otherwise."""
    reported: float | None = None
    """The report's test accuracy."""
    statistics: Statistics = "running"
    """What the reported number was evaluated by, where there is batch norm."""
    question: str = ""
    """The question of `study.questions` that it serves."""


def _of_the_report(name: str, group: Group, seeds: int) -> Planned:
    entry = CATALOGUE[name]
    by: Statistics = "batch" if name in ("fig4", "fig5") else "running"
    return Planned(entry.title, group, entry.experiment, name, seeds, entry.reported, by)


PLAN: dict[str, Planned] = {
    **{name: _of_the_report(name, "figure", 10) for name in ("fig1", "fig2", "fig3", "fig4", "fig5")},
    **{name: _of_the_report(name, "figure", 1) for name in ("fig7", "fig8")},
    **{name: _of_the_report(name, "search", 5) for name in ("adam", "size7", "size11", "size11-decay")},
    **{name: _of_the_report(name, "table1", 1) for name in CATALOGUE if name.startswith("table1-")},
}
"""By name, in the report's order."""
