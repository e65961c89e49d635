"""Which items of `check --quick` run which function of the numerical files, and for how long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from parity.planted.edits import PACKAGES, file_of
from parity.planted.mutants import MODULES, Mutant
from parity.suite import check
from parity.suite.backends import BACKENDS, SHARED, computations, forget
from parity.suite.registry import ITEMS

MINIMUM = 20.0
"""Seconds that an item has with a mutant in place, at least."""


class Reached(NamedTuple):
    """One item in one backend."""

    item: str
    backend: str
    functions: frozenset[tuple[str, int]]
    """(module, first line)."""
    seconds: float

    @property
    def limit(self) -> float:
        """Seconds after which a mutant hangs."""
        return max(MINIMUM, 10 * self.seconds)


def record(progress: Callable[[str], None], backends: Iterable[str] = (*BACKENDS, SHARED)) -> list[Reached]:
    """Run all items of the quick check once; the most specific come first."""
    names = {str(file_of(module)): module for module in MODULES}
    found = []
    for backend in backends:
        for item in (*ITEMS, *(("model",) if backend != SHARED else ())):
            if item == "model" or item in computations(backend):
                progress(f"{item}, {backend}: what it runs")
                found.append(_one(item, backend, names))
    return sorted(found, key=lambda each: (len(each.functions), each.seconds))


def _one(item: str, backend: str, names: dict[str, str]) -> Reached:
    called: set[tuple[str, int]] = set()

    def note(frame: Any, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename in names:
            called.add((names[frame.f_code.co_filename], frame.f_code.co_firstlineno))

    forget(backend)  # what is compiled is not run again
    began = time.perf_counter()
    sys.setprofile(note)
    try:
        results = check.run([item], [backend], quick=True, eager=True)
    finally:
        sys.setprofile(None)
    wrong = [result for result in results if not result.passed]
    assert not wrong, f"{item}, {backend} fails with nothing planted"
    return Reached(item, backend, frozenset(called), time.perf_counter() - began)


def reaching(mutant: Mutant, items: Sequence[Reached], quick: bool) -> list[Reached]:
    """The items that run its function. At a module's or class's top, and of the full check, whose other cases
    may run more, all that run anything of the module; of the full check also those without a quick case.
    """
    module, line = mutant.edit.module, mutant.function
    if quick and line:
        return [each for each in items if (module, line) in each.functions]
    near = [each for each in items if any(where == module for where, _ in each.functions)]
    return near if quick else near + [each for each in items if not each.functions and _fits(each, module)]


def _fits(each: Reached, module: str) -> bool:
    package = PACKAGES.get(each.backend)
    return not module.startswith(tuple(PACKAGES.values())) or module.split(".")[0] == package
