"""`python -m triptych study run`: finished runs are passed over, interrupted ones resumed."""

import fcntl
import json
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import tiny, tiny_study
from tests.helpers.tiny_study import TINY_PLAN
from triptych import cifar10
from triptych.describe.schedule import learning_rates
from triptych.study.jobs import Clock, Job, duration
from triptych.study.results import failures, load
from triptych.train.loop import Run

GOOD = ("fig1", "table1-a", "table1-b")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_study.install(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("whole")
    done = tiny_study.process(root, "never", *GOOD)
    assert done.returncode == 0, done.stderr
    return computed(root)


@pytest.fixture
def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many steps each backend call of this test planned."""
    taken: list[int] = []
    planned = Run.plan

    def counted(self: Any, first: int, count: int) -> Any:
        taken.append(count)
        return planned(self, first, count)

    monkeypatch.setattr(Run, "plan", counted)
    return taken


def computed(root: Path) -> dict[str, Any]:
    """All that the finished runs under a root computed, by folder's name."""
    return {
        str(path.parent.relative_to(root)): tiny.results(path.parent)
        for path in sorted(root.glob("*/*/summary.json"))
    }


def test_everything_is_run_once_in_folders_like_those_of_train(tmp_path, capsys, steps_taken):
    assert tiny_study.call(tmp_path, *GOOD) == 0
    text = capsys.readouterr().out
    assert sum(steps_taken) == 4 * 12
    assert "[  1/4] fig1 numpy seed 0, time left not measured yet" in text
    assert re.search(r"^\[  2/4\] fig1 numpy seed 1, about \d+ s left$", text, re.MULTILINE)
    runs = load(tmp_path, GOOD)
    assert [(run.name, run.seed) for run in runs] == [
        ("fig1", 0), ("fig1", 1), ("table1-a", 0), ("table1-b", 0),
    ]  # fmt: skip
    assert "learning_rate=5e-06" in runs[3].settings
    tiny.launch(tmp_path / "own", TINY_PLAN["fig1"].with_seed(1))
    assert tiny.results(tmp_path / "fig1" / "numpy-seed1") == tiny.results(tmp_path / "own")
    assert not list(tmp_path.glob("fig1/*/checkpoints")), "a finished run's checkpoints are dropped"

    steps_taken.clear()
    capsys.readouterr()
    assert tiny_study.call(tmp_path, *GOOD) == 0
    assert steps_taken == []
    again = capsys.readouterr().out.splitlines()
    assert again == [
        f"[{number:>3}/4] {run.name} numpy seed {run.seed}: finished before, test accuracy "
        f"{run.test_accuracy:.4f}"
        for number, run in enumerate(runs, start=1)
    ]


def test_data_is_loaded_once_and_not_at_all_for_finished_runs(tmp_path, monkeypatch):
    loads: list[Any] = []

    def counted(*args: Any) -> Any:
        loads.append(args)
        return tiny.dataset()

    monkeypatch.setattr(cifar10, "load", counted)
    assert tiny_study.call(tmp_path, *GOOD, "--data-dir", "D") == 0
    assert loads == [("generated", Path("D"))]
    assert tiny_study.call(tmp_path, *GOOD, "--data-dir", "D") == 0
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("call", "left"),
    [(1, 48), (3, 44), (9, 32), (13, 24), (24, 4)],
    ids=["at once", "in the first", "in the second", "between two", "near the end"],
)
def test_killed_anywhere_it_goes_on_from_the_last_checkpoint(tmp_path, steps_taken, whole, call, left):
    with tiny.killed(f"SIGKILL:plan:{call}"):
        tiny_study.call(tmp_path, *GOOD)
    steps_taken.clear()
    assert tiny_study.call(tmp_path, *GOOD) == 0
    assert sum(steps_taken) == left
    assert computed(tmp_path) == whole


@pytest.mark.parametrize(
    ("moment", "code", "line"),
    [
        ("SIGKILL:plan:9", -signal.SIGKILL, "[  2/4] fig1 numpy seed 1"),
        ("SIGTERM:plan:9", 143, "stopped by SIGTERM, checkpoint saved"),
        ("SIGINT:plan:9", 130, "stopped by SIGINT, checkpoint saved"),
        ("SIGTERM:replace:1", 143, "[  1/4] fig1 numpy seed 0"),
    ],
)
def test_a_signal_ends_it_and_the_same_command_goes_on(tmp_path, whole, moment, code, line):
    stopped = tiny_study.process(tmp_path, moment, *GOOD)
    assert stopped.returncode == code, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert line in stopped.stdout
    done = tiny_study.process(tmp_path, "never", *GOOD)
    assert done.returncode == 0, done.stderr
    assert ("resuming at step" in done.stdout) == ("plan" in moment)
    assert ("[  1/4] fig1 numpy seed 0: finished before" in done.stdout) == ("plan" in moment)
    assert computed(tmp_path) == whole


