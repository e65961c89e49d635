"""Well-formed archives of runs that no run of the plan left behind: neither packed nor unpacked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import study_runs
from tests.helpers.tiny import contents
from triptych.store.sealed import sealed
from triptych.study import archive
from triptych.study.__main__ import main as study
from triptych.study.jobs import jobs
from triptych.study.plan import PLAN

Files = dict[str, bytes]
Change = Callable[[Files], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = study_runs.finished(tmp_path_factory.mktemp("good"), "fig1", "jax", 1, 0.46)
    for name in ("config.json", "summary.json"):
        (folder / name).write_text(json.dumps(sealed(json.loads((folder / name).read_text()))))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fields(file: str, seal: bool = True, **changes: Any) -> Change:
    """Other values in a JSON file, sealed again or not."""

    def change(files: Files) -> None:
        content = json.loads(files[file]) | changes
        files[file] = json.dumps(sealed(content) if seal else content).encode()

    return change


def settings(group: str, **changes: Any) -> Change:
    """Other settings in config.json."""

    def change(files: Files) -> None:
        content = json.loads(files["config.json"])
        content["experiment"][group] |= changes
        files["config.json"] = json.dumps(sealed(content)).encode()

    return change


def flattened(files: Files) -> None:
    content = json.loads(files["config.json"])
    content["experiment"] = {
        "model": {k: v for part in content["experiment"].values() for k, v in part.items()}
    }
    files["config.json"] = json.dumps(sealed(content)).encode()


def lines(change: Callable[[list[bytes]], Any]) -> Change:
    """Other lines in metrics.jsonl: 1,500 of training, then ten evaluations."""

    def changed(files: Files) -> None:
        content = files["metrics.jsonl"].splitlines(keepends=True)
        change(content)
        files["metrics.jsonl"] = b"".join(content)

    return changed


def record(at: int, drop: str = "", **changes: Any) -> Change:
    """One line of metrics.jsonl with other values."""

    def change(content: list[bytes]) -> None:
        values = json.loads(content[at]) | changes
        values.pop(drop, None)
        content[at] = json.dumps(values).encode() + b"\n"

    return lines(change)


def failed(without: str = "summary.json", **changes: Any) -> Change:
    """failed.json in place of the summary."""

    def change(files: Files) -> None:
        del files[without]
        content = {"backend": "jax", "seed": 1, "message": "stopped being finite at step 3"} | changes
        files["failed.json"] = json.dumps(content).encode()

    return change


def raw(name: str, content: bytes) -> Change:
    return lambda files: files.update({name: content})


CONFIG, METRICS, SUMMARY, FAILED = "config.json", "metrics.jsonl", "summary.json", "failed.json"
INCOMPLETE = "expected 1500 whole steps and an evaluation of the last"
OTHER = "expected the summary of fig1 jax seed 1, found another run's"

CASES: dict[str, tuple[Change, str, str]] = {
    "another rate": (settings("optimization", learning_rate=0.5), CONFIG, "plan's (learning_rate: 0.5 there"),
    "another seed": (settings("training", seed=2), CONFIG, "plan's (seed: 2 there, 1 here)"),
    "settings in one heap": (flattened, CONFIG, "unknown"),
    "another backend": (fields(CONFIG, backend="torch"), CONFIG, "(backend: 'torch' there, 'jax' here)"),
    "another name": (fields(CONFIG, name="fig2"), CONFIG, "(name: 'fig2' there, 'fig1' here)"),
    "resumed": (fields(CONFIG, resumed_from={"step": 3}), CONFIG, "step: 3 there"),
    "config edited": (fields(CONFIG, False, data={}), CONFIG, "damaged or edited"),
    "notices": (fields(CONFIG, data={"notices": [1]}), CONFIG, "expected its data's source"),
    "no data": (fields(CONFIG, data=3), CONFIG, "expected its data's source"),
    "config not JSON": (raw(CONFIG, b"{"), CONFIG, "not valid JSON"),
    "config empty": (raw(CONFIG, b""), CONFIG, "not valid JSON"),
    "summary edited": (fields(SUMMARY, False, test_accuracy=0.9), SUMMARY, "damaged or edited"),
    "summary a list": (raw(SUMMARY, b"[]"), SUMMARY, "expected a run's summary"),
    "accuracy a text": (
        fields(SUMMARY, test_accuracy="1"),
        SUMMARY,
        "not what a run writes as test_accuracy",
    ),
    "accuracy NaN": (fields(SUMMARY, test_accuracy=math.nan), SUMMARY, "NaN is no JSON number"),
    "summary's backend": (fields(SUMMARY, backend="numpy"), SUMMARY, OTHER),
    "summary's seed": (fields(SUMMARY, seed=2), SUMMARY, OTHER),
    "summary's name": (fields(SUMMARY, experiment="fig2"), SUMMARY, OTHER),
    "too few steps": (fields(SUMMARY, steps=1400), SUMMARY, "expected 1500 steps, found 1400"),
    "too many steps": (fields(SUMMARY, steps=1501), SUMMARY, "expected 1500 steps, found 1501"),
    "no last line": (lines(lambda x: x.pop()), METRICS, INCOMPLETE),
    "no evaluation": (lines(lambda x: x.__delitem__(slice(1500, None))), METRICS, INCOMPLETE),
    "a step missing": (lines(lambda x: x.pop(700)), METRICS, INCOMPLETE),
    "a step twice": (lines(lambda x: x.insert(7, x[7])), METRICS, INCOMPLETE),
    "no metrics": (raw(METRICS, b""), METRICS, INCOMPLETE),
    "a loss missing": (record(3, "loss"), METRICS, INCOMPLETE),
    "a test loss missing": (record(-2, "test_loss"), METRICS, INCOMPLETE),
    "an absurd date": (record(-1, time=1e300), METRICS, INCOMPLETE),
    "half a line": (lines(lambda x: x.append(b'{"kind": "tr')), METRICS, "line 1511 or one before it"),
    "no line's end": (lines(lambda x: x.append(x.pop()[:-1])), METRICS, "line 1511 or one before it"),
    "another form": (lines(lambda x: x.insert(0, b" " + x.pop(0))), METRICS, "line 1511 or one before it"),
    "a foreign line": (lines(lambda x: x.insert(700, b"{}\n")), METRICS, "line 701 or one before it"),
    "no text": (lines(lambda x: x.insert(2, b"\xff\xfe\n")), METRICS, "line 3 or one before it"),
    "a loss of NaN": (record(3, loss=math.nan), METRICS, "line 4 or one before it"),
    "failure of another": (failed(backend="numpy"), FAILED, "expected the failure of fig1 jax seed 1"),
    "failure of a seed": (failed(seed=2), FAILED, "expected the failure of fig1 jax seed 1"),
    "failure of True": (failed(seed=True), FAILED, "expected the failure of fig1 jax seed 1"),
    "failure of a list": (failed(message=[]), FAILED, "expected the failure of fig1 jax seed 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_not_the_plans_is_neither_unpacked_nor_packed(
    case: str, good: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, where, said = CASES[case]
    files = dict(good)
    change(files)
    assert files != good
    path, root = tmp_path / "fig1.tar.xz", tmp_path / "root"
    path.write_bytes(archive.packed("fig1", {("jax", 1): files}))
    assert study(["unpack", "--from", str(tmp_path), "--root", str(root)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: fig1/jax-seed1/{where}: ")
    assert said in line
    assert [found.name for found in root.rglob("*")] == [".lock"]

    folder = root / "fig1" / "jax-seed1"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert study(["pack", "--out", str(tmp_path / "out"), "--root", str(root)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {folder}/{where}: ")
    assert said in line
    assert not (tmp_path / "out").exists()


def test_one_bad_archive_keeps_the_others_out(
    good: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All or nothing: whatever comes first."""
    (tmp_path / "fig1.tar.xz").write_bytes(archive.packed("fig1", {("jax", 1): good}))
    (tmp_path / "fig4.tar.xz").write_bytes(archive.packed("fig4", {("jax", 1): good}))
    root = tmp_path / "root"
    assert study(["unpack", "--from", str(tmp_path), "--root", str(root)]) == 2
    assert f"error: {tmp_path}/fig4.tar.xz: fig4/jax-seed1/config.json" in capsys.readouterr().err
    assert [found.name for found in root.rglob("*")] == [".lock"]
    assert study(["unpack", "fig1", "--from", str(tmp_path), "--root", str(root)]) == 0
    assert {path.name: path.read_bytes() for path in (root / "fig1/jax-seed1").iterdir()} == good


