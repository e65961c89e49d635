"""`triptych compare`: groups by seed, intervals, settings that differ, the page, and the end of a sweep."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import tiny
from tests.helpers.page import Page
from triptych.__main__ import main
from triptych.show import runs, side_by_side
from triptych.show.intervals import student, wilson
from triptych.show.wrapping import wrapped

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of one rate and one run of another, by NumPy."""
    root = tmp_path_factory.mktemp("compare")
    for seed in range(3):
        tiny.finished(root / f"low-{seed}", tiny.settings(seed=seed, learning_rate=1e-4))
    tiny.finished(root / "high", tiny.settings(learning_rate=1e-3, hidden=(5, 4)))
    return root


@pytest.mark.parametrize("width", [60, 80])
def test_the_text_fits_a_narrow_terminal(made, width, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(made.parent)
    comparison = runs.compare([Path(made.name)])
    text = side_by_side.text(comparison)
    assert wrapped(text, width) == text
    assert max(map(len, text.splitlines())) < width
    for group in comparison.groups:
        assert group.interval is not None
        assert "{:.4f} to {:.4f}".format(*group.interval) in text


def compare(capsys: Capture, *words: object) -> str:
    assert main(["compare", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_wilson_is_the_score_test_turned_round():
    """Its ends are the shares p at which |hits/n - p| is 1.96 of p's own standard error."""
    for hits, n in ((0, 10), (3, 10), (5207, 10_000), (10, 10)):
        for p in wilson(hits, n):
            assert abs(hits / n - p) == pytest.approx(
                1.959963984540054 * math.sqrt(p * (1 - p) / n), abs=1e-12
            )
        assert wilson(hits, n)[0] <= hits / n <= wilson(hits, n)[1]


def test_students_interval_is_the_textbooks():
    # t of 2 degrees of freedom at 97.5%: sqrt(2) * 0.95 / sqrt(1 - 0.95**2).
    t, values = math.sqrt(2) * 0.95 / math.sqrt(1 - 0.95**2), [0.1, 0.2, 0.6]
    half = t * np.std(values, ddof=1) / math.sqrt(3)
    assert student(values) == pytest.approx((0.3 - half, 0.3 + half), rel=1e-12)
    assert student([0.25, 0.25]) == (0.25, 0.25)


def test_runs_that_differ_by_seed_alone_are_one_group(made, tmp_path, capsys):
    said = compare(capsys, made, "--out", tmp_path / "out")
    comparison = runs.compare([made / "high", *sorted(made.glob("low-*"))])
    high, low = comparison.groups
    assert [one.seed for one in low.members] == [0, 1, 2]
    finals = [tiny.summary(one.path)["test_accuracy"] for one in low.members]
    assert low.accuracy == pytest.approx(np.mean(finals))
    assert low.interval == student(finals)
    assert low.by == "t, 3 seeds"
    final = tiny.summary(made / "high")["test_accuracy"]
    assert high.interval == wilson(round(100 * final), 100)
    assert high.by == "Wilson, 100 images"
    differing = {"hidden": ("5 4", "6"), "learning_rate": ("0.001", "0.0001")}
    assert comparison.differing == differing
    table = said.partition("page:")[0]
    for name, values in differing.items():
        assert any(line.split() == [name, *" ".join(values).split()] for line in table.splitlines())
    for group in comparison.groups:
        assert group.interval is not None
        assert (
            f"{group.accuracy:.4f}  {group.interval[0]:.4f} to {group.interval[1]:.4f}  {group.by}" in table
        )


def test_curves_are_the_means_of_the_runs(made):
    (low,) = runs.compare(sorted(made.glob("low-*"))).groups
    steps, found = low.curves()
    assert steps.tolist() == [4, 8, 12]
    records = [tiny.metrics(one.path, "eval") for one in low.members]
    wanted = [[record["test_loss"] for record in own] for own in records]
    assert found["test_loss"].tolist() == wanted


def test_the_page_stands_alone_and_names_every_run(made, tmp_path, capsys):
    compare(capsys, made, "--out", tmp_path)
    page = Page((tmp_path / "compare.html").read_text())
    assert page.foreign == []
    for one in ("high", "low-0", "low-1", "low-2"):
        final = tiny.summary(made / one)["test_accuracy"]
        assert any(row[-1] == str(made / one) and row[-2] == f"{final:.4f}" for row in page.rows)
    assert ["hidden", "5 4", "6"] in page.rows
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_given_twice_or_repeated_counts_once(made, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(made / "low-0", again)
    comparison = runs.compare([made / "low-0", made / "low-0", again, made / "low-1"])
    assert [one.path for one in comparison.groups[0].members] == [made / "low-0", made / "low-1"]
    assert comparison.notices == (f"{again} repeats {made / 'low-0'}, seed 0 and all, and is left out",)
    assert comparison.differing == {}
    assert "no setting differs but the seed" in side_by_side.text(comparison)


def test_an_unfinished_run_counts_by_its_last_evaluation(made, tmp_path):
    begun = tiny.rewind(made / "high", tmp_path / "begun", 8)
    lines = (begun / "metrics.jsonl").read_text().splitlines(keepends=True)
    (begun / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 8))
    comparison = runs.compare([begun, made / "low-0"])
    group = comparison.groups[0]
    assert group.accuracy == tiny.metrics(made / "high", "eval")[1]["test_accuracy"]
    assert (group.interval, group.by) == (None, "run not finished")
    assert comparison.notices == (f"{begun} is not finished: it counts by its last evaluation",)
    assert "run not finished" in side_by_side.text(comparison)


def test_in_a_folder_of_runs_one_without_an_evaluation_is_left_out(made, tmp_path, capsys):
    """Such as a sweep's rate that was too large."""
    for name in ("low-0", "high"):
        shutil.copytree(made / name, tmp_path / "all" / name)
    failed = tmp_path / "all" / "high"
    (failed / "metrics.jsonl").write_text("")
    assert main(["compare", str(tmp_path / "all")]) == 2
    said = f"{failed} was not evaluated yet and is left out"
    assert f"expected two runs or more to compare, got 1 ({said})" in capsys.readouterr().err
    shutil.copytree(made / "low-1", tmp_path / "all" / "low-1")
    assert f"notice: {said}" in compare(capsys, tmp_path / "all", "--out", tmp_path)
    for name in ("low-0", "low-1"):
        (tmp_path / "all" / name / "metrics.jsonl").write_text("")
    assert main(["compare", str(tmp_path / "all")]) == 2
    assert "got 0 (" in capsys.readouterr().err


def test_many_groups_become_rows(made, tmp_path):
    paths = []
    for place in range(9):
        path = tmp_path / str(place)
        tiny.finished(path, tiny.settings(learning_rate=(place + 1) / 1e5, steps=1))
        paths.append(path)
    said = side_by_side.text(runs.compare(paths))
    assert [line.split() for line in said.splitlines()[-9:]][8] == ["I", "9e-05"]


def test_a_sweep_ends_with_its_comparison(tmp_path, monkeypatch, capsys):
    tiny.install(monkeypatch.setattr)
    words = ["--backend", "numpy", *tiny.arguments(), "--sweep", "learning_rate=1e-3,1e-4", "seed=0,1"]
    assert tiny.call(*words, "--run-dir", str(tmp_path / "sweep")) == 0
    said = capsys.readouterr().out
    assert "learning_rate  0.001  0.0001" in said
    assert said.rstrip().endswith(f"the runs side by side: {tmp_path / 'sweep' / 'compare.html'}")
    assert main(["compare", str(tmp_path / "sweep"), "--out", str(tmp_path)]) == 0
    assert "t, 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "expected the folders of the runs to compare"),
        ("high", "expected two runs or more to compare, got 1; name another"),
        ("high nowhere", "expected a run's folder, or a folder of them, found neither at nowhere"),
        ("high file", "found neither at file"),
        ("high begun", "begun: not evaluated yet"),
        ("high damaged", "damaged/predictions.npy: not a run's predictions"),
        ("high low-0 --out file/below", "cannot read or write"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(made, tmp_path, monkeypatch, capsys, words, said):
    for name in ("high", "low-0"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copytree(made / "low-1", tmp_path / "begun")
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    shutil.copytree(made / "low-1", tmp_path / "damaged")
    (tmp_path / "damaged" / "predictions.npy").write_bytes(b"no")
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
