"""What the study runs: every run of the report, and runs that answer the questions it left open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from triptych.describe.catalogue import CATALOGUE
from triptych.describe.protocol import Statistics
from triptych.describe.spec import BackendName, Experiment
from triptych.errors import UserError
from triptych.study import readings

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
    """The question of `triptych.study.questions` that it was added for; the report's runs serve several."""
    single_steps: int = 0
    """Steps from the first whose losses of seed 0 the page draws one by one."""
    always: tuple[BackendName, ...] = ()
    """Backends that its seed 0 is run with too, whatever was asked for, where they are installed."""

    def wanted(self) -> dict[str, int]:
        """How many seeds, 0 and up, the plan wants in which backend."""
        return {**dict.fromkeys(self.always, 1), BACKEND: self.seeds}

    @property
    def rounding(self) -> float:
        """Half a unit of the reported number's last digit: 0.55 may have been anything from 0.545 to 0.555.
        Table 1 has four digits, of which a last 0 was left out.
        """
        if self.reported is None:
            return 0.0
        digits = 4 if self.group == "table1" else len(repr(self.reported).partition(".")[2])
        return 0.5 * 10.0**-digits

    def with_seed(self, seed: int) -> Experiment:
        """The experiment as that seed runs it."""
        return replace(self.experiment, training=replace(self.experiment.training, seed=seed))


BACKEND: BackendName = "jax"
"""What trains the plan where nobody names another."""

_MORE_SEEDS = {"-lr1e-2-": 5, "-size11-lr1e-4-": 3}
"""Table 1's settings, by a part of their names, that want a spread over seeds: the rate at which runs of size
11 end anywhere from 0.31 to 0.47 in the report, and those of size 7 far from it in ours; and the one at which
the report's four of size 11 lie together, and ours together below them.
"""


def _table_1_seeds(name: str) -> int:
    return max((seeds for part, seeds in _MORE_SEEDS.items() if part in name), default=1)


def _of_the_report(name: str, group: Group, seeds: int) -> Planned:
    entry = CATALOGUE[name]
    by: Statistics = "batch" if name in ("fig4", "fig5") else "running"
    always: tuple[BackendName, ...] = ("numpy", "jax", "torch") if name == "fig1" else ()
    single = 500 if name in ("fig1", "fig2") else 0
    reported = None if entry.by_assignment else entry.reported
    return Planned(entry.title, group, entry.experiment, name, seeds, reported, by, "", single, always)


def _departing(entry: str, question: str, seeds: int, title: str, **changes: Mapping[str, Any]) -> Planned:
    """A run that differs from the catalogue's in the given settings, by group."""
    base = CATALOGUE[entry].experiment
    groups = {group: replace(getattr(base, group), **values) for group, values in changes.items()}
    single = 500 if question == "faster-loss" else 0
    return Planned(
        title, "question", replace(base, **groups), entry, seeds, question=question, single_steps=single
    )


def _title(entry: str, reading: readings.Reading) -> str:
    size, rate = readings.setting(entry)
    decay = CATALOGUE[entry].experiment.optimization.weight_decay
    return f"table 1's size {size} at rate {rate}, weight decay {decay:g}, {reading.title}"


_OFTEN = {"eval_every": 20}

QUESTION_RUNS: dict[str, Planned] = {
    "fig1-he": _departing(
        "fig1",
        "faster-loss",
        1,
        "figure 1 from large weights (He) and zero biases",
        initialization={"init": "he"},
    ),
    "fig1-dense": _departing("fig1", "jagged", 5, "figure 1, evaluated every 20 steps", training=_OFTEN),
    "decay-step": _departing(
        "fig1",
        "jagged",
        5,
        "figure 1, learning rate halved every 500 steps",
        training=_OFTEN,
        schedule={"schedule": "step", "decay_every": 500, "decay_factor": 0.5},
    ),
    "decay-cosine": _departing(
        "fig1",
        "jagged",
        5,
        "figure 1, learning rate down to 0 along a cosine",
        training=_OFTEN,
        schedule={"schedule": "cosine"},
    ),
    "early-stopping": _departing(
        "fig3",
        "early-stopping",
        5,
        "figure 3, stopped after 5 evaluations without a better validation accuracy (5,000 images held out)",
        data={"validation": 5000},
        training={"early_stopping": 5},
    ),
    "dropout-0.2": _departing("fig3", "dropout", 5, "figure 3 with dropout 0.2", model={"dropout": 0.2}),
    "dropout-0.5": _departing("fig3", "dropout", 5, "figure 3 with dropout 0.5", model={"dropout": 0.5}),
    "lr3e-5": _departing(
        "fig3", "low-rates", 5, "figure 3 at learning rate 3e-5", optimization={"learning_rate": 3e-5}
    ),
    "lr1e-5": _departing(
        "fig3", "low-rates", 5, "figure 3 at learning rate 1e-5", optimization={"learning_rate": 1e-5}
    ),
    "lr3e-5-long": _departing(
        "fig3",
        "low-rates",
        1,
        "figure 3 at learning rate 3e-5, three times as long",
        optimization={"learning_rate": 3e-5},
        training={"steps": 12000},
    ),
    **{
        name: _departing(entry, "large-rate", seeds, _title(entry, reading), **reading.changes)
        for key, reading in readings.READINGS.items()
        for name, (entry, seeds) in readings.runs(key).items()
    },
}

PLAN: dict[str, Planned] = {
    **{name: _of_the_report(name, "figure", 10) for name in ("fig1", "fig2")},
    "fig3": _of_the_report("fig3", "figure", 5),
    **{name: _of_the_report(name, "figure", 10) for name in ("fig4", "fig5")},
    **{name: _of_the_report(name, "figure", 2) for name in ("fig7", "fig8")},
    **{name: _of_the_report(name, "search", 5) for name in ("adam", "size7", "size11", "size11-decay")},
    **{
        name: _of_the_report(name, "table1", _table_1_seeds(name))
        for name in CATALOGUE
        if name.startswith("table1-")
    },
    **QUESTION_RUNS,
}
"""By name, in the report's order, then the questions."""

GROUPS = {
    "all": "everything",
    "figures": "the report's figures",
    "search": "its search for 0.52",
    "table1": "its table 1",
    "questions": "runs for the questions it left open",
    "mlp": "everything but the CNNs",
}
"""What stands for many names on the command line."""


def select(words: Iterable[str]) -> list[str]:
    """The plan's names that the words (names, groups, patterns such as `table1-size7-*`) stand for, in the
    plan's order. Raises UserError for a word that stands for none.
    """
    chosen: set[str] = set()
    for word in words:
        found = {name for name, planned in PLAN.items() if _stands_for(word, name, planned)}
        if not found:
            single = [name for name, planned in PLAN.items() if planned.group != "table1"]
            raise UserError(
                f"study: no run is called {word!r}; expected a group ({', '.join(GROUPS)}), one of "
                f"{', '.join(single)}, a table1-... name, or a pattern such as 'table1-size7-*'; "
                "`python -m triptych study list` shows all"
            )
        chosen |= found
    if not chosen:
        raise UserError(
            "study: no run was named; name one, or `all`; `python -m triptych study list` shows them"
        )
    return [name for name in PLAN if name in chosen]


def _stands_for(word: str, name: str, planned: Planned) -> bool:
    if word == "mlp":
        return not planned.experiment.model.channels
    return word == "all" or word in (planned.group, planned.group + "s") or fnmatchcase(name, word)
