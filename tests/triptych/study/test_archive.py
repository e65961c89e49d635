"""`pack` and `unpack`: the same bytes there and back, nothing overwritten, in part or trained twice."""

from __future__ import annotations

import fcntl
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.helpers import study_runs, tiny, tiny_study
from triptych.study import archive
from triptych.study.__main__ import main as study

TRAINED = ("fig1", "table1-a", "wild")
"""Of the tiny study: two runs, one, and one that stops being finite."""
FOLDERS = {"fig1/numpy-seed0", "fig1/numpy-seed1", "table1-a/numpy-seed0", "wild/numpy-seed0"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        tiny_study.install(patch.setattr)
        assert tiny_study.call(root, *TRAINED) == 3
    return root


@pytest.fixture(scope="module")
def published(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "deep"
    with pytest.MonkeyPatch.context() as patch:
        tiny_study.install(patch.setattr)
        assert study(["pack", "--root", str(trained), "--out", str(out)]) == 0
    return out


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_study.install(monkeypatch.setattr)


def unpack(source: Path, root: Path, *names: str) -> int:
    return study(["unpack", *names, "--from", str(source), "--root", str(root)])


def pack(root: Path, out: Path, *names: str) -> int:
    return study(["pack", *names, "--root", str(root), "--out", str(out)])


def files(root: Path) -> dict[str, bytes]:
    """All files below a root but its lock, by their paths there."""
    found = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(found)}


def kept(root: Path) -> dict[str, bytes]:
    """Those that an archive holds."""
    return {path: content for path, content in files(root).items() if Path(path).name in archive.FILES}


# --- there and back ------------------------------------------------------------------------------


def test_the_same_bytes_come_back_and_nothing_else(
    machine: None, trained: Path, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {path.name for path in published.iterdir()} == {f"{name}.tar.xz" for name in TRAINED}
    assert unpack(published, tmp_path) == 0
    assert files(tmp_path) == kept(trained)
    assert {str(Path(path).parent) for path in files(tmp_path)} == FOLDERS
    assert sorted(path.name for path in (tmp_path / "wild/numpy-seed0").iterdir()) == [
        "config.json", "failed.json", "metrics.jsonl",
    ]  # fmt: skip
    assert capsys.readouterr().out == "fig1: 2 unpacked\ntable1-a: 1 unpacked\nwild: 1 unpacked\n"


def test_ordinary_tools_read_an_archive(published: Path, trained: Path) -> None:
    with tarfile.open(published / "fig1.tar.xz") as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in tar.getmembers()} == {
            (0, 0, 0, "", 0o644)
        }
    assert content == {path: data for path, data in kept(trained).items() if path.startswith("fig1/")}


def test_unpacked_runs_are_finished_for_list_and_run(
    machine: None,
    trained: Path,
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert unpack(published, tmp_path) == 0
    capsys.readouterr()
    shown = []
    for root in (trained, tmp_path):
        study(["list", "--root", str(root)])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert "numpy 2" in shown[1]
    taken = tiny_study.count_steps(monkeypatch)
    assert tiny_study.call(tmp_path, *TRAINED) == 3
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2].partition(",")[0] for line in said] == [
        "finished before", "finished before", "finished before",
        "stopped being finite before; --retry trains it again",
    ]  # fmt: skip
    assert taken == []
    # What is not there is trained: another seed, and nothing of the others.
    assert tiny_study.call(tmp_path, "fig1", "--seeds", "3") == 0
    assert sum(taken) == 12
    assert kept(trained).items() <= files(tmp_path).items()


def test_a_failed_run_can_be_tried_again_after_unpacking(
    machine: None, trained: Path, published: Path, tmp_path: Path
) -> None:
    assert unpack(published, tmp_path, "wild") == 0
    assert tiny_study.call(tmp_path, "wild", "--retry") == 3
    again = json.loads((tmp_path / "wild/numpy-seed0/failed.json").read_text())
    assert again == json.loads((trained / "wild/numpy-seed0/failed.json").read_text())


def test_the_page_of_unpacked_runs_is_that_of_the_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for seed in range(2):
        study_runs.finished(first, "fig1", "jax", seed, 0.45 + seed / 100, best_step=1000 + seed)
    failed = study_runs.begun(first, "adam", "jax", 2)
    (failed / "failed.json").write_text('{"backend": "jax", "seed": 2, "message": "at step 7"}')
    assert pack(first, tmp_path / "out") == 0
    assert unpack(tmp_path / "out", second) == 0
    pages = []
    for root in (first, second):
        assert study(["report", "--root", str(root)]) == 0
        pages.append((root / "page" / "study.md").read_text().replace(str(root), "ROOT"))
    assert pages[0] == pages[1]
    assert "0.4550" in pages[1]
    assert "Runs: 2 finished, 1 failed" in pages[1]


def test_floats_survive_to_the_last_bit(tmp_path: Path) -> None:
    folder = study_runs.finished(tmp_path / "a", "fig1", "jax", 0, 0.1 + 0.2)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    odd = [5e-324, 1.7976931348623157e308, 0.1 + 0.2, 1 / 3, -0.0, 2.3026556968688965]
    for number, value in enumerate(odd):
        lines[number] = json.dumps(json.loads(lines[number]) | {"loss": value})
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert pack(tmp_path / "a", tmp_path / "out") == 0
    assert unpack(tmp_path / "out", tmp_path / "b") == 0
    assert files(tmp_path / "b") == files(tmp_path / "a")
    read = (tmp_path / "b/fig1/jax-seed0/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"].hex() for line in read[: len(odd)]] == [value.hex() for value in odd]


