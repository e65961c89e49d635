"""`python -m parity self-test`: bugs planted one at a time, what catches them, and what does not.

With each bug in place the ordinary `parity check` runs on the items that the bug touches: nothing about the
measure is adapted to it. First the cases of `--quick`, and where the bug does not show in them all cases. The
same cases are run with nothing planted, and must pass. Beside that, what the usual checks say of the same
code (see `usual_checks`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from parity.planted import FRAMEWORKS, Bug, catalogue, planted
from parity.planted.edits import diff
from parity.planted.kill_matrix import CONTROL, Outcome, document, passed, render
from parity.planted.usual_checks import CHECKS, Verdicts, usual, verdicts
from parity.report import saving
from parity.suite import check
from parity.suite.backends import SHARED, computations, installed
from parity.verification.judge import Result
from triptych.errors import UserError

__all__ = ["CHECKS", "Outcome", "document", "passed", "render", "run", "self_test"]

START, END = "<!-- kill matrix -->\n```\n", "\n```\n<!-- end -->"
Progress = Callable[[str], None]
Said = dict[tuple[object, ...], dict[str, str]]
"""What the usual checks say with nothing planted, by what they are run on."""


def run(
    bugs: Iterable[str] | None = None,
    backends: Iterable[str] | None = None,
    quick: bool = False,
    progress: Progress = lambda _: None,
) -> list[Outcome]:
    """Controls and bugs of the chosen names and backends (None: all that are installed).

    `quick` leaves out the usual checks, and without `backends` all backends but NumPy. Raises UserError
    for an unknown name, or a backend whose framework is missing.
    """
    chosen = catalogue.find(bugs or ())
    outcomes: list[Outcome] = []
    for backend in _backends(backends, quick):
        own = [bug for bug in chosen if backend in bug.edits]
        said: Said = {}
        found = []
        for bug in own:
            progress(f"{backend}: {bug.name}")
            found.append(_outcome(bug, backend, quick, said))
        outcomes += [*_controls(own, found, backend, progress), *found]
    return outcomes


def _backends(asked: Iterable[str] | None, quick: bool) -> list[str]:
    known, asked = (*FRAMEWORKS, SHARED), list(asked or ())
    for name in asked:
        if name not in known:
            raise UserError(f"backend: expected one of {', '.join(known)}, got {name!r}; change --backend")
        computations(name)  # raises where the framework is missing
    if asked:
        return asked
    return ["numpy", SHARED] if quick else [name for name in known if installed(name)]


def _checked(items: Iterable[str], backend: str, dtypes: Iterable[str], quick: bool) -> list[Result]:
    """The ordinary check; JAX operation by operation, where many small changes are compiled fastest."""
    return check.run(items, [backend], dtypes, quick=quick, eager=True)


def _worst(results: Sequence[Result]) -> Result:
    return max(results, key=lambda result: (not result.passed, result.share))


def _controls(
    bugs: Sequence[Bug], outcomes: Sequence[Outcome], backend: str, progress: Progress
) -> list[Outcome]:
    """What the bugs were looked for in, with nothing planted: the same items, formats and cases."""
    wanted: dict[str, dict[str, None]] = {}
    every: dict[str, bool] = {}
    for bug, outcome in zip(bugs, outcomes, strict=True):
        for item in bug.items:
            if item == "model" or item in computations(backend):
                wanted.setdefault(item, {}).update(dict.fromkeys(bug.dtypes))
                every[item] = every.get(item, False) or not outcome.quick
    found = []
    for item, dtypes in wanted.items():
        progress(f"{backend}: {item}, nothing planted")
        results = _checked([item], backend, dtypes, quick=not every[item])
        wrong = [result for result in results if not result.passed]
        where = f"{item} {_worst(wrong).quantity}" if wrong else item
        share = _worst(results).share if results else 0.0
        label = ("", "nothing planted", CONTROL, backend)
        found.append(Outcome(*label, bool(wrong), where, False, share, not every[item]))
    return found


def _outcome(bug: Bug, backend: str, quick: bool, said: Said) -> Outcome:
    """The check and the usual checks with the bug in place."""
    checks = None if quick else usual(bug, backend)
    before: dict[str, str] = {}
    if checks is not None:
        if checks.key not in said:
            said[checks.key] = checks.run()
        before = said[checks.key]
    with planted(bug, backend):
        by_quick, results = True, _checked(bug.items, backend, bug.dtypes, quick=True)
        if not _named(bug, results):
            by_quick, results = False, _checked(bug.items, backend, bug.dtypes, quick=False)
        now = {} if checks is None else checks.run()
    wrong = [result for result in results if not result.passed]
    worst = _worst(wrong or results)
    heard = Verdicts() if checks is None else verdicts(bug, checks, before, now)
    label, where = (bug.name, bug.title, bug.group, backend), f"{worst.item} {worst.quantity}"
    caught = bool(wrong), where, _named(bug, results), worst.share, by_quick
    row = (*label, *caught, heard.words, heard.reasons, diff(bug.edits[backend]))
    return Outcome(*row)


def _named(bug: Bug, results: Sequence[Result]) -> bool:
    """Whether a quantity failed that the bug must show in; a model's carry their layer in front."""
    wrong = {result.quantity for result in results if not result.passed}
    return bool((wrong | {quantity.split()[-1] for quantity in wrong}) & set(bug.shows_in))


def self_test(
    bug: tuple[str, ...] = (),
    backend: tuple[str, ...] = (),
    quick: bool = False,
    json: Path | None = None,
    page: Path | None = None,
    list: bool = False,
) -> int:
    """Plant real bugs, one at a time, and show what catches each: parity's check and the usual ones.

    Exit code 0: every bug is caught where it is, and nothing fails with nothing planted; 1: not so.

    Args:
        bug: Only these, by the names that --list shows.
        backend: Only these: numpy, jax, torch, shared (what is computed once for all three).
        quick: NumPy alone unless --backend says otherwise, and without the usual checks.
        json: Also write every outcome to this file.
        page: Also put the matrix into this page, between its marks "kill matrix".
        list: Only list the bugs; those named by --bug with their diffs of shipped lines.
    """
    if list:
        for found in catalogue.find(bug):
            print(f"{found.name:<36}{found.title}")
            if bug:
                print(
                    *(f"\n{name}: {diff(edits)}" for name, edits in found.edits.items()), sep="\n", end="\n\n"
                )
        return 0

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    outcomes = run(bug, backend, quick, progress)
    progress("")
    if not outcomes:
        raise UserError("self-test: nothing to plant; these bugs cannot be made in this --backend")
    print(render(outcomes))
    if json is not None:
        saving.write_json(json, document(outcomes))
    if page is not None:
        before, _, rest = page.read_text(encoding="utf-8").partition(START)
        page.write_text(before + START + render(outcomes) + END + rest.partition(END)[2], encoding="utf-8")
    return 0 if passed(outcomes) else 1
