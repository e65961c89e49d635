"""How table 1 may have been trained: readings of it, each run where the report's numbers tell readings apart.

The report's four runs of size 7 at rate 1e-2 lie where no run of ours by its words does. A reading explains
them only if it gives the report's other numbers too, so those that come near are run at other places as well:
the other network, and the lowest rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from triptych.describe.catalogue import TABLE_1

Place = tuple[int, str]
"""Network's size and learning rate, as table 1 names them."""

ASKED: Place = (7, "1e-2")
"""Where the report and ours are furthest apart."""
ELSEWHERE: tuple[Place, ...] = ((11, "1e-2"), (7, "1e-4"), (11, "1e-4"))
DECAYS = tuple(dict.fromkeys(decay for _, decay in TABLE_1))
BASE_DECAY = "1e-4"


@dataclass(frozen=True)
class Reading:
    """One way to read the report, as changed settings of table 1's runs."""

    label: str
    title: str
    """In a run's title, after the setting of table 1."""
    changes: Mapping[str, Mapping[str, Any]]
    """Group of settings to those that differ."""
    seeds: int = 3
    """At `ASKED`."""
    elsewhere: int = 0
    """Seeds at each place of `ELSEWHERE`; 0: not run there."""
    decays: tuple[str, ...] = (BASE_DECAY,)
    """Weight decays at rate 1e-2."""

    @property
    def rate(self) -> float | None:
        """The learning rate, where this reading is another rate than the printed one."""
        found: float | None = self.changes.get("optimization", {}).get("learning_rate")
        return found


READINGS: dict[str, Reading] = {
    "standardize": Reading(
        "standardized pixels", "pixels standardized", {"data": {"preprocess": "standardize"}}
    ),
    "adamw": Reading("AdamW", "decoupled weight decay", {"optimization": {"optimizer": "adamw"}}),
    "epsilon": Reading("epsilon 1e-3", "Adam's epsilon 1e-3", {"optimization": {"epsilon": 1e-3}}),
    "cosine": Reading(
        "a cosine down to 0", "down to 0 along a cosine", {"schedule": {"schedule": "cosine"}}, elsewhere=2
    ),
    "he": Reading("He's weights", "He's initial weights", {"initialization": {"init": "he"}}, elsewhere=2),
    "sgd": Reading("plain SGD", "plain SGD", {"optimization": {"optimizer": "sgd"}}, elsewhere=2),
    "amsgrad": Reading(
        "AMSGrad", "AMSGrad", {"optimization": {"amsgrad": True}}, seeds=2, elsewhere=2, decays=DECAYS
    ),
    **{
        # Such a key is the rate, as table 1 would print it.
        rate: Reading(f"rate {rate}", f"but rate {rate}", {"optimization": {"learning_rate": float(rate)}})
        for rate in ("5e-3", "3e-3", "2e-3")
    },
}
"""By key, which the names of its runs hold."""


def places(reading: Reading) -> list[Place]:
    """Where it is run."""
    return [ASKED, *(ELSEWHERE if reading.elsewhere else ())]


def runs(key: str) -> dict[str, tuple[str, int]]:
    """Name of each of the reading's runs to the entry of table 1 that it departs from, and its seeds."""
    reading = READINGS[key]
    return {
        _name(key, place, decay): (
            f"table1-size{place[0]}-lr{place[1]}-wd{decay}",
            reading.seeds if place == ASKED else reading.elsewhere,
        )
        for place in places(reading)
        for decay in (reading.decays if place[1] == ASKED[1] else (BASE_DECAY,))
    }


def names(key: str, place: Place) -> list[str]:
    """The reading's runs at a place."""
    size, rate = place
    start = f"table1-size{size}-lr{rate}-wd"
    return [name for name, (entry, _) in runs(key).items() if entry.startswith(start)]


def _name(key: str, place: Place, decay: str) -> str:
    at = "" if place == ASKED else f"-size{place[0]}-lr{place[1]}"
    return f"rate-{key}{at}" + ("" if decay == BASE_DECAY else f"-wd{decay}")


# --- the report's own numbers ---


def setting(name: str) -> Place:
    """Size and learning rate of a setting of table 1, as its name says them."""
    size, rate = name.removeprefix("table1-size").partition("-wd")[0].split("-lr")
    return int(size), rate


def reported_at(size: int, rate: str) -> tuple[list[float], list[float]]:
    """The report's accuracies of that network at that rate, one for each weight decay, and at its others."""
    column = (7, 11).index(size)
    here = [pair[column] for (other, _), pair in TABLE_1.items() if other == rate]
    return here, [pair[column] for (other, _), pair in TABLE_1.items() if other != rate]
