"""`python -m parity mutate`: small mistakes made at random in the numerical files, and what notices them.

Each mutant first meets the items of `check --quick` that run its function, one after another until one fails;
what survives meets all their cases and drawn ones; what survives that, with --tests, the unit tests.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from parity.planted import mutant_tests
from parity.planted.edits import diff, planted
from parity.planted.equivalent import reason
from parity.planted.fate import CRASH, NUMBER, TIME, Fate
from parity.planted.mutants import MODULES, Mutant, choose
from parity.planted.mutation_page import render, write_page
from parity.planted.reach import Reached, reaching, record
from parity.report import saving
from parity.report.progress import show
from parity.suite import check
from parity.suite.backends import computations
from parity.suite.drawn import examples
from parity.suite.registry import ITEMS
from triptych.errors import UserError

DRAWN = 20
PER_PROCESS = 50
"""Mutants after which a worker starts afresh: what was compiled stays in memory."""


class Hangs(BaseException):
    """Past the time limit; no handler of ordinary exceptions may stop it."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Inside, raises Hangs after so long."""

    def stop(number: int, frame: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(mutant: Mutant, items: Sequence[Reached], tests: bool = False) -> Fate:
    """What notices this mutant, in the order of the stages."""
    shown = diff([mutant.edit])
    label = mutant.edit.module, mutant.line, mutant.kind, shown
    if why := reason(mutant.edit.module, shown):
        return Fate(*label, "equivalent", why)
    for stage in ("quick", "full"):
        for each in reaching(mutant, items, quick=stage == "quick"):
            if by := _killed(mutant, each, quick=stage == "quick"):
                return Fate(*label, stage, by, f"{each.item}, {each.backend}")
    if tests and (where := mutant_tests.killed(mutant.edit)):
        return Fate(*label, "tests", where[0], where[1])
    return Fate(*label)


def _killed(mutant: Mutant, each: Reached, quick: bool) -> str:
    """How the item notices it, or nothing."""
    try:
        with limited(each.limit if quick else 20 * each.limit), planted([mutant.edit]):
            results = check.run([each.item], [each.backend], quick=quick, eager=True)
            if not quick and each.item != "model" and all(result.passed for result in results):
                cases = examples(each.item, DRAWN, 0, few=each.backend == "jax")
                found = {each.backend: computations(each.backend)[each.item]}
                results = check.compare(ITEMS[each.item], found, cases, eager=True)
    except Hangs:
        return TIME
    except Exception:
        return CRASH
    return "" if all(result.passed for result in results) else NUMBER


def run(
    chosen: Sequence[Mutant],
    items: Sequence[Reached],
    workers: int = 1,
    tests: bool = False,
    json: Path | None = None,
) -> list[Fate]:
    """The fate of each, in their order, written to `json` after each one; a worker that dies was killed by
    its mutant, as by a crash.
    """
    left = iter(enumerate(chosen))
    fates: dict[int, Fate] = {}

    def work(_: int) -> None:
        pool = _pool()
        for i, mutant in left:
            try:
                future: Future[Fate] = pool.submit(judge, mutant, items, tests)
                fates[i] = future.result()
            except BrokenProcessPool:
                label = mutant.edit.module, mutant.line, mutant.kind, diff([mutant.edit])
                fates[i], pool = Fate(*label, "quick", CRASH, "the process ended"), _pool()
            show(f"{len(fates)} of {len(chosen)}")
            if json is not None:
                saving.write_json(json, [asdict(fates[i]) for i in sorted(fates)])
        pool.shutdown()

    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(work, range(workers)))
    return [fates[i] for i in sorted(fates)]


def _pool() -> ProcessPoolExecutor:
    """One worker, started afresh: JAX and torch do not outlive a fork."""
    fresh = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=PER_PROCESS)


def mutate(
    file: tuple[str, ...] = (),
    count: int = 60,
    seed: int = 0,
    workers: int = 2,
    tests: bool = False,
    json: Path | None = None,
    page: Path | None = None,
) -> int:
    """Make small mistakes at random in the numerical files, one at a time, and show what notices them.

    Exit code 0: every mutant is killed or listed as equivalent; 1: some survive.

    Args:
        file: Only these modules, such as numpy_ref.optim.
        count: How many mutants, spread over the files; 0: all there are.
        seed: Of the choice.
        workers: Processes, each with one mutant at a time.
        tests: Let the unit tests judge what survives the check.
        json: Also write every mutant's fate to this file.
        page: Also put the table into this page, between its marks "mutation scores".
    """
    for name in file:
        if name not in MODULES:
            raise UserError(f"file: expected one of {', '.join(MODULES)}, got {name!r}; change --file")
    if count < 0 or workers < 1:
        raise UserError(f"expected --count 0 or more and --workers 1 or more, got {count} and {workers}")
    chosen = choose(file or MODULES, seed, count or None)
    fates = run(chosen, record(show), workers, tests, json)
    show("")
    print(render(fates))
    if page is not None:
        write_page(page, fates)
    return 0 if all(fate.killed for fate in fates) else 1
