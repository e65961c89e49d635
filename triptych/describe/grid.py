"""Runs that differ in learning rate, weight decay and seed only: what one program can train together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from triptych.describe.spec import Experiment, Schedule
from triptych.errors import UserError

SWEPT = {"learning_rate": "optimization", "weight_decay": "optimization", "seed": "training"}
"""Settings that `--sweep` takes, and the part of the experiment that each lies in."""


@dataclass(frozen=True)
class Point:
    """One run of a grid."""

    values: dict[str, float | int]
    """Swept setting to this run's value."""
    experiment: Experiment

    @property
    def name(self) -> str:
        """Such as learning_rate=0.001,seed=1; fit to name a folder."""
        return ",".join(f"{name}={value!r}" for name, value in self.values.items())


def common(experiment: Experiment) -> Experiment:
    """The experiment without what a sweep's runs may differ in: equal for runs that fit into one program.

    The learning rate's schedule is among it: a program reads the rates from a table. The decay is 1, not 0,
    because an optimizer without decay keeps another state.
    """
    optimization = replace(experiment.optimization, learning_rate=1.0, weight_decay=1.0)
    training = replace(experiment.training, seed=0)
    return replace(experiment, optimization=optimization, training=training, schedule=Schedule())


def grid(base: Experiment, words: Sequence[str]) -> list[Point]:
    """Every combination of the values in words such as learning_rate=1e-2,1e-3, in their order.

    Raises UserError for a name that cannot be swept, and for values that are no numbers or come twice.
    """
    axes: dict[str, list[float | int]] = {}
    for word in words:
        name, values = _axis(word)
        if name in axes:
            raise UserError(f"sweep: {name} comes twice; give all its values in one, {name}=A,B,C")
        axes[name] = values
    combinations = itertools.product(*axes.values())
    return [_point(base, dict(zip(axes, values, strict=True))) for values in combinations]


def _point(base: Experiment, values: dict[str, float | int]) -> Point:
    changed = base
    for name, value in values.items():
        part = SWEPT[name]
        changed = replace(changed, **{part: replace(getattr(changed, part), **{name: value})})
    return Point(values, changed)


def _axis(word: str) -> tuple[str, list[float | int]]:
    name, sign, text = word.partition("=")
    name = name.strip().removeprefix("--").replace("-", "_")
    if name not in SWEPT:
        raise UserError(_unknown(name))
    if not sign or not text.strip():
        raise UserError(f"sweep: expected {name}=A,B,C, got {word!r}")
    values = [_number(name, item.strip()) for item in text.split(",")]
    for value in values:
        if values.count(value) > 1:
            raise UserError(f"sweep: {name} has {value!r} more than once; give each value once")
    return name, values


def _unknown(name: str) -> str:
    known = {field.name for part in fields(Experiment) for field in fields(part.default_factory)}  # type: ignore[arg-type]
    can = f"a sweep can change {', '.join(SWEPT)}"
    if name not in known:
        return f"sweep: no setting {name!r}; {can}, as in --sweep learning_rate=1e-2,1e-3 seed=0,1"
    option = "--" + name.replace("_", "-")
    return (
        f"sweep: {name} makes another program of each value, so a sweep cannot change it; {can}. "
        f"Run train.py once for each value of {option}, each with a --sweep if need be"
    )


def _number(name: str, text: str) -> float | int:
    kind = int if name == "seed" else float
    try:
        value = kind(text)
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise UserError(f"sweep: expected {what} for {name}, got {text!r}") from None
    if not math.isfinite(value):
        raise UserError(f"sweep: expected finite numbers for {name}, got {text!r}")
    return value