# --- the same file for the same runs -------------------------------------------------------------


def test_the_same_runs_give_the_same_bytes(
    machine: None, published: Path, trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for folder in sorted(FOLDERS, reverse=True):  # another order, other dates, other rights
        shutil.copytree(trained / folder, other / folder)
        for path in (other / folder).iterdir():
            path.chmod(0o600)
            os.utime(path, (10**9, 10**9))
    assert pack(other, tmp_path / "out") == 0
    assert files(tmp_path / "out") == files(published)
    runs = archive.read(published / "fig1.tar.xz", "fig1")
    assert archive.packed("fig1", dict(reversed(runs.items()))) == archive.packed("fig1", runs)


def test_packing_again_writes_nothing(
    machine: None, trained: Path, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(published, out)
    # As another version of xz might have written it.
    path = out / "fig1.tar.xz"
    path.write_bytes(lzma.compress(lzma.decompress(path.read_bytes()), preset=0))
    before = files(out)
    assert pack(trained, out) == 0
    assert files(out) == before
    assert files(out) != files(published)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: 2 runs, {path.stat().st_size:,} bytes, unchanged"
    assert len(lines) == 3


def test_new_runs_are_added_and_no_published_run_is_lost(
    machine: None, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, root = tmp_path / "out", tmp_path / "root"
    shutil.copytree(published, out)
    assert tiny_study.call(root, "table1-b", "fig1", "--seeds", "1") == 0
    assert pack(root, out, "table1-b") == 0
    assert pack(root, out, "fig1") == 2
    assert "fig1.tar.xz: holds numpy-seed1, not finished under" in capsys.readouterr().err
    assert (out / "fig1.tar.xz").read_bytes() == (published / "fig1.tar.xz").read_bytes()
    assert unpack(out, root) == 0
    assert pack(root, out) == 0
    assert {path.name for path in out.iterdir()} == {f"{name}.tar.xz" for name in (*TRAINED, "table1-b")}
    # Nor one that was finished and is not any more.
    run = root / "fig1/numpy-seed1"
    (run / "summary.json").unlink()
    (run / "failed.json").write_text('{"backend": "numpy", "seed": 1, "message": "at step 7"}')
    assert pack(root, out, "fig1") == 2


def test_unfinished_runs_and_other_folders_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    study_runs.finished(root, "fig1", "jax", 0, 0.46)
    study_runs.begun(root, "fig1", "jax", 1)
    shutil.copytree(root / "fig1/jax-seed0", root / "fig1/jax-seed0-old")
    assert pack(root, tmp_path / "out") == 0
    assert list(archive.read(tmp_path / "out/fig1.tar.xz", "fig1")) == [("jax", 0)]


# --- what is there stays, and an interrupted unpack leaves nothing in part -----------------------


def test_what_is_there_is_passed_over(
    machine: None, trained: Path, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "fig1/numpy-seed1"
    own.mkdir(parents=True)
    (own / "config.json").write_text("begun here")
    (tmp_path / "table1-a").mkdir()
    (tmp_path / "table1-a/numpy-seed0").symlink_to(tmp_path / "nowhere")
    assert unpack(published, tmp_path) == 0
    assert capsys.readouterr().out.splitlines() == [
        "fig1: 1 unpacked; there already, passed over: numpy-seed1 (not finished)",
        "table1-a: 0 unpacked; there already, passed over: numpy-seed0 (not finished)",
        "wild: 1 unpacked",
    ]
    assert [path.name for path in own.iterdir()] == ["config.json"]
    assert (own / "config.json").read_text() == "begun here"
    assert not (tmp_path / "nowhere").exists()
    assert kept(tmp_path / "fig1/numpy-seed0") == kept(trained / "fig1/numpy-seed0")
    before = files(tmp_path)
    assert unpack(published, tmp_path) == 0
    assert "wild: 0 unpacked; there already, passed over: numpy-seed0\n" in capsys.readouterr().out
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("moment", "whole"),
    # Twelve files are written, each by a replacement, then four folders are moved.
    [
        ("SIGKILL:replace:1", 0),
        ("SIGKILL:replace:12", 0),
        ("SIGKILL:replace:15", 2),
        ("SIGTERM:replace:15", 2),
    ],
)
def test_killed_anywhere_it_leaves_whole_runs_and_goes_on(
    machine: None, trained: Path, published: Path, tmp_path: Path, moment: str, whole: int
) -> None:
    words = [sys.executable, "-W", "error", "-m", "tests.helpers.tiny_study", moment, "unpack"]
    words += ["--from", str(published), "--root", str(tmp_path)]
    ended = subprocess.run(words, cwd=tiny.ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == (143 if "TERM" in moment else -signal.SIGKILL), ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / ".unpacking").exists() == ("KILL" in moment)
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*-seed*")} & FOLDERS
    assert len(there) == whole
    for folder in there:
        assert kept(tmp_path / folder) == kept(trained / folder)
    assert unpack(published, tmp_path) == 0
    assert files(tmp_path) == kept(trained)


def test_it_waits_for_no_other_command(
    machine: None, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert unpack(published, tmp_path) == 2
    assert "another `triptych study` command is at work there" in capsys.readouterr().err
    assert files(tmp_path) == {}