def test_a_run_that_breaks_down_is_recorded_and_the_rest_goes_on(tmp_path, capsys, steps_taken):
    assert tiny_study.call(tmp_path, "wild", "table1-a") == 3
    assert [run.name for run in load(tmp_path, TINY_PLAN)] == ["table1-a"]
    [failure] = failures(tmp_path, TINY_PLAN)
    assert (failure.name, failure.backend, failure.seed) == ("wild", "numpy", 0)
    assert failure.message.startswith("training stopped being finite at step 2: first non-finite value in")
    assert "the last good checkpoint is step 0 in checkpoints;" in failure.message
    assert str(tmp_path) not in failure.message, "the file may be published"
    steps_taken.clear()
    capsys.readouterr()
    assert tiny_study.call(tmp_path, "wild") == 3
    assert steps_taken == []
    assert "[  1/1] wild numpy seed 0: stopped being finite before; --retry" in capsys.readouterr().out
    assert tiny_study.listed(tmp_path) == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[3:6] for words in listed if words[0] == "wild"] == [["numpy", "0", "(1"]]


def test_retry_trains_again_what_broke_down(tmp_path, monkeypatch, whole, steps_taken):
    monkeypatch.setattr("triptych.describe.protocol.learning_rates", tiny.huge_rate)
    assert tiny_study.call(tmp_path, "fig1", "--seeds", "1") == 3
    assert [failure.name for failure in failures(tmp_path, TINY_PLAN)] == ["fig1"]
    monkeypatch.setattr("triptych.describe.protocol.learning_rates", learning_rates)
    steps_taken.clear()
    assert tiny_study.call(tmp_path, "fig1", "--seeds", "1", "--retry") == 0
    assert sum(steps_taken) == 8
    assert failures(tmp_path, TINY_PLAN) == []
    assert computed(tmp_path)["fig1/numpy-seed0"] == whole["fig1/numpy-seed0"]


def test_a_plan_that_changed_is_refused_before_anything_runs(tmp_path, capsys, monkeypatch, steps_taken):
    assert tiny_study.call(tmp_path, "table1-a") == 0
    steps_taken.clear()
    changed = replace(TINY_PLAN["table1-a"], experiment=tiny.settings(optimizer="adam", weight_decay=0.1))
    monkeypatch.setitem(TINY_PLAN, "table1-a", changed)
    assert tiny_study.call(tmp_path, "fig1", "table1-a") == 2
    text = capsys.readouterr().err
    assert "weight_decay: 0.0 there, 0.1 here" in text
    assert "another --root" in text
    assert steps_taken == []


def test_two_at_once_refuse_each_other(tmp_path, capsys):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert tiny_study.call(tmp_path, "fig1") == 2
    assert "another `triptych study` command is at work there" in capsys.readouterr().err
    assert tiny_study.call(tmp_path, "fig1") == 0


def test_seeds_lines_and_checkpoints_as_asked_for(tmp_path, capsys):
    assert tiny_study.call(tmp_path, "fig1", "--seeds", "3", "--verbose", "--keep-checkpoints") == 0
    assert (tmp_path / "fig1" / "numpy-seed0" / "checkpoints" / "step-00000012.safetensors").exists()
    assert [run.seed for run in load(tmp_path, ["fig1"])] == [0, 1, 2]
    assert capsys.readouterr().out.count("step     12  train loss") == 3


def test_list_counts_what_is_done(tmp_path, capsys):
    tiny_study.call(tmp_path, "fig1")
    capsys.readouterr()
    assert tiny_study.listed(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["fig1", "figure", "0.1000", "2", "numpy", "2", "momentum"]
    assert lines[2].split() == ["table1-a", "table1", "1", "-", "adam"]


def test_a_faulty_record_of_failure_is_named(tmp_path, capsys):
    (folder := tmp_path / "wild" / "numpy-seed0").mkdir(parents=True)
    (folder / "failed.json").write_text(json.dumps({"seed": 0}))
    assert tiny_study.listed(tmp_path) == 2
    assert "failed.json: expected backend, seed and message" in capsys.readouterr().err


def test_time_left_comes_from_measured_seconds():
    """Seeds of a name take as long as others of it; other names go by their operations."""
    clock, jobs = Clock(), [Job("fig1", "numpy", seed) for seed in range(4)]
    assert clock.left(jobs) == "time left not measured yet"
    clock.note(jobs[0], 100.0)
    clock.note(jobs[1], 140.0)
    assert clock.left(jobs[2:]) == "about 4 min left"
    other = Job("table1-a", "numpy", 0)
    assert clock.expected(other) == pytest.approx(120.0)  # the same network and number of steps
    assert clock.left([jobs[2], Job("fig1", "jax", 0)]) == "about 2 min left and 1 runs not measured"


def test_durations_read_well():
    assert [duration(seconds) for seconds in (5, 89, 600, 12000)] == ["5 s", "89 s", "10 min", "3 h 20 min"]
