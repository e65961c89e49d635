"""The study's figures in README.md and docs/runs.md, written there from the published table.

A block is what stands between `<!-- study: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from triptych.describe.spec import BackendName
from triptych.errors import UserError
from triptych.show import tables
from triptych.store.files import write_atomically
from triptych.study.comparison import accuracy
from triptych.study.page import gather, mean_and_sd, render
from triptych.study.plan import PLAN
from triptych.study.results import ROOT, Result
from triptych.study.statistics import spread
from triptych.study.table import Table

FILES = (Path("README.md"), Path("docs/runs.md"))
_BLOCK = re.compile(r"(<!-- study: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def write(published: Table) -> list[Path]:
    """Fill the blocks of `FILES`; the files that changed."""
    made, changed = blocks(published), []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if (new := filled(text, made, str(path))) != text:
            write_atomically(path, new.encode())
            changed.append(path)
    return changed


def filled(text: str, made: Mapping[str, str], origin: str) -> str:
    """The text with its blocks written anew. Raises UserError for a block that nothing makes."""

    def block(found: re.Match[str]) -> str:
        if found[2] not in made:
            raise UserError(f"{origin}: no study block is called {found[2]!r}; expected {', '.join(made)}")
        return f"{found[1]}{made[found[2]]}\n{found[4]}"

    return _BLOCK.sub(block, text)


def blocks(published: Table) -> dict[str, str]:
    """Name to content, in Markdown."""
    page = render(gather(published, ROOT))
    headline = re.search(r"^\*\*(.+)\*\*$", page, re.MULTILINE)
    why = page.partition("### Why did the loss")[2].split("\n\n")[1]
    assert headline is not None
    return {
        "headline": headline[1],
        "faster-loss": why,
        "fig1": _fig1(published),
        "accuracy": _all(published),
    }


def _fig1(published: Table) -> str:
    rows = []
    for backend, label in (("numpy", "NumPy, by hand"), ("jax", "JAX"), ("torch", "PyTorch")):
        own = [result for result in published.results if (result.name, result.backend) == ("fig1", backend)]
        speed = spread([result.steps_per_second for result in own]).mean
        last = spread([result.test_accuracy for result in own])
        rows.append((label, mean_and_sd(last), str(last.n), f"{speed:.0f}"))
    return tables.markdown(("backend", "test accuracy, mean (sd)", "runs", "training steps/s"), rows)


def _all(published: Table) -> str:
    """Every run of the report but table 1's, in the backends that ran it."""
    rows = []
    for name, planned in PLAN.items():
        if planned.group not in ("figure", "search"):
            continue
        for backend in get_args(BackendName):
            own = [one for one in published.results if (one.name, one.backend) == (name, backend)]
            if own:
                reported = f"{planned.reported:.4g}" if planned.reported is not None else "–"
                rows.append((name, backend, reported, str(len(own)), *_accuracies(own)))
    head = ("run", "backend", "report", "seeds", "last", "best evaluation", "last, by batch statistics")
    return tables.markdown(head, rows)


def _accuracies(own: list[Result]) -> tuple[str, str, str]:
    last, best, batch = (
        mean_and_sd(spread(values))
        for values in (
            [accuracy(result, "running") for result in own],
            [result.best_test_accuracy for result in own],
            [accuracy(result, "batch") for result in own],
        )
    )
    return last, best, batch if own[0].batch_accuracy is not None else "–"
