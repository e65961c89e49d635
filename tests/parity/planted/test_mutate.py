"""`python -m parity mutate`: each kind of mutant is the edit that it says; its item kills it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from parity.__main__ import main
from parity.planted import edits, mutants, mutate, reach
from parity.planted.equivalent import EQUIVALENT, key
from parity.planted.fate import Fate
from parity.planted.mutants import MODULES, Mutant
from parity.planted.mutation_page import render

SOURCE = '''"""Made up."""


def f(x: int, axis: int = 1) -> int:
    """2 + 2."""
    if x < 0:
        raise ValueError(f"{x + 1}")
    y = (x + x[3:]) * -x
    y += 0.5
    if x <= 4 and not y:
        y = np.sqrt(x).sum(axis)
    return g(x, y)
'''
MADE = {
    ("operator", "    y = (x - x[3:]) * -x"),
    ("operator", "    y = (x + x[3:]) / -x"),
    ("term dropped", "    y = (x) * -x"),
    ("term dropped", "    y = (x + x[3:])"),
    ("sign or not dropped", "    y = (x + x[3:]) * x"),
    ("constant", "    y = (x + x[2:]) * -x"),
    ("slice without its start", "    y = (x + x[:]) * -x"),
    ("slice's start off by one", "    y = (x + x[3 + 1:]) * -x"),
    ("update's operator", "    y -= 0.5"),
    ("update dropped", "    pass"),
    ("constant", "    y += 0.505"),
    ("comparison", "    if x < 4 and not y:"),
    ("comparison", "    if x >= 4 and not y:"),
    ("and, or", "    if x <= 4 or not y:"),
    ("sign or not dropped", "    if x <= 4 and y:"),
    ("condition negated", "    if (not (x <= 4 and not y)):"),
    ("function dropped", "        y = x.sum(axis)"),
    ("function", "        y = np.sqrt(x).mean(axis)"),
    ("arguments exchanged", "    return g(y, x)"),
    ("constant", "def f(x: int, axis: int = 2) -> int:"),
}


def made(mutant: Mutant) -> str:
    return next(line[1:] for line in edits.diff([mutant.edit]).splitlines() if line.startswith("+"))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "made_up_module.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return "made_up_module"


def test_each_kind_makes_the_edit_that_it_says(module: str) -> None:
    found = {(mutant.kind, made(mutant)) for mutant in mutants.mutants(module)}
    assert found >= MADE
    assert not [line for _, line in found if "raise" in line or "0:" in line or '"' in line]


def test_mutants_of_shipped_files_compile_and_change_one_place() -> None:
    for name in ("numpy_ref.optim", "triptych.describe.streams"):
        shipped = edits.source_of(name)
        found = mutants.mutants(name)
        assert len(found) > 30
        for mutant in found:
            (source,) = edits.edited([mutant.edit]).values()
            assert source != shipped
            ast.parse(source)


def test_the_same_seed_gives_the_same_mutants_and_more_of_them_begin_with_fewer() -> None:
    names = ("numpy_ref.optim", "numpy_ref.dense")
    some, more, other = (mutants.choose(names, *how) for how in ((3, 10), (3, 40), (4, 10)))
    assert more[:10] == some != other
    assert {mutant.edit.module for mutant in some} == set(names)


def test_every_equivalent_mutant_is_still_one() -> None:
    for name in {name for name, _, _ in EQUIVALENT}:
        assert name in MODULES
        there = {key(name, edits.diff([mutant.edit])) for mutant in mutants.mutants(name)}
        assert {entry for entry in EQUIVALENT if entry[0] == name} <= there


KILLED = (
    ("numpy_ref.loss", "np.log(np.exp(shifted)", "np.log(2 * np.exp(shifted)", "cross_entropy, numpy"),
    ("numpy_ref.optim", "theta -= eta * g", "theta += eta * g", "optimizer, numpy"),
    ("numpy_ref.norm", "inverse = 1 / np.sqrt(variance + eps)", "inverse = 1 / (variance + eps)", "norm"),
    ("triptych.describe.schedule", "np.where(steps < s", "np.where(steps <= s", "learning_rate, shared"),
    ("triptych.describe.init", "6.0 / (fan_in", "6.06 / (fan_in", "initial_draws, shared"),
)


@pytest.fixture(scope="module")
def items() -> list[reach.Reached]:
    """What NumPy and the shared part run."""
    return reach.record(lambda line: None, ("numpy", "shared"))


def test_what_is_wrong_is_killed_by_its_item(items: list[reach.Reached]) -> None:
    for module, old, new, where in KILLED:
        edit = edits.edit(module, old, new)[0]
        fate = mutate.judge(Mutant("", 1, 0, edit), items)
        assert (fate.killed, fate.by) == ("quick", "number"), edit
        assert where in fate.where, edit


def test_a_crash_and_a_hang_are_told_apart_from_a_wrong_number(
    items: list[reach.Reached], monkeypatch: pytest.MonkeyPatch
) -> None:
    (crash,) = edits.edit("numpy_ref.optim", "theta -= eta * g", "theta -= eta * nothing")
    (hang,) = edits.edit("numpy_ref.optim", "theta -= eta * g", "while True: theta -= eta * g")
    assert mutate.judge(Mutant("", 1, 0, crash), items).by == "crash"
    monkeypatch.setattr(reach, "MINIMUM", 0.3)
    assert mutate.judge(Mutant("", 1, 0, hang), items).by == "time"


def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutate, "record", lambda progress: [])
    page = tmp_path / "page.md"
    page.write_text("<!-- mutation scores -->\n```\nold\n```\n<!-- end -->\nafter\n", encoding="utf-8")
    how = ["--file", "numpy_ref.augment", "--count", "2", "--workers", "1"]
    code = main(["mutate", *how, "--json", str(tmp_path / "fates.json"), "--page", str(page)])
    fates = [Fate(**row) for row in json.loads((tmp_path / "fates.json").read_text(encoding="utf-8"))]
    assert code == 1
    assert [fate.killed for fate in fates] == ["", ""]
    assert render(fates) in capsys.readouterr().out
    assert render(fates) in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").endswith("<!-- end -->\nafter\n")


@pytest.mark.parametrize("words", [["--file", "numpy_ref.nothing"], ["--count", "-1"], ["--workers", "0"]])
def test_a_mistake_in_the_call_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mutate", *words]) == 2
    assert "expected" in capsys.readouterr().err
