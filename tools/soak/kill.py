"""kill -9 at random moments, some of them within a save; repeat the command until the run is done."""

from __future__ import annotations

import random
import shutil
import signal
import statistics
from pathlib import Path

from tests.helpers import tiny
from tools.soak import child
from tools.soak.compare import differences, everything
from tools.soak.report import Report
from triptych.store import checkpoint

IN_SAVE = 0.4
"""Share of the kills that is to fall within a save: while there are fewer, the next aims at one. The others
are uniform over the time of a whole run."""
SETTINGS = {"momentum": 0.9, "dropout": 0.3, "hidden": (64,)}


def words(folder: Path, backend: str) -> list[str]:
    """The command: a checkpoint after every second step, so that saves are frequent and steps lie between."""
    where = ["--backend", backend, "--run-dir", str(folder), "--checkpoint-every", "2"]
    return [*where, *tiny.arguments(**SETTINGS)]


class Kills:
    """Kills for one backend, until there have been enough."""

    def __init__(self, backend: str, folder: Path, seed: int, report: Report) -> None:
        self.backend, self.folder, self.report = backend, folder, report
        self.draw = random.Random(f"{backend} {seed}")
        child.prepare(backend)
        whole = folder / "whole"
        process = child.start(words(whole, backend), folder / "whole.txt")
        if process.end() != 0:
            raise AssertionError((folder / "whole.txt").read_text())
        self.expected = everything(whole)
        self.seconds = process.marks[-1][1] - process.started
        self.in_save = 0
        self.saves = len(process.save_seconds)
        self.save_seconds = statistics.median(process.save_seconds)

    def run(self, count: int) -> None:
        """`count` kills over as many runs as it takes."""
        done, number = 0, 0
        while done < count:
            number += 1
            run = self.folder / f"run {number}"
            code = -signal.SIGKILL
            while code == -signal.SIGKILL:
                # Enough kills: the run in hand is brought to its end.
                code = self._attempt(run, done < count, aim=self.in_save < IN_SAVE * done)
                done += code == -signal.SIGKILL
            self._judge(run, code)
            shutil.rmtree(run, ignore_errors=True)
        self.report.count(f"{self.backend}: runs", number)
        if count >= 100 and self.in_save < 0.3 * count:
            self.report.found(f"{self.backend}: only {self.in_save} of {count} kills fell within a save")

    def _attempt(self, run: Path, kill: bool, aim: bool) -> int:
        """One process on the run, to be killed or not, within a save or anywhere; its exit code."""
        process = child.start(words(run, self.backend), self.folder / "output.txt")
        if kill:
            if aim:
                alive = process.wait_for(child.ENTER, self.draw.randint(1, self.saves))
                moment = process.marks[-1][1] if alive else 0.0
                moment += self.draw.uniform(0, self.save_seconds)
            else:
                moment = process.started + self.draw.uniform(0, self.seconds)
            if process.listen_until(moment):
                process.send(signal.SIGKILL)
        code = process.end()
        if code == -signal.SIGKILL:
            self.report.count(f"{self.backend}: kills")
            self.in_save += process.saving
            self.report.count(f"{self.backend}: kills within a save", process.saving)
            _, damaged = checkpoint.load_latest(run / "checkpoints")
            if damaged:
                self.report.found(f"{self.backend}: a kill left a damaged checkpoint: {damaged}")
        return code

    def _judge(self, run: Path, code: int) -> None:
        wrong = [f"exit code {code}"] if code else differences(run, self.expected)
        self.report.count(f"{self.backend}: runs lost", bool(wrong))
        if wrong:
            tail = (self.folder / "output.txt").read_text()[-300:]
            self.report.found(f"{self.backend}: {', '.join(wrong)}: {tail!r}")


def run(count: int, backends: tuple[str, ...], folder: Path, seed: int) -> Report:
    """`count` kills for each backend."""
    report = Report("kill")
    for backend in backends:
        place = folder / backend
        place.mkdir(parents=True)
        Kills(backend, place, seed, report).run(count)
    return report
