"""`python -m parity self-test`: every planted bug is caught where it is, and a blind harness shows."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import optim
from parity.__main__ import main
from parity.planted import FRAMEWORKS, catalogue, planted, plantings, self_test
from parity.planted.catalogue import BUGS
from parity.planted.kill_matrix import CONTROL, Outcome
from parity.planted.numpy_side.optim import adam
from parity.planted.usual_checks import CHECKS, OF_GRADIENTS, Verdicts, usual, verdicts
from parity.suite import check
from parity.verification import judge
from torch_models import optim as torch_optim
from triptych.errors import UserError

Capture = pytest.CaptureFixture[str]
SIDES = (*FRAMEWORKS, "shared")
FAMILIES = {
    "dense layers",
    "convolution and pooling",
    "batch normalization",
    "losses",
    "optimizers and schedules",
    "initial parameters and data",
    "whole networks",
}


def wrong(outcomes: list[Outcome]) -> list[str]:
    return [
        f"{o.group} {o.bug} {o.backend}: caught {o.caught}, {o.where}"
        for o in outcomes
        if not o.as_it_should_be
    ]


# --- the registry ---


def test_there_are_bugs_of_every_family() -> None:
    assert len(BUGS) >= 40
    assert {bug.group for bug in BUGS.values()} == FAMILIES


@pytest.mark.parametrize("side", SIDES)
def test_every_bug_is_made_where_it_says(side: str) -> None:
    assert set(plantings(side)) == {name for name, bug in BUGS.items() if side in bug.backends}


@pytest.mark.parametrize("side", SIDES)
def test_what_was_replaced_comes_back(side: str) -> None:
    for name, patches in plantings(side).items():
        before = [inspect.getattr_static(patch.owner, patch.name) for patch in patches]
        try:
            with planted(BUGS[name], side):
                for patch, original in zip(patches, before, strict=True):
                    assert getattr(patch.owner, patch.name) is patch.value
                    assert patch.value is not original
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert [inspect.getattr_static(patch.owner, patch.name) for patch in patches] == before


def test_the_optimizers_that_bugs_are_made_of_are_right_without_a_bug(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from parity.planted.torch_side.optim import Adam

    original = torch_optim.create
    monkeypatch.setattr(optim, "_adam", adam())
    monkeypatch.setattr(
        torch_optim,
        "create",
        lambda o, parameters: original(o, parameters) if o.optimizer == "sgd" else Adam(parameters, o),
    )
    results = check.run(["optimizer"], ["numpy", "torch"])
    assert [r for r in results if not r.passed] == []


# --- what is caught ---


def test_every_bug_of_the_reference_is_caught_where_it_is() -> None:
    outcomes = self_test.run(quick=True)
    assert wrong(outcomes) == []
    caught = {(o.bug, o.backend) for o in outcomes if o.group != CONTROL}
    assert caught == {
        (name, side) for name, bug in BUGS.items() for side in ("numpy", "shared") if side in bug.backends
    }
    # Far outside the limit, not at its edge.
    assert min(o.share for o in outcomes if o.group != CONTROL) > 5


def test_every_bug_in_torch_is_caught_where_it_is() -> None:
    assert wrong(self_test.run(backends=["torch"], quick=True)) == []


JAX_SAMPLE = [
    "linear-bias-gradient-averaged",
    "leaky-relu-slope-1-at-zero",
    "norm-without-xhat-term",
    "norm-statistics-detached",
    "softmax-jacobian-sign",
    "adamw-coupled",
]
"""One of each way to plant: a module's method, a new custom_vjp, a function, an optax chain."""


def test_bugs_in_jax_are_caught_where_they_are() -> None:
    assert wrong(self_test.run(JAX_SAMPLE, ["jax"], quick=True)) == []


@pytest.mark.slow
def test_the_whole_matrix() -> None:
    outcomes = self_test.run()
    assert wrong(outcomes) == []
    assert {o.backend for o in outcomes} == set(SIDES)
    for check_name in CHECKS:  # none is a check that never fires, or always
        words = [o.others[check_name] for o in outcomes if check_name in o.others]
        assert {"caught", "missed"} <= set(words)


@pytest.mark.parametrize(
    ("bug", "part"),
    [
        ("dropout-mask-not-in-backward", "dropout"),
        ("loss-smoothing-over-others", "loss"),
        ("norm-without-xhat-term", "norm"),
        ("norm-biased-running-variance", "norm"),
        ("adamw-coupled", "linear norm"),
    ],
)
def test_a_wrong_part_of_a_model_is_named(bug: str, part: str) -> None:
    """Only the part itself fails: what follows is judged on what it was given."""
    with planted(BUGS[bug], "numpy"):
        failed = {
            r.quantity for r in check.run(["model"], ["numpy"], ["float32"], quick=True) if not r.passed
        }
    assert failed
    assert [quantity for quantity in failed if not quantity.startswith(tuple(part.split()))] == []


