"""SIGTERM and SIGINT at random moments: a checkpoint is there, soon, and the exit code says which it was."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

from tools.soak import child
from tools.soak.compare import differences
from tools.soak.kill import Kills, words
from tools.soak.report import Report
from triptych.store import checkpoint

LIMIT = 5.0
"""Seconds from the signal to the exit, the checkpoint included."""
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def run(count: int, backends: tuple[str, ...], folder: Path, seed: int) -> Report:
    """`count` signals for each backend, over runs that are repeated until they are done."""
    report = Report("signals")
    for backend in backends:
        place = folder / backend
        place.mkdir(parents=True)
        _signals(count, Kills(backend, place, seed, Report("reference")), report)
    return report


def _signals(count: int, whole: Kills, report: Report) -> None:
    backend, draw = whole.backend, random.Random(f"signals {whole.backend}")
    slowest, done, number = 0.0, 0, 0
    while done < count:
        number += 1
        folder, code = whole.folder / f"run {number}", -1
        while code != 0:
            output = whole.folder / "output.txt"
            process = child.start(words(folder, backend), output)
            process.wait_for(child.MAIN, 1)
            which = draw.choice(list(CODES))
            alive = done < count and process.listen_until(
                process.marks[0][1] + draw.uniform(0, whole.seconds)
            )
            saved = any(mark == child.LEAVE for mark, _ in process.marks)
            sent = process.send(which) if alive else 0.0
            code = process.end()
            seconds = time.monotonic() - sent
            if code == 0:
                continue
            done += 1
            slowest = max(slowest, seconds)
            report.count(f"{backend}: signals")
            for line in _wrong(code, which, seconds, saved, folder, output):
                report.found(f"{backend}: {which.name}: {line}")
            if code not in CODES.values():
                break
        else:
            for name in differences(folder, whole.expected):
                report.found(f"{backend}: a run that was stopped and went on differs in {name}")
        shutil.rmtree(folder, ignore_errors=True)
    report.figures[f"{backend}: seconds from the signal to the exit, at most"] = round(slowest, 3)


def _wrong(
    code: int, which: signal.Signals, seconds: float, saved: bool, folder: Path, output: Path
) -> list[str]:
    newest, damaged = checkpoint.load_latest(folder / "checkpoints")
    text = output.read_text()
    promises = {
        f"exit code {code}: {text[-300:]!r}": code == CODES[which],
        f"a traceback: {text[-300:]!r}": "Traceback" not in text,
        f"{seconds:.1f} seconds": seconds <= LIMIT,
        "no checkpoint": newest is not None or not saved,
        f"damaged: {damaged}": not damaged,
    }
    return [line for line, kept in promises.items() if not kept]
