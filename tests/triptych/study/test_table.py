"""The published table: what is written comes back, no row is lost, and a malformed one is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import study_runs
from tests.helpers.made_results import evaluations, made
from triptych.study import table
from triptych.study.__main__ import main as study
from triptych.study.plan import PLAN
from triptych.study.results import Failure, load, settings_of
from triptych.study.table import PUBLISHED, Table, of_folder, publish, read, write

WHOLE: dict[str, float] = {"train_loss": 1.25, "train_accuracy": 0.5, "test_loss": 1.5}
FAILURE = Failure("fig2", "numpy", 3, settings_of(PLAN["fig2"].experiment), 'step 7, "first", loss, inf')


def run(name: str = "fig1", accuracy: float = 0.4613, **columns: Any) -> Any:
    steps = PLAN[name].experiment.training.steps
    found = evaluations({steps - 100: accuracy - 0.01, steps: accuracy}, **WHOLE)
    return made(name, accuracy=accuracy, records=found, **columns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table of two runs and a failure."""
    notices = ("an unofficial copy, of it", "<another>")
    write(tmp_path, Table([run(), run("size7", notices=notices, test_loss=1 / 3)], [FAILURE]))
    return tmp_path


@pytest.fixture(scope="module")
def published() -> Table:
    return read(PUBLISHED)


def test_the_published_table_holds_the_whole_plan(published):
    wanted = {
        (name, backend, seed)
        for name, planned in PLAN.items()
        for backend, seeds in planned.wanted().items()
        for seed in range(seeds)
    }
    assert len(published.results) == 258
    assert wanted <= set(published.by_key())
    assert sum(len(result.evaluations) for result in published.results) == 6972
    assert (PUBLISHED / "curves.csv").stat().st_size + (PUBLISHED / "runs.csv").stat().st_size < 800_000


def test_writing_the_published_table_again_changes_no_byte(published, tmp_path):
    write(tmp_path, published)
    for file in ("runs.csv", "curves.csv"):
        assert (tmp_path / file).read_bytes() == (PUBLISHED / file).read_bytes()


def test_a_table_comes_back_as_it_was_written(folder):
    found = read(folder)
    assert found.failures == [FAILURE]
    assert found.results == [run(), run("size7", notices=found.results[1].notices, test_loss=1 / 3)]
    assert found.results[1].notices == ("an unofficial copy, of it", "<another>")
    assert [result.records for result in found.results] == [run().records, run("size7").records]


def test_runs_of_a_folder_are_thinned_and_keep_what_is_computed_with(tmp_path):
    for seed in (0, 1):
        study_runs.finished(tmp_path / "root", "fig1", "jax", seed, 0.4567)
    study_runs.finished(tmp_path / "root", "size7", "jax", 0, 0.5, steps=60)
    own = of_folder(tmp_path / "root", PLAN)
    write(tmp_path, own)
    found = read(tmp_path)
    assert found.results == own.results
    assert [len(result.records) for result in own.results] == [1510, 1510, 70]
    assert [len(result.records) for result in found.results] == [510, 10, 10]
    kept = [record["loss"] for record in found.results[0].records if record["kind"] == "train"]
    whole = [record["loss"] for record in own.results[0].records if record["kind"] == "train"]
    assert kept == pytest.approx(whole[:500], rel=1e-8)
    for before, after in zip(own.results, found.results, strict=True):
        for old, new in zip(before.evaluations, after.evaluations, strict=True):
            assert new["test_accuracy"] == old["test_accuracy"]
            assert new["train_loss"] == pytest.approx(old["train_loss"], rel=1e-6)


