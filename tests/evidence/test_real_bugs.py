"""The verdicts on public porting bugs: right ports pass, wrong ones fail, and the page says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from evidence.real_bugs import page
from evidence.real_bugs.bug import Bug, ModelBug, Verdict, judged

EVERY = 12
"""Of each family, the first and each so manieth bug after it is judged in the default run."""
BY_NAME = {bug.name: bug for bug in page.BUGS}
QUICK = {bug.name for bugs in page.FAMILIES.values() for bug in bugs[::EVERY]}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The arrays are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def verdict(name: str, side: str) -> Verdict:
    bug = BY_NAME[name]
    return judged(bug, bug.right if side == "right" else bug.wrong)


def sides() -> list[Any]:
    rows = []
    for bug in page.BUGS:
        for side in ("right", "wrong"):
            marks = [] if bug.name in QUICK else [pytest.mark.slow]
            rows.append(pytest.param(bug.name, side, marks=marks, id=f"{bug.name}-{side}"))
    return rows


@pytest.mark.parametrize(("name", "side"), sides())
def test_verdict(name: str, side: str) -> None:
    found = verdict(name, side)
    assert found.word == {"right": "passed", "wrong": "failed"}[side], found.line


def shown(bug: Bug | ModelBug) -> list[str]:
    """The page's row: bug, kind, what went wrong, right port, wrong port."""
    (line,) = [row for row in page.PAGE.read_text().splitlines() if row.startswith(f"| `{bug.name}` ")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_the_page_has_every_bug_and_nothing_else() -> None:
    names = re.findall(r"^\| `(\w+)` ", page.PAGE.read_text(), re.MULTILINE)
    assert names == [bug.name for bug in page.BUGS]
    for bug in page.BUGS:
        expected = page.row(bug, Verdict("passed", ""), Verdict("failed", "")).strip("| ").split(" | ")
        assert shown(bug)[:3] == [cell.strip() for cell in expected[:3]]
        assert shown(bug)[3].startswith("passes")
        assert shown(bug)[4].startswith("`")


@pytest.mark.parametrize("name", sorted(QUICK))
def test_the_page_says_what_the_library_says(name: str) -> None:
    found = page.row(BY_NAME[name], verdict(name, "right"), verdict(name, "wrong"))
    assert shown(BY_NAME[name]) == [cell.strip() for cell in found.strip("| ").split(" | ")]


def test_each_bug_names_its_own_report() -> None:
    links = [bug.link for bug in page.BUGS]
    assert len(set(links)) == len(links)
    assert len(BY_NAME) == len(page.BUGS)
    pattern = r"[\w.-]+/[\w.-]+/(issues|pull)/\d+"
    assert [link for link in links if not re.fullmatch(pattern, link)] == []
