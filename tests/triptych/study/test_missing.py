"""What the page says is missing: of the plan, and beyond it, each with a command that the program takes."""

import re
import shlex
from pathlib import Path

import pytest

from tests.helpers import study_runs
from triptych.study import page, table
from triptych.study.__main__ import Report, Train, main, parse
from triptych.study.missing import command, gaps
from triptych.study.plan import PLAN, select
from triptych.study.questions import QUESTIONS
from triptych.study.results import failures, load


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_runs.some(tmp_path_factory.mktemp("study"), (0.45, 0.46, 0.47), "at step 7")


def test_settings_of_table_1_are_counted(root):
    found = gaps(root, load(root, PLAN), [])
    table = [gap.what for gap in found if "settings of table 1" in gap.what]
    assert table == ["39 settings of table 1, jax"]


def test_the_plans_backend_is_missed_where_another_ran(root):
    """Figure 4 ran in torch alone, once; of figure 2 only a run in NumPy was begun."""
    found = {gap.what: gap for gap in gaps(root, load(root, PLAN), failures(root, PLAN))}
    planned = found[f"fig4, jax, seeds 0-9: {PLAN['fig4'].title}"]
    assert (planned.state, planned.command) == ("not run", command(root, "fig4"))
    beyond = found["fig4, torch, seeds 1-9"]
    assert (beyond.state, beyond.command) == ("not run, beyond the plan", command(root, "fig4", "torch"))
    assert found[f"fig2, jax, seeds 0-9: {PLAN['fig2'].title}"].state == "not run"
    assert found["adam, jax, seeds 0-1, 3-4"].state == "not run"
    # Of the other backends the plan wants one run.
    assert found["fig1, numpy, seed 0"].command == command(root, "fig1", "numpy", 1)
    assert found["fig1, torch, seed 0"].state == "not run"


def test_the_commands_are_ones_that_the_program_takes(root):
    shown = [gap.command for gap in gaps(root, load(root, PLAN), failures(root, PLAN))]
    text = page.render(page.gather(table.of_folder(root, PLAN), root))
    needed = re.findall("Not answered yet: `(.+)`", text)
    assert len(needed) == len(QUESTIONS)  # none is answered
    shown += needed + re.findall("^python.+$", text, re.MULTILINE)
    assert len(shown) > 27
    for line in shown:
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "triptych", "study"]
        arguments = parse(words[4:])
        assert arguments.root == root
        assert isinstance(arguments, Train | Report)
        if isinstance(arguments, Train):
            assert select(arguments.names)


def test_every_planned_run_is_shown_or_missed(root):
    there = {(result.name, result.backend, result.seed) for result in load(root, PLAN)}
    missed: set[tuple[str, str, int]] = set()
    for gap in gaps(root, load(root, PLAN), failures(root, PLAN)):
        if found := re.match(r"(\S+), (\w+), seeds? ([\d, -]+)", gap.what):
            for span in found[3].split(","):
                first, _, last = span.strip().partition("-")
                missed |= {(found[1], found[2], seed) for seed in range(int(first), int(last or first) + 1)}
        else:
            assert gap.what == "39 settings of table 1, jax"
    for name, planned in PLAN.items():
        for backend, count in planned.wanted().items():
            for seed in range(count):
                run = (name, backend, seed)
                assert planned.group == "table1" or (run in there) != (run in missed), run


@pytest.mark.parametrize("root", ["nowhere", "file", "empty dir", "empty dir/fig1"])
def test_without_any_run_there_is_no_page(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("empty dir/fig1/jax-seed0").mkdir(parents=True)
    assert main(["report", "--root", root]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"root: no run of the study in {root}, and no published table" in line
    assert "python -m triptych study run fig1 --backend jax" in line
    assert not list(tmp_path.rglob("page"))