def test_a_run_that_stopped_early_needs_its_validation_accuracies(tmp_path: Path) -> None:
    folder = study_runs.finished(tmp_path / "a", "early-stopping", "jax", 0, 0.5, steps=1000)
    words = ["pack", "--root", str(tmp_path / "a"), "--out", str(tmp_path)]
    assert study(words) == 2
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for each in records:
        if each["kind"] == "eval":
            each["validation_accuracy"] = each["test_accuracy"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    assert study(words) == 0
    assert study(["unpack", "--from", str(tmp_path), "--root", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b/early-stopping/jax-seed0/summary.json").exists()


@pytest.mark.parametrize("metrics", [True, False])
def test_a_failed_run_comes_with_metrics_or_without(metrics: bool, good: Files, tmp_path: Path) -> None:
    files = dict(good)
    failed()(files)
    if not metrics:
        del files["metrics.jsonl"]
    (tmp_path / "fig1.tar.xz").write_bytes(archive.packed("fig1", {("jax", 1): files}))
    root = tmp_path / "root"
    assert study(["unpack", "--from", str(tmp_path), "--root", str(root)]) == 0
    assert {path.name: path.read_bytes() for path in (root / "fig1/jax-seed1").iterdir()} == files
    assert study(["pack", "--root", str(root), "--out", str(tmp_path / "out")]) == 0
    assert archive.read(tmp_path / "out/fig1.tar.xz", "fig1") == {("jax", 1): files}


def test_real_records_become_small(tmp_path: Path, rng: np.random.Generator) -> None:
    """Losses with float32's digits, as real runs have: at most 13 bytes a step."""
    folder = study_runs.finished(tmp_path, "fig1", "jax", 0, 0.46)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in lines[:1500]:
        record["loss"] = np.float32(rng.normal(2, 0.1)).item()
        record["accuracy"] = int(rng.integers(60, 120)) / 200
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    assert study(["pack", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/fig1.tar.xz").stat().st_size < 13 * 1500


def test_the_plans_longest_runs_stay_within_the_bounds() -> None:
    """A line of metrics takes about 110 bytes; every backend with three times the plan's seeds."""
    for name, planned in PLAN.items():
        size = 150 * planned.experiment.training.steps
        assert size < archive.MOST_FILE
        assert 3 * len(jobs([name], ["numpy", "jax", "torch"])) * size < archive.MOST_CONTENT


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pack", "--root", "nowhere"], "root nowhere: no finished run; train it"),
        (["pack", "fig1", "fig2"], "root runs/study: no finished run of fig2; train it"),
        (["pack", "figure1"], "no run is called 'figure1'"),
        (["unpack", "--from", "nowhere"], "from nowhere: found no NAME.tar.xz of any run; name the folder"),
        (["unpack", "fig1", "fig2"], "from docs/study-results: found no fig2.tar.xz; name the folder"),
        (["unpack", "fig5"], "docs/study-results/fig5.tar.xz: expected a file"),
        (["pack", "fig1", "--out", "file"], "cannot read or write file"),
    ],
)
def test_mistakes_are_named(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    study_runs.finished(Path("runs/study"), "fig1", "jax", 0, 0.46)
    assert study(["pack"]) == 0
    Path("file").touch()
    Path("runs/study/.lock").touch()
    Path("docs/study-results/fig5.tar.xz").mkdir()
    before = contents(tmp_path)
    capsys.readouterr()
    assert study(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert contents(tmp_path) == before
