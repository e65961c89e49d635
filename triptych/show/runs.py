"""Several runs: which differ by their seed alone, in which settings the others differ, what they reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from triptych.describe.plain import LATER, from_dict, to_dict
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show.intervals import Interval, student, wilson
from triptych.store import records
from triptych.store.records import Record
from triptych.store.run_dir import RunDirectory, flat

QUANTITIES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class NotEvaluatedError(UserError):
    """A run that was stopped before its first evaluation."""


@dataclass(frozen=True)
class Member:
    """One run."""

    path: Path
    seed: int
    settings: dict[str, Any]
    """All that may differ between runs but the seed, by name."""
    evaluations: list[Record]
    finished: bool
    test_images: int | None
    """How many; None while it is not known."""

    @property
    def accuracy(self) -> float:
        """At its last evaluation."""
        value: float = self.evaluations[-1]["test_accuracy"]
        return value

    @property
    def best(self) -> float:
        value: float = max(record["test_accuracy"] for record in self.evaluations)
        return value


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone."""

    name: str
    members: tuple[Member, ...]

    @property
    def settings(self) -> dict[str, Any]:
        return self.members[0].settings

    @property
    def accuracy(self) -> float:
        """The mean of the runs'."""
        return math.fsum(one.accuracy for one in self.members) / len(self.members)

    @property
    def best(self) -> float:
        return math.fsum(one.best for one in self.members) / len(self.members)

    @cached_property
    def interval(self) -> Interval | None:
        """95%: Student's over the seeds, of one run Wilson's; None while that run is not finished."""
        if len(self.members) > 1:
            return student([one.accuracy for one in self.members])
        (one,) = self.members
        if one.test_images is None:
            return None
        return wilson(round(one.accuracy * one.test_images), one.test_images)

    @property
    def by(self) -> str:
        """Whose interval it is."""
        if len(self.members) > 1:
            return f"t, {len(self.members)} seeds"
        return f"Wilson, {self.members[0].test_images} images" if self.interval else "run not finished"

    def curves(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Steps (E,) at which all of these runs were evaluated, and each quantity there, (runs, E)."""
        by_step = [{record["step"]: record for record in one.evaluations} for one in self.members]
        steps = sorted(set.intersection(*(set(found) for found in by_step)))
        values = {
            name: np.array([[found[step][name] for step in steps] for found in by_step], float)
            for name in QUANTITIES
        }
        return np.array(steps), values


@dataclass(frozen=True)
class Comparison:
    """Groups, and the settings in which they differ."""

    groups: tuple[Group, ...]
    differing: dict[str, tuple[str, ...]]
    """Setting to its value in each group."""
    notices: tuple[str, ...] = ()


def compare(paths: Sequence[Path]) -> Comparison:
    """Read the runs in these folders; a folder of run folders, such as a sweep's, stands for all in it.

    Of two runs that only repeat one another (same seed and settings) the second is left out, with a notice:
    it is no independent draw; so is a run in such a folder that was not evaluated yet. Raises UserError for
    another folder without a run that was evaluated.
    """
    groups: dict[str, list[Member]] = {}
    notices = []
    for path, itself in _expanded(paths):
        try:
            one = read(path)
        except NotEvaluatedError:
            if itself:
                raise
            notices.append(f"{path} was not evaluated yet and is left out")
            continue
        group = groups.setdefault(repr(one.settings), [])
        twin = next((other for other in group if other.seed == one.seed), None)
        if twin is not None:
            notices.append(f"{one.path} repeats {twin.path}, seed {one.seed} and all, and is left out")
            continue
        group.append(one)
        if not one.finished:
            notices.append(f"{one.path} is not finished: it counts by its last evaluation")
    named = [Group(_name(place), tuple(found)) for place, found in enumerate(groups.values())]
    return Comparison(tuple(named), _differing(named), tuple(notices))


def read(path: Path) -> Member:
    """The run in a folder; raises UserError where there is none, or it was not evaluated yet."""
    folder = RunDirectory(path)
    if not folder.config.is_file():
        raise UserError(
            f"run: expected a run's folder, or a folder of them, found neither at {path}; see ./runs"
        )
    config = folder.read_config()
    experiment = from_dict(config["experiment"], str(folder.config))
    found = folder.read_metrics(experiment.training.steps)
    evaluations = [one for one in found if one["kind"] == "eval" and records.is_complete(one)]
    if not evaluations:
        raise NotEvaluatedError(f"{path}: not evaluated yet; repeat the command that trains it")
    finished = folder.summary.exists()
    count = len(predictions(folder)) if finished else None
    settings = _settings(config, experiment)
    return Member(path, experiment.training.seed, settings, evaluations, finished, count)


def predictions(folder: RunDirectory) -> np.ndarray:
    """A finished run's, uint8 (N,), of the test images; raises UserError where they cannot be read."""
    try:
        found: np.ndarray = np.load(folder.predictions, allow_pickle=False)
        if found.ndim != 1 or not len(found):
            raise ValueError(f"expected a class for each image, found shape {found.shape}")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{folder.predictions}: not a run's predictions ({error}); put the file back"
        ) from None


def _settings(config: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """All but the seed; the data and where the run went on from are among them."""
    data, origin = (
        one if isinstance(one := config.get(key), dict) else {} for key in ("data", "resumed_from")
    )
    found = {
        "backend": config["backend"],
        **flat(LATER),
        **flat(to_dict(experiment)),
        "data": str(data.get("fingerprint", "unknown"))[:19],
        "resumed_from": f"{origin.get('backend')}, step {origin.get('step')}" if origin else "nothing",
    }
    return {name: value for name, value in found.items() if name != "seed"}


def _differing(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    names = groups[0].settings if groups else {}
    return {
        name: tuple(_text(group.settings[name]) for group in groups)
        for name in names
        if any(group.settings[name] != groups[0].settings[name] for group in groups)
    }


def _text(value: Any) -> str:
    """A setting's value as on the command line."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _name(place: int) -> str:
    return NAMES[place] if place < len(NAMES) else f"run {place + 1}"


def _expanded(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """Each run once, and whether it was named itself."""
    found: dict[Path, tuple[Path, bool]] = {}
    for path in paths:
        inside = []
        if path.is_dir() and not RunDirectory(path).config.exists():
            inside = sorted(one.parent for one in path.glob("*/config.json"))
        for one in inside or [path]:
            found.setdefault(one.resolve(), (one, not inside))
    return list(found.values())
