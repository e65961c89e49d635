"""Spoilt and hostile input of every kind, in processes that watch what reading it does.

Each input ends as a value or as UserError. Anything else is a finding: another exception, a program or a
file outside the folder touched (an audit hook sees it), memory beyond the limit, no end, or a dead process.
"""

from __future__ import annotations

import math
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tools.soak.report import Report
from tools.soak.targets import Target, targets
from triptych.errors import UserError

MEMORY = 2**30
"""Bytes that reading may take beyond what the process has when it starts to."""
LONGEST = 20
"""Seconds for one input."""
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class")
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
)


class Watch:
    """An audit hook on this process: programs started, code loaded, sockets, files changed elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.on = str(folder), False
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in EXECUTES or event.startswith("socket."):
            self.seen.append(f"{event}{arguments!r}"[:200])
        elif (
            event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ) or event in CHANGES:
            self._file(event, arguments[0])

    def _file(self, event: str, path: Any) -> None:
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else self.folder
        if not os.path.realpath(name).startswith(self.folder) and name != os.devnull:
            self.seen.append(f"{event}({name!r})"[:200])


class TooLong(BaseException):
    """One input took longer than it may."""


def run(count: int, folder: Path, seed: int) -> Report:
    """`count` inputs over all kinds."""
    report = Report("mutate")
    folder = folder.resolve()
    folder.mkdir(parents=True)
    for name in TOTALS:
        report.count(name, 0)
    kinds = targets(folder)
    total = sum(kind.share for kind in kinds)
    for kind in kinds:
        _kind(kind, max(math.ceil(count * kind.share / total), len(kind.seeds)), folder, seed, report)
    report.figures["inputs"] = sum(
        value for name, value in report.figures.items() if name.endswith(": inputs")
    )
    return report


TOTALS = (
    "tracebacks",
    "code executed",
    "files touched elsewhere",
    "out of memory",
    "dead processes",
    "too slow",
    "flipped bits",
    "flipped bits undetected",
    "peak memory above the start, MiB",
)


def _kind(kind: Target, count: int, folder: Path, seed: int, report: Report) -> None:
    """All inputs of one kind: a child works through them, and another goes on where one died."""
    progress, first = mmap.mmap(-1, 8), 0
    start = time.monotonic()
    while first < count:
        reading, writing = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be_the_child(kind, range(first, count), folder, seed, progress, writing)
        os.close(writing)
        with os.fdopen(reading, errors="replace") as pipe:
            lines = pipe.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        _take(kind, lines, report)
        if code == 0:
            break
        first = int.from_bytes(progress[:8], "little") + 1
        report.count("dead processes")
        report.found(f"{kind.name} number {first - 1}: the process died with {code}")
    report.figures[f"{kind.name}: inputs"] = count
    report.figures[f"{kind.name}: inputs/s"] = round(count / (time.monotonic() - start))


def _take(kind: Target, lines: list[str], report: Report) -> None:
    for line in lines:
        figure, _, rest = line.partition("\t")
        if figure == "count":
            name, number = rest.split("\t")
            report.count(name, int(number))
        elif figure == "peak":
            name = "peak memory above the start, MiB"
            report.figures[name] = max(report.figures[name], int(rest))
        else:
            report.count(figure)
            report.found(f"{kind.name} {rest}")


def _be_the_child(
    kind: Target, numbers: range, folder: Path, seed: int, progress: mmap.mmap, pipe: int
) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        _limit()
        with os.fdopen(pipe, "w", errors="backslashreplace") as out:
            Reader(kind, folder, seed, progress).work(numbers, out)
        code = 0
    except BaseException:
        text = traceback.format_exc().replace("\n", " | ")
        os.write(pipe, b"tracebacks\t" + text.encode()[-400:] + b"\n")
    finally:
        os._exit(code)


def _size(field: int) -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[field]) * resource.getpagesize()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if Path("/proc/self/statm").exists():
        resource.setrlimit(resource.RLIMIT_AS, (_size(0) + MEMORY, _size(0) + MEMORY))

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)


class Reader:
    """Reads input after input and says what was wrong."""

    def __init__(self, kind: Target, folder: Path, seed: int, progress: mmap.mmap) -> None:
        self.kind, self.seed, self.progress = kind, seed, progress
        self.watch, self.canary = Watch(folder), folder / "canary"
        self.counts: Counter[str] = Counter()

    def work(self, numbers: range, out: Any) -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in numbers:
            self.progress[:8] = number.to_bytes(8, "little")
            content, flipped = self.kind.input(number, self.seed)
            for figure, what in self._read(content, flipped):
                out.write(f"{figure}\tnumber {number}: {what}\n".replace("\n", " ").rstrip() + "\n")
                out.flush()
        for name, value in self.counts.items():
            out.write(f"count\t{name}\t{value}\n")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        out.write(f"peak\t{peak * (1 if sys.platform == 'darwin' else 1024) // 2**20}\n")

    def _read(self, content: bytes, flipped: bool) -> list[tuple[str, str]]:
        wrong: list[tuple[str, str]] = []
        same, refused = False, False
        signal.alarm(LONGEST)
        self.watch.on = True
        try:
            same = self.kind.read(content)
        except UserError:
            refused = True
        except TooLong:
            wrong.append(("too slow", f"more than {LONGEST} s"))
        except MemoryError as error:
            wrong.append(("out of memory", repr(error)[:200]))
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(("tracebacks", f"{error!r}"[:200] + f" in {place.filename}:{place.lineno}"))
        finally:
            self.watch.on = False
            signal.alarm(0)
        self.counts["refused"] += refused
        self.counts["read"] += not refused and not wrong
        if flipped:
            self.counts["flipped bits"] += 1
            if not refused and not same:
                wrong.append(("flipped bits undetected", f"{len(content)} bytes"))
        elif not refused and not same and self.kind.name.startswith(("torch", "safetensors", "msgpack")):
            wrong.append(("out of memory", "weights larger than their file"))
        if self.canary.exists():
            wrong.append(("code executed", "the canary is there"))
            self.canary.unlink()
        wrong += [
            ("code executed" if line.startswith(EXECUTES) else "files touched elsewhere", line)
            for line in self.watch.seen
        ]
        self.watch.seen.clear()
        return wrong
