"""Grading in a process of its own, which can be stopped: a student's loop may have no end."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from triptych.course.catalogue import EXERCISES
from triptych.course.grade import Grade, grade

SECONDS = 20.0
"""A right answer takes under 2."""


def grade_within(seconds: float, number: int, path: Path) -> Grade:
    """`grade` for exercise `number`, from 1. A file that takes longer, or that ends Python, is not right."""
    context = multiprocessing.get_context("spawn")  # on every system, and without this process's threads
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_grade, args=(number, path, theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        ours.recv()  # Python and NumPy are loaded: from here on the time is the student's
        if not ours.poll(seconds):
            return Grade(
                False,
                f"stopped after {seconds:g} seconds: look for a loop that does not end, then check again",
            )
        found: Grade = ours.recv()
        return found
    except EOFError:
        child.join(1)
        code = child.exitcode
        return Grade(
            False,
            f"Python ended without an answer (exit code {code}): take out what ends it, such as os._exit",
        )
    finally:
        child.kill()
        child.join()


def _grade(number: int, path: Path, answer: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command, which ends this process
    answer.send("ready")
    found = grade(EXERCISES[number - 1], path)
    sys.stdout.flush()  # what the file prints comes before what is said of it
    answer.send(found)
