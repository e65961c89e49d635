"""What a folder, a disk or a second process may do to a run: it is refused whole, or goes on bit for bit."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from tests.helpers import tiny
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.run_dir import RunDirectory
from triptych.store.run_lock import NAME, RunLocks

pytestmark = pytest.mark.usefixtures("machine")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run as of step 8 of 12, with the checkpoints of steps 0, 4 and 8."""
    whole = tmp_path / "whole"
    tiny.launch(whole, tiny.settings(), keep_checkpoints=9)
    return tiny.rewind(whole, tmp_path / "stopped", 8)


def refused(folder: Path, words: str, **options: Any) -> None:
    """Launching there raises UserError with these words and changes nothing but who held the lock last."""
    before = tiny.contents(folder)
    with pytest.raises(UserError, match=words):
        tiny.launch(folder, tiny.settings(), **options)
    after = tiny.contents(folder)
    before.pop(NAME, None), after.pop(NAME, None)
    assert before == after


ERRORS = (errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE)


@pytest.mark.parametrize("name", ["step-00000008.safetensors", "metrics.jsonl", "config.json"])
def test_what_the_system_refuses_to_read_is_no_damage(stopped: Path, name: str) -> None:
    original = os.open
    for number in ERRORS:

        def failing(path: Any, flags: int, *rest: Any, number: int = number, **named: Any) -> int:
            if Path(path).name == name and flags & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(number, os.strerror(number), str(path))
            return original(path, flags, *rest, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", failing)
            refused(stopped, f"{name}: cannot be read now .{os.strerror(number)}")
    assert tiny.launch(stopped, tiny.settings()) == 0
    assert tiny.results(stopped) == tiny.results(stopped.parent / "whole")


def newer(path: Path) -> None:
    tensors, metadata = checkpoint.read_tensors(path, checkpoint.FORMAT)[::-1]
    path.write_bytes(safetensors.numpy.save(tensors, metadata | {"format": "triptych-checkpoint-2"}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (newer, "expected format triptych-checkpoint-1, found triptych-checkpoint-2"),
        (cut, "none of its checkpoints is whole; put one back, or start anew with --overwrite"),
        (emptied, "none of its checkpoints is whole"),
        (tiny.flip, "none of its checkpoints is whole"),
    ],
)
def test_a_run_whose_checkpoints_cannot_be_used_is_not_begun_anew(
    stopped: Path, change: Callable[[Path], None], words: str
) -> None:
    for _, path in checkpoint.listing(stopped / "checkpoints"):
        change(path)
    refused(stopped, words)


def test_a_newer_format_is_not_passed_over_for_an_older_checkpoint(stopped: Path) -> None:
    newer(stopped / "checkpoints" / "step-00000008.safetensors")
    refused(stopped, "read it by the version that wrote it")


WRITTEN = (NAME, "metrics.jsonl", "metrics.jsonl.tmp", "summary.json.tmp", "predictions.npy.tmp")
LINKS = (*WRITTEN, "curves.png.tmp", "config.json", "preprocessing.safetensors", "checkpoints", "tensorboard")


@pytest.mark.parametrize("name", LINKS)
def test_nothing_is_read_or_written_through_a_link(stopped: Path, tmp_path: Path, name: str) -> None:
    outside, link = tmp_path / "outside", stopped / name
    if link.is_dir() or link.exists():
        link.rename(outside)
    elif name == "tensorboard":
        outside.mkdir()
    else:
        outside.write_bytes(b"keep")
    link.symlink_to(outside)
    before = tiny.contents(outside) if outside.is_dir() else outside.read_bytes()
    with pytest.raises(UserError, match=f"{name}: is a link"):
        tiny.launch(stopped, tiny.settings())
    assert (tiny.contents(outside) if outside.is_dir() else outside.read_bytes()) == before


def test_a_link_that_comes_later_is_not_followed(stopped: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"keep")
    folder = RunDirectory(stopped)
    folder.summary.with_name("summary.json.tmp").symlink_to(outside)
    folder.write(folder.summary, b"{}")
    folder.metrics.unlink()
    folder.metrics.symlink_to(outside)
    with pytest.raises(UserError, match=r"metrics.jsonl: is a link"):
        folder.append_metrics([{"kind": "train", "step": 1}])
    assert outside.read_bytes() == b"keep"
    assert folder.summary.read_bytes() == b"{}"
    assert not folder.summary.is_symlink()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/step-00000008.safetensors"])
def test_a_pipe_does_not_hang_the_reader(stopped: Path, name: str) -> None:
    path = stopped / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"expected a plain file, found a folder, a pipe or a device"):
        tiny.launch(stopped, tiny.settings())


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replaced(folder: Path) -> None:
    shutil.copytree(folder, copy := folder.with_name("copy"))
    shutil.rmtree(folder)
    copy.rename(folder)


def unlocked(folder: Path) -> None:
    (folder / NAME).unlink()


@pytest.mark.parametrize("change", [moved, replaced, unlocked])
def test_a_run_stops_where_its_folder_is_no_longer_its_own(
    stopped: Path, change: Callable[[Path], None]
) -> None:
    with RunLocks() as locks:
        locks.take(stopped)
        folder = RunDirectory(stopped)
        folder.create(folder.read_config(), locks)
        folder.append_metrics([])
        change(stopped)
        there = tiny.contents(stopped) if stopped.exists() else None
        state, record = tiny.newest(stopped.parent / "whole"), {"kind": "train", "step": 9}
        for write in (
            lambda: folder.append_metrics([record]),
            lambda: folder.restart_metrics([record]),
            lambda: folder.save(state),
            lambda: folder.write_summary({}),
        ):
            with pytest.raises(UserError, match="was moved, deleted or replaced"):
                write()
        assert (tiny.contents(stopped) if stopped.exists() else None) == there


def test_a_checkpoint_of_another_run_is_refused(stopped: Path, tmp_path: Path) -> None:
    other = tmp_path / "seed 5"
    tiny.launch(other, tiny.settings(seed=5), keep_checkpoints=9)
    for _, path in checkpoint.listing(stopped / "checkpoints"):
        path.unlink()
    shutil.copy(other / "checkpoints" / "step-00000000.safetensors", stopped / "checkpoints")
    refused(stopped, "its checkpoint was saved by a run of other settings")


def test_other_threads_are_told(stopped: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "977")
    tiny.launch(stopped, tiny.settings())
    said = " ".join(capsys.readouterr().out.split())
    assert "and this process has" in said
    assert "OMP_NUM_THREADS=977" in said
    assert "sums may round otherwise" in said


def test_overwrite_spares_what_is_no_run_and_what_is_resumed(stopped: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "checkpoints").mkdir(parents=True)
    (foreign / "checkpoints" / "mine.bin").write_bytes(b"mine")
    (foreign / "config.json").write_text('{"mine": true}')
    refused(foreign, "expected a run's config", overwrite=True)
    before = tiny.contents(stopped)
    assert tiny.call(*f"--resume {stopped} --run-dir {stopped} --overwrite --steps 20".split()) == 2
    assert tiny.contents(stopped) == before
