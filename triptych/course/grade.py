"""Grading a file: `parity.verify` decides whether it is right, known wrong answers say why it is not."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from parity import verify
from parity.errors import UsageError
from triptych.course.exercise import Array, Arrays, BadShape, Exercise, Functions

CLOSE = 1e-9
"""Answers so near, as a share of the largest, are taken for the same: a guess at a cause, not a verdict."""
CONSTANTS = {"2": 2.0, "1/ln 2": 1 / np.log(2), "1/ln 10": 1 / np.log(10)}


class Grade(NamedTuple):
    """What is said to the student."""

    right: bool
    text: str


class Stopped(Exception):
    """The student's code cannot be judged; says why in one line."""


def grade(exercise: Exercise, path: Path) -> Grade:
    """Judge a file. Whatever its code raises comes back as one line of text."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a warning is for who runs the code, not for its grade
        try:
            functions = _load(exercise, path)
            # One run first: its own exceptions are told by file and line.
            answers = _answers(exercise, functions, path)
            report = verify(
                exercise.name,
                inputs=exercise.inputs,
                parameters=exercise.parameters,
                truth=exercise.truth,
                numpy=exercise.for_verify(functions),
                without=exercise.without,
                dtypes=("float64",),
            )
        except Stopped as stopped:
            return Grade(False, str(stopped))
        except (UsageError, ArithmeticError, TypeError, ValueError, IndexError) as error:
            return Grade(False, f"cannot be judged: {str(error).splitlines()[0]}")
    failures = [r for r in report.failures if r.quantity == "y" or not exercise.only_output]
    if not failures:
        compared = sum(r.quantity == "y" or not exercise.only_output for r in report.results)
        return Grade(True, f"right: {compared} comparisons hold, within limits that are proved")
    causes = _causes(exercise, answers) or [_unexplained(exercise, failures)]
    worst = max(failures, key=lambda r: (r.case == "ordinary", r.share != np.inf, r.share))
    where = f"{worst.quantity}{list(worst.index)}" if worst.index else worst.quantity
    example = f"  for example {where} is {worst.actual:.6g}, right is {worst.truth:.6g} (case: {worst.case})"
    shapes = worst.note.splitlines()[0] if worst.note else ""
    return Grade(
        False, "\n".join(["wrong", *(f"  {c}" for c in causes), f"  {shapes}" if shapes else example])
    )


def _load(exercise: Exercise, path: Path) -> Functions:
    names: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    try:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
    except SyntaxError as error:
        raise Stopped(f"{path}, line {error.lineno}: SyntaxError: {error.msg}") from None
    except (UnicodeDecodeError, ValueError) as error:
        raise Stopped(f"{path}: not a Python file: {error}") from None
    _guarded(path, lambda: exec(code, names))
    for name in exercise.functions:
        if not callable(names.get(name)):
            raise Stopped(f"{path}: expected a function {name}; it is missing")
    return {name: names[name] for name in exercise.functions}


def _guarded(path: Path, run: Callable[[], Any]) -> Any:
    """Run the student's code; whatever it raises becomes one line with its own file and line."""
    try:
        return run()
    except BadShape as error:
        raise Stopped(f"{path}: {error}") from None
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {frames[-1].lineno}" if frames else f"{path}"
        if isinstance(error, NotImplementedError):
            raise Stopped(f"{where}: not written yet") from None
        said = str(error).splitlines()[0] if str(error) else ""
        raise Stopped(f"{where}: {type(error).__name__}: {said}".rstrip(": ")) from None


class Answers(NamedTuple):
    """On one probe: the inputs, dy, what is right, and what the student's code gives."""

    arrays: Arrays
    dy: Array
    right: Arrays
    given: Arrays


def _answers(exercise: Exercise, functions: Functions, path: Path) -> dict[str, Answers]:
    found = {}
    for name, change in {"ordinary": lambda arrays: arrays, **exercise.probes}.items():
        arrays = change(_drawn({**exercise.inputs, **exercise.parameters}))
        y = exercise.right(arrays, np.ones(()))["y"] if not exercise.only_output else None
        dy = np.random.default_rng(5).normal(size=np.shape(y)) if y is not None else np.ones(())
        right = exercise.right(arrays, dy)
        handed = {key: array.copy() for key, array in arrays.items()}
        given = _guarded(path, partial(exercise.answer, functions, handed, dy.copy()))
        for key, array in arrays.items():
            if not np.array_equal(handed[key], array, equal_nan=True):
                raise Stopped(f"{path}: wrong: {key} is changed in place; make a new array")
        try:
            given = {key: np.asarray(value, float) for key, value in given.items()}
        except (TypeError, ValueError):
            raise Stopped(f"{path}: expected arrays of numbers, got {_types(given)}") from None
        found[name] = Answers(arrays, dy, right, given)
    return found


