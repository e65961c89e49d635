"""Two processes on one run folder: the second is refused, and a killed one leaves no obstacle."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import tiny
from triptych.errors import UserError
from triptych.store.run_dir import RunDirectory
from triptych.store.run_lock import RunLocks

HOLD = """
import sys, pathlib
from triptych.store.run_lock import RunLocks
with RunLocks() as locks:
    locks.take(pathlib.Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()
"""
pytestmark = pytest.mark.usefixtures("machine")


@contextlib.contextmanager
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", HOLD, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=tiny.ROOT, text=True, stdin=pipe, stdout=pipe) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "held\n"
        yield it
        it.kill()


def test_a_second_process_is_refused_and_changes_nothing(tmp_path, capsys):
    tiny.launch(tmp_path / "whole", tiny.settings(), keep_checkpoints=9)
    folder = tiny.rewind(tmp_path / "whole", tmp_path / "run", 4)
    words = ("--backend", "numpy", "--run-dir", str(folder), *tiny.arguments())
    with holder(folder) as first:
        before = tiny.contents(folder)
        capsys.readouterr()
        for more in ((), ("--overwrite",)):
            assert tiny.call(*words, *more) == 2
            text = capsys.readouterr().err
            assert text.startswith(f"error: run_dir {folder}: another process is at work in it")
            assert f"process {first.pid} on " in text
            assert text.count("\n") == 1
        assert tiny.contents(folder) == before
        assert tiny.call(*words, "--dry-run") == 0, "looking is allowed"
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert tiny.call(*words) == 0, "the lock is gone with the process that held it"
    assert tiny.results(folder) == tiny.results(tmp_path / "whole")


def test_a_finished_run_reports_while_another_process_holds_it(tmp_path, capsys):
    tiny.launch(tmp_path / "run", tiny.settings())
    with holder(tmp_path / "run"):
        assert tiny.launch(tmp_path / "run", tiny.settings()) == 0
    assert "already finished" in capsys.readouterr().out


def test_a_run_holds_its_folder_from_before_it_reads_it_to_its_end(tmp_path, monkeypatch):
    """Both a new folder and one that is gone on with; afterwards it is free."""
    seen = []
    append = RunDirectory.append_metrics

    def look(self: RunDirectory, records: object) -> None:
        with RunLocks() as second, pytest.raises(UserError, match="another process is at work"):
            second.take(self.path)
        seen.append(self.path)
        append(self, records)  # type: ignore[arg-type]

    monkeypatch.setattr(RunDirectory, "append_metrics", look)
    tiny.launch(tmp_path / "run", tiny.settings(), keep_checkpoints=9)
    assert len(seen) > 3
    del seen[:]
    folder = tiny.rewind(tmp_path / "run", tmp_path / "again", 4)
    tiny.launch(folder, tiny.settings())
    assert len(seen) > 2
    with RunLocks() as locks:
        assert locks.take(folder)
        assert not locks.take(folder), "held already"


def test_a_folder_that_another_process_made_meanwhile_is_refused(tmp_path):
    """Neither saw the other at the first look; the later one must not start over what the first has done."""
    tiny.launch(tmp_path / "run", tiny.settings())
    late = RunDirectory(tmp_path / "run")
    before = tiny.contents(tmp_path)
    with RunLocks() as locks, pytest.raises(UserError, match="another process made it just now"):
        late.create(late.read_config(), locks)
    assert tiny.contents(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_worked_on(tmp_path, monkeypatch, capsys, number):
    def none(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", none)
    tiny.launch(tmp_path / "run", tiny.settings(), keep_checkpoints=9)
    folder = tiny.rewind(tmp_path / "run", tmp_path / "again", 4)
    assert tiny.launch(folder, tiny.settings()) == 0
    assert tiny.results(folder) == tiny.results(tmp_path / "run")
    text = capsys.readouterr().err
    assert text.count("file system without locks") == 2, "once for each of the two commands"
