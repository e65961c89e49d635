"""Every write, fsync, rename, ... of a run failed in turn, and a run folder that is read-only or deleted.

The faults are put in at Python's border with the operating system, for paths within the run's folder.
ENOSPC lasts from its moment on, as a full disk does, for everything that needs room; EIO strikes once.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.helpers import tiny
from tools.soak.compare import differences, everything
from tools.soak.report import Report
from triptych.store import checkpoint

CALLS = ("open", "write", "close", "fsync", "replace", "mkdir", "unlink")
NEED_ROOM = ("open", "write", "close", "fsync", "mkdir")
"""What a full disk refuses: removing works, and so does renaming within a folder."""
SETTINGS = {"momentum": 0.9, "steps": 5, "eval_every": 2}


class Faults:
    """Counts the calls that touch the folder, and lets `at` decide what happens at each."""

    def __init__(self, folder: Path, at: Callable[[int, str], None]) -> None:
        self.folder, self.at = str(folder), at
        self.calls: list[str] = []
        self.handles: set[int] = set()
        self.real: dict[str, Any] = {name: getattr(os, name) for name in CALLS}
        self.real_open = builtins.open

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in CALLS:
                stack.enter_context(mock.patch.object(os, name, self._wrapped(name)))
            stack.enter_context(mock.patch.object(builtins, "open", self._open))
            yield

    def meet(self, name: str) -> None:
        """A call of this name is about to be made; raises what is to go wrong."""
        self.calls.append(name)
        self.at(len(self.calls), name)

    def _ours(self, target: object) -> bool:
        if isinstance(target, int):
            return target in self.handles
        return isinstance(target, str | os.PathLike) and os.fspath(target).startswith(self.folder)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(target: Any, *rest: Any, **keywords: Any) -> Any:
            if not self._ours(target):
                return self.real[name](target, *rest, **keywords)
            if name == "close":  # whatever it says, the handle is gone
                self.handles.discard(target)
                self.real[name](target)
                return self.meet(name)
            self.meet(name)
            result = self.real[name](target, *rest, **keywords)
            if name == "open":
                self.handles.add(result)
            return result

        return call

    def _open(self, target: Any, mode: str = "r", *rest: Any, **keywords: Any) -> Any:
        if not self._ours(target) or not set(mode) & set("wax+"):
            return self.real_open(target, mode, *rest, **keywords)
        self.meet("open")
        return File(self.real_open(target, mode, *rest, **keywords), self)


class File:
    """A file open for writing, each of whose calls may fail; a failing write has written a half."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults
        faults.handles.add(file.fileno())

    def write(self, content: Any) -> int:
        try:
            self.faults.meet("write")
        except OSError:
            self.file.write(content[: len(content) // 2])
            raise
        return int(self.file.write(content))

    def __enter__(self) -> File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.faults.handles.discard(self.file.fileno())
        self.file.close()
        self.faults.meet("close")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


def run(folder: Path, backend: str = "numpy", every: int = 1) -> Report:
    """All faults of one backend's run; `every` n-th moment only, for a short form."""
    report = Report("faults")
    tiny.install(setattr)
    folder.mkdir(parents=True)
    whole = folder / "whole"
    counted = Faults(whole, lambda number, name: None)
    with counted.installed():
        code, text = _command(whole, backend)
    if code != 0:
        raise AssertionError(text)
    expected = everything(whole)
    report.figures["calls of the system in a run"] = len(counted.calls)
    for kind in KINDS:
        for moment in range(1, len(counted.calls) + 1, every):
            place = folder / f"{kind} {moment}"
            _fault(kind, moment, place, backend, expected, report)
            shutil.rmtree(place, ignore_errors=True)
    return report


def _raise(number: int) -> None:
    raise OSError(number, os.strerror(number))


def _full(moment: int, place: Path) -> Callable[[int, str], None]:
    return lambda number, name: _raise(errno.ENOSPC) if number >= moment and name in NEED_ROOM else None


def _broken(moment: int, place: Path) -> Callable[[int, str], None]:
    return lambda number, name: _raise(errno.EIO) if number == moment else None


def _read_only(moment: int, place: Path) -> Callable[[int, str], None]:
    return lambda number, name: _raise(errno.EROFS) if number >= moment and name != "close" else None


def _deleted(moment: int, place: Path) -> Callable[[int, str], None]:
    return lambda number, name: shutil.rmtree(place, ignore_errors=True) if number == moment else None


KINDS: dict[str, Callable[[int, Path], Callable[[int, str], None]]] = {
    "ENOSPC": _full,
    "EIO": _broken,
    "read-only": _read_only,
    "deleted": _deleted,
}


def _fault(
    kind: str, moment: int, place: Path, backend: str, expected: dict[str, Any], report: Report
) -> None:
    faults = Faults(place, KINDS[kind](moment, place))
    with faults.installed():
        code, text = _command(place, backend)
    report.count(f"{kind}: faults")
    report.count(f"{kind}: run ended all the same", code == 0)
    name = f"{kind} at call {moment} ({faults.calls[moment - 1] if len(faults.calls) >= moment else 'none'})"
    if code not in (0, 2):
        report.found(f"{name}: exit code {code}: {text!r}")
    if code == 2 and not (text.startswith("error: ") and text.count("\n") == 1):
        report.found(f"{name}: not one line: {text!r}")
    _, damaged = checkpoint.load_latest(place / "checkpoints")
    if damaged:
        report.found(f"{name}: {damaged}")
    code, text = _command(place, backend)
    for what in [f"exit code {code}: {text!r}"] if code else differences(place, expected):
        report.found(f"{name}: repeated: {what}")


def _command(folder: Path, backend: str) -> tuple[int, str]:
    """Exit code and standard error of the run's command; a traceback is what it would print."""
    where = ("--backend", backend, "--run-dir", str(folder), "--checkpoint-every", "1")
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = tiny.call(*where, *tiny.arguments(**SETTINGS))
        except Exception as error:
            return 1, f"Traceback: {error!r}"
    return code, errors.getvalue()