def test_a_blind_harness_misses_bugs(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    original = judge.shares

    def forgiving(*arguments: Any) -> Any:
        share, difference = original(*arguments)
        return share / 1e9, difference

    monkeypatch.setattr(judge, "shares", forgiving)
    assert main(["self-test", "--quick", "--bug", "linear-bias-gradient-averaged", "sgd-dampened"]) == 1
    printed = capsys.readouterr().out
    assert "MISSED linear-bias-gradient-averaged, numpy: nothing fails" in printed
    assert "catches 0 of 2 plantings" in printed


def test_a_check_that_cries_wolf_shows(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    original = judge.shares

    def strict(*arguments: Any) -> Any:
        share, difference = original(*arguments)
        return share + 2, difference

    monkeypatch.setattr(judge, "shares", strict)
    assert main(["self-test", "--quick", "--bug", "linear-bias-gradient-averaged"]) == 1
    assert "FALSE ALARM linear " in capsys.readouterr().out


def test_a_bug_that_shows_elsewhere_only_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS["linear-bias-gradient-averaged"]
    monkeypatch.setitem(BUGS, bug.name, type(bug)(**{**vars(bug), "shows_in": ("dW",)}))
    (outcome,) = [o for o in self_test.run([bug.name], quick=True) if o.bug]
    assert (outcome.caught, outcome.named, outcome.as_it_should_be) == (True, False, False)


# --- the usual checks ---


def test_the_usual_checks_are_satisfied_by_right_code_and_see_a_wrong_gradient() -> None:
    bug = BUGS["linear-bias-gradient-averaged"]
    checks = usual(bug, "numpy")
    before = checks.run()
    with planted(bug, "numpy"):
        found = verdicts(bug, checks, before, checks.run())
    assert list(found.words) == list(CHECKS)
    assert {name: word for name, word in found.words.items() if name != "chex trees_all_close"} == {
        name: "caught" for name in CHECKS if name != "chex trees_all_close"
    }


def test_a_consistent_pair_of_wrong_passes_is_no_gradient_check_s_business() -> None:
    bug = BUGS["dropout-unscaled"]
    checks = usual(bug, "torch")
    with planted(bug, "torch"):
        said = checks.run()
    assert {name: said[name] for name in OF_GRADIENTS} == dict.fromkeys(OF_GRADIENTS, "")
    assert said["torch assert_close"]


def test_what_is_no_gradient_is_not_held_against_a_gradient_check() -> None:
    bug = BUGS["norm-biased-running-variance"]
    checks = usual(bug, "numpy")
    found = verdicts(bug, checks, {"torch assert_close": ""}, {"torch assert_close": "differs"})
    assert found.words["torch assert_close"] == "caught"
    assert found.words["torch gradcheck"] == "not applicable"
    assert found.reasons["torch gradcheck"] == "running_var is no gradient"


def test_a_check_that_fails_without_the_bug_raises_a_false_alarm() -> None:
    bug = BUGS["linear-tf32"]
    said = dict.fromkeys(CHECKS, "") | {"jax check_grads": "tolerance"}
    found: Verdicts = verdicts(bug, usual(bug, "numpy"), said, said)
    assert found.words["jax check_grads"] == "false alarm"
    assert found.reasons == {"jax check_grads": "tolerance"}
    assert found.words["torch gradcheck"] == "missed"


# --- the command ---


def test_the_command_lists(capsys: Capture) -> None:
    assert main(["self-test", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BUGS)


def test_the_command_reports_and_writes(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "matrix.json"
    names = ["dropout-mask-inverted", "schedule-off-by-one"]
    assert main(["self-test", "--quick", "--bug", *names, "--json", str(file)]) == 0
    assert "catches 2 of 2 plantings of 2 bugs" in capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["passed"]
    rows = {row["bug"]: row for row in document["outcomes"] if row["bug"]}
    assert set(rows) == set(names)
    assert rows["dropout-mask-inverted"]["share"] == "inf"
    assert np.isfinite(rows["schedule-off-by-one"]["share"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bug", "no-such"], "bug: expected a name that --list shows, got 'no-such'"),
        (["--backend", "tensorflow"], "backend: expected one of numpy, jax, torch, shared"),
        (["--backend", "numpy", "--bug", "gradients-accumulate"], "nothing to plant"),
        (["--quick", "--bug", "l2-without-half", "--json", "missing/x.json"], "json: cannot write"),
    ],
)
def test_mistakes(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["self-test", *words]) == 2
    assert message in capsys.readouterr().err


def test_unknown_bugs_are_named() -> None:
    with pytest.raises(UserError, match="--list"):
        catalogue.find(["nope"])
