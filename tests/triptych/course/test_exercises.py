"""Hand-ins, right and wrong: each wrong one is found, with its cause; and no tracebacks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from triptych.course.__main__ import main
from triptych.course.catalogue import EXERCISES
from triptych.course.grade import grade
from triptych.course.limit import SECONDS, grade_within

SOLUTIONS = Path(__file__).resolve().parents[3] / "docs" / "course" / "solutions"
UNKNOWN = "cause not known"

# The answer with one piece replaced, and a piece of what is said. Of ten, two may have no known cause.
WRONG: dict[int, list[tuple[str, str, str]]] = {
    1: [
        ("each.mean()", "each.sum()", "y: right but for a factor B"),
        ("ds / len(p)", "ds", "ds: right but for a factor B"),
        ("dy * ds", "ds", "ds: equal to the answer for dy = 1"),
        ("dy * ds", "-dy * ds", "ds: right but for the sign"),
        ("    ds[np.arange(len(p)), labels] -= 1\n", "", "the label is not used"),
        ("s - s.max(axis=1, keepdims=True)", "s", "subtract each row's maximum"),
        ("np.log(total[:, 0])", "np.log2(total[:, 0])", UNKNOWN),
        ("return each.mean()", "return each.mean() / np.log(2)", "factor 1/ln 2"),
        ("ds = p.copy()", "ds = p * 0", UNKNOWN),
        ("ds / len(p)", "ds / ds.shape[1]", "factor 1.2"),
    ],
    2: [
        ("@ W.T + b", "@ W.T", "b is left out"),
        ("@ W.T + b", "@ W.T - b", "b is subtracted"),
        ("dy.T @ x", "x.T @ dy", "dW: right but for being transposed"),
        ("dy.T @ x", "dy.T @ x / len(x)", "dW: right but for a factor 1/B"),
        ("dy.sum(axis=0)", "dy.mean(axis=0)", "db: right but for a factor 1/B"),
        ("dy.sum(axis=0)", "dy", "the sum over the samples is missing"),
        ("dy.sum(axis=0)", "dy[0]", "the gradient of the first sample alone"),
        ("dy.sum(axis=0)", "dy.sum(axis=1)", "db: has shape (6,), expected (3,)"),
        ("dx = dy @ W", "dx = 0 * (dy @ W)", "dx: 0 everywhere"),
        ("dy @ W", "dy @ W.T", "line 10: ValueError"),
    ],
    3: [
        ("np.where(x > 0, dy, 0.1 * dy)", "np.where(x >= 0, dy, 0.1 * dy)", "derivative is the slope, not 1"),
        ("np.where(x > 0, dy, 0.1 * dy)", "dy * (x > 0) + 0.1 * dy * (x < 0)", "is the slope, not 0"),
        ("np.where(x > 0, dy, 0.1 * dy)", "np.where(x > 0, dy, 0)", "the slope below 0 is 0: ReLU"),
        ("np.where(x > 0, dy, 0.1 * dy)", "np.where(dy > 0, dy, 0.1 * dy)", "by the sign of dy"),
        ("np.where(x > 0, dy, 0.1 * dy)", "np.where(x > 0, 1, 0.1)", "the upstream gradient is left out"),
        ("np.where(x > 0, dy, 0.1 * dy)", "dy", "the slope below 0 is 1"),
        ("np.where(x > 0, x, 0.1 * x)", "np.where(x > 0, 0.1 * x, x)", "the two sides are exchanged"),
        ("np.where(x > 0, x, 0.1 * x)", "np.where(x > 0, x, 0.01 * x)", "0.01, not 0.1"),
        ("np.where(x > 0, x, 0.1 * x)", "np.where(x > 0, x, -0.1 * x)", "the sign below 0 is turned"),
        ("    x = cache\n", "    x = cache\n    dy = dy * x\n", "y in the place of the derivative"),
    ],
    4: [
        ("- g.sum(axis=0) ", "", "dx: equal to the answer without the mean's path"),
        (" - xhat * (g * xhat).sum(axis=0)", "", "dx: equal to the answer without the variance's path"),
        ("inverse / n * (", "inverse * (", "dx: right but for a factor n"),
        ("g = gamma * dy", "g = dy", "dx: gamma is missing"),
        ("g.sum(axis=0) - xhat", "g.sum(axis=1, keepdims=True) - xhat", UNKNOWN),
        ("(dy * xhat).sum(axis=0)\n", "(dy * xhat).mean(axis=0)\n", "dgamma: right but for a factor 1/n"),
        ("(centred**2).mean(axis=0)", "x.var(axis=0, ddof=1)", "y: the unbiased variance"),
        ("return dx, dgamma, dbeta", "return dx, dbeta, dgamma", "dgamma: equal to dbeta"),
        ("n * g - g.sum(axis=0) - xhat", "n * g + g.sum(axis=0) - xhat", "mean's path has the wrong sign"),
        ("+ 1e-5)", "+ 1e-3)", UNKNOWN),
    ],
    5: [
        ("W[k, l] * x", "W[2 - k, 2 - l] * x", "y: the kernel is turned by 180 degrees"),
        ("W[k, l] * x", "W[l, k] * x", "y: the kernel is transposed"),
        ("W[k, l] * dy", "W[2 - k, 2 - l] * dy", "dx: the kernel is turned by 180 degrees"),
        ("+= W[k, l] * dy", "= W[k, l] * dy", "dx: assigned, not added"),
        ("            dW[k, l] = (dy", "            dW[l, k] = (dy", "dW: right but for being transposed"),
        ("columns]).sum()", "columns]).sum() / len(x)", "dW: right but for a factor 1/B"),
        ("columns]).sum()", "columns]).mean()", "dW: right but for a factor"),
        ("columns]).sum()", "columns])[0].sum()", "dW: of the first image alone"),
        ("return dx, dW", "return dW, dx", "dx: equal to dW"),
        ("dW[k, l] = (dy *", "dW[k, l] = (1 *", "the upstream gradient is left out"),
    ],
    6: [
        ("four.max(axis=0)", "four.mean(axis=0)", "y: the mean of the window"),
        ("four.max(axis=0)", "four.min(axis=0)", "y: the smallest of the window"),
        ("four.max(axis=0)", "np.abs(four).max(axis=0)", "y: the largest in size"),
        ("four.max(axis=0)", "four.sum(axis=0)", "y: the sum of the window"),
        ("four.max(axis=0)", "four[0]", "y: the top left of the window"),
        ("four.argmax(axis=0)", "3 - four[::-1].argmax(axis=0)", "the last of the equal ones"),
        ("np.where(first == place, dy, 0)", "dy", "every place of the window gets the gradient"),
        ("np.where(first == place, dy, 0)", "np.where(first == place, dy, 0) / 4", "factor 1/4"),
        ("np.where(first == place, dy, 0)", "np.where(first == place, 1, 0)", "the upstream gradient"),
        ("np.zeros(shape)", "np.zeros(shape)[:, 1:]", "ValueError"),
    ],
    7: [
        (" / (1 - 0.9**t)", "", "without the first moment's correction"),
        ("np.sqrt(v / (1 - 0.99**t))", "np.sqrt(v)", "without the second moment's correction"),
        ("theta - 0.01", "theta + 0.01", "uphill"),
        ("(root + 1e-3)", "root", "epsilon is missing"),
        ("(root + 1e-3)", "np.sqrt(root**2 + 1e-3)", "epsilon inside the root"),
        ("np.sqrt(v / (1 - 0.99**t))", "v / (1 - 0.99**t)", "the root is missing"),
        ("(1 - 0.99) * g**2", "(1 - 0.99) * g", "v: g is not squared"),
        ("(1 - 0.9) * g", "g", "m: the new gradient lacks its factor"),
        ("0.9 * m + (1 - 0.9) * g", "0.1 * m + (1 - 0.1) * g", "m: beta and 1 - beta are exchanged"),
        ("1 - 0.9**t", "1 - 0.8**t", UNKNOWN),
        ("(root + 1e-3), m, v", "(root + 1e-3), corrected, v", "m: the corrected moment is returned"),
        ("(root + 1e-3), m, v", "(root + 1e-3), m, root**2", "v: the corrected moment is returned"),
        ("(1 - 0.9**t)", "(1 - 0.9) ** t", UNKNOWN),
    ],
    8: [
        ("ddof=1", "ddof=0", "with 1/n"),
        (" / np.sqrt(len(values))", "", "the root of n is missing"),
        ("np.sqrt(len(values))", "len(values)", "divided by n, not by its root"),
        ("values.std(ddof=1)", "values.var(ddof=1)", "the variance over the root of n"),
        ("values.std(ddof=1) / np.sqrt(len(values))", "values.var(ddof=1)", "the variance of one run"),
        ("values.std(ddof=1) / np.sqrt(len(values))", "np.ptp(values)", "the range"),
        ("values.std(ddof=1) / np.sqrt(len(values))", "values.mean()", "the mean itself"),
        ("return values", "return 1.96 * values", "a half-width of 95%"),
        ("return values", "return 2 * values", "right but for a factor 2"),
        ("return values", "return -values", "right but for the sign"),
    ],
}  # fmt: skip
ROWS = [(number, *row) for number, rows in WRONG.items() for row in rows]


def solution(number: int) -> str:
    return min(SOLUTIONS.glob(f"exercise_{number}_*.py")).read_text()


@pytest.mark.parametrize("path", sorted(SOLUTIONS.glob("*.py")), ids=lambda path: path.stem)
def test_right_ones_pass_in_two_seconds(path: Path) -> None:
    exercise = EXERCISES[int(path.name.split("_")[1]) - 1]
    start = time.process_time()
    found = grade(exercise, path)
    assert found.right, found.text
    assert time.process_time() - start < SECONDS / 10


def test_every_exercise_has_a_solution_and_ten_wrong_hand_ins_eight_of_known_cause() -> None:
    for number in range(1, len(EXERCISES) + 1):
        assert solution(number)
        assert len(WRONG[number]) >= 10
        assert sum(said != UNKNOWN for _, _, said in WRONG[number]) >= 8


@pytest.mark.parametrize(("number", "old", "new", "said"), ROWS)
def test_a_wrong_one_is_found_and_its_cause_is_named(
    number: int, old: str, new: str, said: str, tmp_path: Path
) -> None:
    source = solution(number)
    assert old in source
    path = tmp_path / "hand_in.py"
    path.write_text(source.replace(old, new, 1))
    found = grade(EXERCISES[number - 1], path)
    assert not found.right
    assert said in found.text, found.text


BACK = "def backward(dy, cache):\n    return dy\n"
MISHAPS = {
    "def forward(x:\n": "line 1: SyntaxError",
    "import nowhere_at_all\n": "line 1: ModuleNotFoundError",
    "def forward(x):\n    return x, x\n": "expected a function backward",
    "def forward(x):\n    pass\n" + BACK: "got nothing (is `return` missing?)",
    BACK.replace("return dy", "pass") + "def forward(x):\n    return x, x\n": "return dx, got nothing",
    "def forward(x):\n    return x.y, x\n" + BACK: "line 2: AttributeError",
    "def forward(x):\n    raise SystemExit\n" + BACK: "line 2: SystemExit",
    "def forward(x):\n    x[x < 0] *= 0.1\n    return x, x\n" + BACK: "x is changed in place",
    "def forward(x):\n    return 'y', x\n" + BACK: "expected arrays of numbers",
    "from random import random\ndef forward(x):\n    return x * random(), x\n" + BACK: "cannot be judged",
    "def forward(x):\n    return forward(x)\n" + BACK: "line 2: RecursionError",
}  # fmt: skip


@pytest.mark.parametrize(("source", "said"), MISHAPS.items())
def test_whatever_a_student_writes_is_one_line(source: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hand_in.py"
    path.write_text(source)
    found = grade(EXERCISES[2], path)
    assert not found.right
    assert said in found.text
    assert "\n" not in found.text


ENDLESS = "while True:\n    try:\n        pass\n    except BaseException:\n        pass\n"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (ENDLESS, "stopped after 0.5 seconds: look for a loop that does not end"),
        ("import os\nos._exit(0)\n", "Python ended without an answer (exit code 0)"),
        ("import os\nos.kill(os.getpid(), 9)\n", "Python ended without an answer (exit code -9)"),
        ("input()\n", "line 1: EOFError"),
    ],
    ids=["endless", "exit", "killed", "input"],
)
def test_a_file_that_would_hang_or_end_the_command_is_one_line(
    source: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "hand_in.py"
    path.write_text(source)
    found = grade_within(0.5, 3, path)
    assert not found.right
    assert said in found.text
    assert "\n" not in found.text


def test_the_command_goes_on_after_an_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("triptych.course.__main__.SECONDS", 2)
    for number, source in ((2, ENDLESS), (3, "print('of the student')\n" + solution(3))):
        assert main(["start", str(number)]) == 0
        min(tmp_path.glob(f"exercise_{number}_*.py")).write_text(source)
    capfd.readouterr()
    assert main(["check"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "stopped after 2 seconds" in lines[0]
    assert {"of the student", lines[-1]} == set(lines[1:])
    assert "exercise_3_leaky_relu.py: right" in lines[-1]


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    assert capsys.readouterr().out.count("session") == len(EXERCISES)
    for number in range(1, len(EXERCISES) + 1):
        assert main(["start", str(number)]) == 0
    assert main(["check"]) == 1
    assert capsys.readouterr().out.count("not written yet") == len(EXERCISES)
    path = tmp_path / "exercise_4_batch_norm.py"
    assert main(["start", "4"]) == 2
    path.write_text(solution(4))
    assert main(["check", "4"]) == 0
    assert main(["check", str(path)]) == 0
    assert "right" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["start", "start 99", "start x", "check", "check 4", "grade", ""])
def test_a_mistake_in_the_command(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