def test_publish_adds_and_replaces_and_loses_nothing(tmp_path, capsys):
    root, out = tmp_path / "root", tmp_path / "out"
    words = ["--root", str(root), "--published", str(out)]
    study_runs.finished(root, "fig1", "jax", 0, 0.45, steps=60)
    study_runs.finished(root, "fig1", "numpy", 0, 0.46, steps=60)
    study_runs.begun(root, "fig1", "torch", 0)
    assert study(["publish", "fig1", *words]) == 0
    assert f"{out}: 2 runs added, 0 replaced, 2 in all" in capsys.readouterr().out
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert study(["publish", *words]) == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before, "unchanged by the same runs"

    other = tmp_path / "other"
    study_runs.finished(other, "fig1", "numpy", 0, 0.47, steps=60)
    failed = study_runs.begun(other, "fig1", "jax", 0)
    (failed / "failed.json").write_text(json.dumps({"backend": "jax", "seed": 0, "message": "no"}))
    broken = study_runs.begun(other, "fig2", "jax", 1)
    (broken / "failed.json").write_text(json.dumps({"backend": "jax", "seed": 1, "message": "at step 3"}))
    assert publish(other, [], out) == (1, 1, 3)
    found = read(out)
    assert {(one.backend, one.test_accuracy) for one in found.results} == {("jax", 0.45), ("numpy", 0.47)}
    assert [one.message for one in found.failures] == ["at step 3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["publish", "--root", "nowhere"], "root nowhere: no finished run; train it"),
        (["publish", "fig1", "fig2", "--root", "root"], "root root: no finished run of fig2;"),
        (["publish", "figure1", "--root", "root"], "no run is called 'figure1'"),
        (["report", "--published", "nowhere"], "nowhere/curves.csv: no such file; name the published"),
    ],
)
def test_mistakes(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study_runs.finished(Path("root"), "fig1", "jax", 0, 0.45, steps=60)
    assert study(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_run_that_is_not_the_plans_or_not_whole_is_not_published(tmp_path, capsys):
    whole = study_runs.finished(tmp_path, "size7", "jax", 0, 0.5, steps=60)
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (whole / "metrics.jsonl").write_text("".join([*lines[:-1], lines[-1][:40]]))
    words = ["publish", "--root", str(tmp_path), "--published", str(tmp_path / "out")]
    assert study(words) == 2
    assert f"{whole}: size7 jax 0: expected an evaluation of step 60" in capsys.readouterr().err
    config = json.loads((whole / "config.json").read_text())
    config["experiment"]["optimization"]["learning_rate"] = 0.5
    (whole / "config.json").write_text(json.dumps(config))
    assert study(words) == 2
    assert f"{whole}: size7: expected the plan's settings (hidden=600,500,275" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_own_runs_are_taken_in_place_of_published_ones_and_beside_them(folder):
    study_runs.finished(folder / "root", "fig1", "jax", 0, 0.49, steps=60)
    study_runs.finished(folder / "root", "fig1", "torch", 0, 0.48, steps=60)
    found = read(folder).updated(of_folder(folder / "root", PLAN))
    assert [(one.name, one.backend, one.test_accuracy) for one in found.results] == [
        ("fig1", "jax", 0.49), ("size7", "jax", 0.4613), ("fig1", "torch", 0.48),
    ]  # fmt: skip
    assert load(folder / "root", ["fig1"])[0] == found.results[0]


def test_a_finished_run_stays_where_a_newer_one_failed():
    again = replace(FAILURE, name="fig1", backend="jax", seed=0)
    assert Table([run()]).updated(Table([], [again])).by_key() == Table([run()]).by_key()
    later = Table([], [FAILURE]).updated(Table([run("fig2", backend="numpy", seed=3)]))
    assert (len(later.results), later.failures) == (1, [])


def cell(column: str, text: str, row: int = 1, file: str = "runs.csv") -> Callable[[Path], None]:
    """Replace a cell; rows count from 1, below the header."""

    def change(folder: Path) -> None:
        columns = [*table.COLUMNS, table.FAILED] if file == "runs.csv" else table.CURVES
        lines = (folder / file).read_text().split("\n")
        cells = lines[row].split(",")
        cells[columns.index(column)] = text
        lines[row] = ",".join(cells)
        (folder / file).write_text("\n".join(lines))

    return change


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


TWICE = "fig2,numpy,3,init=framework" + "," * 18 + "again\n"
CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no curves": (lambda folder: (folder / "curves.csv").unlink(), "curves.csv: no such file"),
    "not text": (lambda folder: (folder / "runs.csv").write_bytes(b"\xff\x00"), "runs.csv: not a CSV file"),
    "open quote": (edit("runs.csv", "\nfig1", '\n"fig1'), "runs.csv: not a CSV file"),
    "another header": (edit("runs.csv", "backend", "framework"), "runs.csv: expected the columns name, back"),
    "a cell too few": (edit("runs.csv", "fig1,jax", "fig1"), "runs.csv: line 2: expected 22 cells, got 21"),
    "unknown run": (cell("name", "fig99"), "line 2: name: expected a run of the plan, got 'fig99'"),
    "backend": (cell("backend", "mxnet"), "line 2: backend: expected numpy, jax or torch, got 'mxnet'"),
    "seed": (cell("seed", "-1"), "line 2: seed: expected a whole number, got '-1'"),
    "steps": (cell("steps", "1500.0"), "line 2: steps: expected a whole number, got '1500.0'"),
    "infinite": (cell("test_loss", "inf"), "line 2: test_loss: expected a number, got 'inf'"),
    "empty": (cell("train_seconds", ""), "line 2: train_seconds: expected a number, got ''"),
    "settings": (cell("settings", "slope=0.5"), "line 2: fig1: expected the plan's settings (the defaults)"),
    "another end": (cell("steps", "1400"), "expected an evaluation of step 1400 with test accuracy 0.4613"),
    "an accuracy": (cell("test_accuracy", "0.9"), "step 1500 with test accuracy 0.9, found 0.4613"),
    "twice": (
        lambda folder: (folder / "runs.csv").write_text((folder / "runs.csv").read_text() + TWICE),
        "fig2 numpy 3 is there twice",
    ),
    "a curve": (cell("train_loss", "x", file="curves.csv"), "curves.csv: line 2: train_loss: expected"),
    "no accuracy": (cell("train_accuracy", "", file="curves.csv"), "step 1400: expected a train_accuracy"),
    "no run": (edit("curves.csv", "fig1,jax,0", "fig1,torch,0"), "a curve of fig1 torch 0, which is no fin"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_malformed_table_gives_one_line_that_says_where(case, folder, capsys):
    change, said = CASES[case]
    change(folder)
    words = ["--published", str(folder), "--root", str(folder / "root")]
    assert study(["report", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}")
    assert said in line
    assert not (folder / "root").exists()
