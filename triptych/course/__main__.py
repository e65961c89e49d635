"""`triptych exercise`: the course's exercises, graded by `parity.verify`.

    triptych exercise list            what there is
    triptych exercise start 4         write exercise_4_batch_norm.py into this folder
    triptych exercise check           grade every exercise_*.py in this folder
    triptych exercise check 4 FILE    grade some, by number or file; 20 seconds for each

Exit codes: 0 all right, 1 something is wrong or not yet written, 2 a mistake in the command.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from triptych.course.catalogue import EXERCISES
from triptych.course.exercise import Exercise
from triptych.course.limit import SECONDS, grade_within
from triptych.errors import UserError
from triptych.show import command


def main(argv: list[str]) -> int:
    """Run the command in the current folder; returns its exit code."""
    return command.run(lambda: _run(argv), "interrupted; nothing was changed")


def _run(argv: list[str]) -> int:
    word, *rest = argv or ["--help"]
    if word == "list" and not rest:
        for number, exercise in enumerate(EXERCISES, 1):
            print(f"{number}  session {exercise.session}  {exercise.title} ({exercise.equations})")
    elif word == "start" and len(rest) == 1:
        print(_start(rest[0]))
    elif word == "check":
        return _check(rest)
    elif word in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if argv else 2
    else:
        raise UserError(f"expected list, start N or check [N or FILE], got {' '.join(argv)!r}")
    return 0


def _start(number: str) -> str:
    path = _file(number)
    if path.exists():
        raise UserError(f"{path} exists: delete or rename it first, to start anew")
    path.write_text(_exercise(number).stub)
    return f"wrote {path}. Fill it in, then: triptych exercise check {number}"


def _check(words: list[str]) -> int:
    paths = [Path(word) if word.endswith(".py") else _file(word) for word in words]
    paths = paths or sorted(Path().glob("exercise_*.py"))
    if not paths:
        raise UserError("no exercise_*.py in this folder; write one with: triptych exercise start 1")
    right = True
    for path in paths:
        number = re.match(r"exercise_(\d+)_", path.name)
        if not number:
            raise UserError(f"expected a file exercise_N_*.py, got {path.name}; do not rename it")
        _exercise(number[1])  # a number that there is
        if not path.is_file():
            raise UserError(f"no file {path}; write it with: triptych exercise start {number[1]}")
        found = grade_within(SECONDS, int(number[1]), path)
        print(f"{path.name}: {found.text}", flush=True)  # before what the next file prints
        right &= found.right
    return 0 if right else 1


def _exercise(number: str) -> Exercise:
    if not number.isdecimal() or not 1 <= int(number) <= len(EXERCISES):
        raise UserError(f"expected an exercise from 1 to {len(EXERCISES)}, got {number!r}")
    return EXERCISES[int(number) - 1]


def _file(number: str) -> Path:
    return Path(f"exercise_{number}_{_exercise(number).name}.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