def _types(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {type(value).__name__}" for key, value in given.items())


def _drawn(given: Mapping[str, Any]) -> Arrays:
    rng = np.random.default_rng(3)
    return {key: g.copy() if isinstance(g, np.ndarray) else rng.normal(size=g) for key, g in given.items()}


def same(a: Any, b: Any) -> bool:
    """Equal but for rounding; NaN equals NaN."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    fine = np.isfinite(b)
    size = np.abs(b[fine]).max(initial=1e-300)
    return bool((np.abs(a[fine] - b[fine]) <= CLOSE * size).all())


def _causes(exercise: Exercise, answers: Mapping[str, Answers]) -> list[str]:
    """A line for each quantity that differs and whose cause is known."""
    lines = []
    for key in answers["ordinary"].right:
        differing = [name for name, a in answers.items() if not same(a.given[key], a.right[key])]
        if not differing:
            continue
        cause = _cause(exercise, answers, key, differing)
        lines += [f"{key}: {cause}"] if cause else []
        if key == "y":
            break  # the gradients follow from it
    return lines


def _cause(exercise: Exercise, answers: Mapping[str, Answers], key: str, differing: list[str]) -> str:
    for said, wrong in exercise.wrong.items():
        candidates = {name: wrong(a.arrays, a.dy).get(key) for name, a in answers.items()}
        if all(c is not None and same(answers[name].given[key], c) for name, c in candidates.items()):
            return said
    if differing == ["large"]:
        return exercise.large
    a = answers["ordinary"]
    return _general(exercise, a, key)


def _general(exercise: Exercise, a: Answers, key: str) -> str:
    """Causes that any quantity may have."""
    given, right = a.given[key], np.asarray(a.right[key])
    if same(given.T, right):
        return "right but for being transposed"
    for other, array in a.right.items():
        if other != key and same(given, array):
            return f"equal to {other}: returned in another order?"
    if given.shape != right.shape:
        if given.ndim > right.ndim and given.shape[1:] == right.shape:
            for word, done in (("sum", given.sum(axis=0)), ("mean", given.mean(axis=0))):
                if same(done, right):
                    return f"the {word} over the samples is missing"
        return f"has shape {given.shape}, expected {right.shape}"
    if not np.isfinite(given).all():
        return "not finite (NaN or infinity) where the right answer is"
    if not given.any():
        return "0 everywhere"
    if not exercise.only_output and same(given, exercise.right(a.arrays, np.ones_like(a.dy))[key]):
        return "equal to the answer for dy = 1: the upstream gradient is left out"
    return _factor(exercise, a, given, right)


def _factor(exercise: Exercise, a: Answers, given: Array, right: Array) -> str:
    ratio = float(np.vdot(given, right) / np.vdot(right, right))
    if not same(given, ratio * right):
        return ""
    if np.isclose(ratio, -1):
        return "right but for the sign"
    named = {**exercise.factors, **CONSTANTS}
    for name, value in named.items():
        for sign, minus in ((1, ""), (-1, "-")):
            if np.isclose(ratio, sign * value):
                return f"right but for a factor {minus}{name}"
            if np.isclose(ratio, sign / value):
                return f"right but for a factor {minus}1/{name}" if "/" not in name else ""
    # Any number is some factor away from any other.
    return f"right but for a factor {ratio:.4g}" if given.size > 1 else ""


def _unexplained(exercise: Exercise, failures: list[Any]) -> str:
    quantities = ", ".join(dict.fromkeys(r.quantity for r in failures))
    cases = list(dict.fromkeys(r.case for r in failures))
    where = f"in {len(cases)} cases ({', '.join(cases[:3])})"
    return f"{quantities}: differs {where}; cause not known, see {exercise.equations}"
