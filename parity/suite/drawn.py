"""Inputs that nobody picked: hypothesis draws them for each item, backend and format, and shrinks failures.

The draws depend on a seed alone, which every drawn case's name tells; no database of examples is read or
written. A failing case is shrunk, and the smallest one found is a result like any other. Its note holds its
inputs, so that it can be typed in again.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

from parity.suite.draws import Draws
from parity.suite.registry import OPERATORS
from parity.verification.case import Case
from parity.verification.judge import Result
from triptych.errors import UserError

PER_ITEM = 20
"""Examples of an item, of `python -m parity check` without --quick."""
SHRINKING = 500
"""Examples looked at, at most, to find and shrink one that fails."""
SHOWN = 40
"""Numbers of a shrunk case that are told in full; of larger ones the shapes."""


def available() -> bool:
    """Whether hypothesis is installed."""
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def chosen(asked: int | None, quick: bool) -> int:
    """How many examples of an item: as asked, else PER_ITEM, or none with --quick or without hypothesis.

    Raises UserError where so many cannot be drawn.
    """
    if asked is None:
        return PER_ITEM if available() and not quick else 0
    if asked < 0:
        raise UserError(f"drawn: expected 0 or more inputs for each item, got {asked}; change --drawn")
    if asked and not available():
        raise UserError(
            "drawn: inputs are drawn by the package 'hypothesis', which is not installed; install it "
            "(pip install hypothesis) or set --drawn 0"
        )
    return asked


def check_drawn(
    item: str, run: Callable[[Case], list[Result]], count: int, seed: int, few: bool = False
) -> list[Result]:
    """What `run` says of `count` drawn cases of the item, and of the smallest that fails; none where nothing
    draws it.
    """
    results = [result for case in examples(item, count, seed, few) for result in run(case)]
    return results + (list(_shrunk(item, run, seed, few)) if any(not r.passed for r in results) else [])


@lru_cache(maxsize=128)
def examples(item: str, count: int, seed: int, few: bool = False) -> tuple[Case, ...]:
    """The same cases for every backend and format; none where the item has no strategy."""
    found: list[Case] = []

    def collect(case: Case) -> bool:
        found.append(replace(case, name=f"drawn {len(found) + 1}, seed {seed}"))
        return False

    _find(item, collect, count, seed, few)
    return tuple(found)


def strategy(item: str, few: bool = False) -> Any:
    """hypothesis's, of an item that has cases to draw."""
    from hypothesis import strategies

    make = OPERATORS[item].draw
    assert make is not None
    return strategies.composite(lambda draw: make(Draws(draw, few)))()


def _shrunk(item: str, run: Callable[[Case], list[Result]], seed: int, few: bool) -> Iterator[Result]:
    """The failing results of the smallest failing case that can be found."""

    def fails(case: Case) -> bool:
        return any(not result.passed for result in run(case))

    smallest = _find(item, fails, SHRINKING, seed, few)
    if smallest is not None:
        for result in run(replace(smallest, name=f"drawn and shrunk, seed {seed}")):
            if not result.passed:
                yield replace(result, note="; ".join(filter(None, [result.note, describe(smallest)])))


def _find(item: str, condition: Callable[[Case], bool], count: int, seed: int, few: bool) -> Case | None:
    """The smallest case, of so many drawn ones, that meets the condition."""
    if count < 1 or OPERATORS[item].draw is None:
        return None
    from hypothesis import Phase, find, settings
    from hypothesis.errors import NoSuchExample

    source = Random(zlib.crc32(f"{item}/{seed}".encode()))
    chosen = settings(max_examples=count, database=None, deadline=None, phases=(Phase.generate, Phase.shrink))
    with suppress(NoSuchExample), _nothing_from_sources():
        found: Case = find(strategy(item, few), condition, settings=chosen, random=source)
        return found
    return None


@contextmanager
def _nothing_from_sources() -> Iterator[None]:
    """hypothesis mixes in numbers that it reads in the source of whatever modules of the project are loaded:
    another --item or --backend would draw other inputs. The only way to keep it from that is not a public
    one; where it is gone, draws are the same for the same command only.
    """
    from hypothesis.internal.conjecture import providers
    from hypothesis.internal.constants_ast import Constants

    before = getattr(providers, "_get_local_constants", None)
    if before is None:
        yield
        return
    nothing = Constants()
    try:
        providers._get_local_constants = lambda: nothing
        yield
    finally:
        providers._get_local_constants = before


def describe(case: Case) -> str:
    """Settings, layout and inputs, as Python reads them; of a large case the inputs' shapes."""
    small = sum(array.size for array in case.inputs.values()) <= SHOWN
    parts = [f"{name} {_told(array, small)}" for name, array in case.inputs.items()]
    parts += [f"{name} {value}" for name, value in case.settings.items()]
    return ", ".join([*parts, f"layout {case.layout}"])


def _told(array: Any, small: bool) -> str:
    return str(np.asarray(array).tolist()) if small else str(np.shape(array))
