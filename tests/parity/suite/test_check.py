"""`python -m parity check`: what is right passes in every backend, what is wrong fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numpy_ref import fast
from parity.__main__ import main
from parity.bounds.bounded import Bounded
from parity.bounds.rounding import ROUNDINGS, Rounding
from parity.report.results import write_json
from parity.suite import check, drawn
from parity.suite.backends import BACKENDS, SHARED, computations
from parity.suite.check import compare
from parity.suite.registry import FAMILIES, ITEMS, OPERATORS, cases_of
from parity.verification import judge
from parity.verification.case import Case
from parity.verification.judge import Item, Result
from parity.verification.place import Inputs, Outputs, Place, Settings
from triptych.describe.layers import Layer
from triptych.errors import UserError


def failures(results: list[Result]) -> list[str]:
    return [
        f"{r.backend} {r.dtype} {r.item} {r.quantity}, {r.case}: {r.share:.3g} {r.note}"
        for r in results
        if not r.passed
    ]


@pytest.mark.parametrize("backend", ["numpy", "torch", "shared"])
def test_every_case_holds(backend: str) -> None:
    results = check.run(backends=[backend])
    assert failures(results) == []
    assert len(results) > (10 if backend == "shared" else 500)


def test_the_quick_cases_hold_in_jax() -> None:
    results = check.run(backends=["jax"], quick=True)
    assert failures(results) == []
    assert {r.item for r in results} >= {"linear", "conv2d", "batch_norm_autodiff", "optimizer"}


@pytest.mark.slow
def test_every_case_holds_in_jax() -> None:
    assert failures(check.run(backends=["jax"])) == []


def test_every_item_is_computed_by_some_backend_and_every_layer_has_a_record() -> None:
    assert {item for name in (*BACKENDS, SHARED) for item in computations(name)} == set(ITEMS)
    kinds = {record.kind for family in FAMILIES for record in getattr(family, "LAYERS", ())}
    assert kinds == set(get_args(Layer))


def test_every_item_has_a_quick_case() -> None:
    assert [item for item in ITEMS if not any(case.quick for case in cases_of(item))] == []


def test_no_limit_is_infinite() -> None:
    for case in (case for item in ITEMS for case in cases_of(item)):
        for dtype in ITEMS[case.item].dtypes:
            for quantity, bound in judge.truth(ITEMS[case.item], case, dtype).items():
                limits = bound.error[np.isfinite(bound.value)]
                assert np.isfinite(limits).all(), f"{case.item} {case.name} {dtype} {quantity}"


STRATEGIES = {name: drawn.strategy(name) for name, o in OPERATORS.items() if o.draw}


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        (name, backend)
        for name in STRATEGIES
        for backend in ("numpy", "torch")
        if (name, backend) != ("batch_norm_autodiff", "numpy")  # NumPy derives nothing by itself
    ],
)
@settings(max_examples=15)
@given(data=st.data())
def test_drawn_inputs_hold(name: str, backend: str, data: Any) -> None:
    case = data.draw(STRATEGIES[name])
    item = ITEMS[case.item]
    results = compare(item, {backend: computations(backend)[case.item]}, [case], ["float64", "float32"])
    assert failures(results) == []


# --- what is no number of the right kind ---


def giving(change: Callable[[Outputs], Any]) -> Callable[..., Outputs]:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        outputs = dict(computations("numpy")["leaky_relu"](inputs, settings, place))
        change(outputs)
        return outputs

    return computation


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda outputs: outputs.pop("dx"), "missing"),
        (lambda outputs: outputs.update(dz=outputs["dx"]), "not asked for"),
        (
            lambda outputs: outputs.update(y=outputs["y"].astype(np.float64)),
            "dtype float64, expected float32",
        ),
        (lambda outputs: outputs.update(y=outputs["y"].T), "shape (9, 6), expected (6, 9)"),
        (lambda outputs: outputs["dx"].__setitem__((0, 0), np.nan), "not finite, and the truth is"),
        (lambda outputs: outputs["y"].__setitem__((2, 3), np.inf), "not finite, and the truth is"),
    ],
)
def test_what_is_no_number_of_the_right_kind_fails(change: Callable[[Outputs], Any], note: str) -> None:
    replaced = {("numpy", "leaky_relu"): giving(change)}
    results = check.run(["leaky_relu"], ["numpy"], ["float32"], quick=True, replaced=replaced)
    (failed,) = [r for r in results if not r.passed]
    assert failed.note == note
    assert failed.share == np.inf


def test_an_input_changed_in_place_fails() -> None:
    def computation(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        outputs = computations("numpy")["leaky_relu"](inputs, settings, place)
        inputs["dy"][...] = 0
        return outputs

    replaced = {("numpy", "leaky_relu"): computation}
    results = check.run(["leaky_relu"], ["numpy"], ["float32"], quick=True, replaced=replaced)
    assert [(r.quantity, r.note) for r in results if not r.passed] == [
        ("dy", "the input was changed in place")
    ]


@pytest.mark.parametrize(
    ("truth", "actual", "passes"),
    [
        (1e39, np.inf, True),  # beyond float32
        (1e39, 3.4e38, False),
        (-1e39, np.inf, False),
        (np.nan, np.nan, True),
        (np.nan, 0.0, False),
        (0.0, -0.0, True),
        (1.0, np.nan, False),
    ],
)
def test_what_is_not_finite_must_be_the_same(truth: float, actual: float, passes: bool) -> None:
    r = ROUNDINGS["float32"]
    bound = Bounded(np.array([truth]), np.array([1e-9]), r)
    share, _ = judge.shares(bound, np.array([actual], np.float32), r)
    assert (share[0] <= 1) == passes


# --- an own layer; the command line ---


def test_an_own_layer_in_ten_lines() -> None:
    def truth(inputs: Inputs, settings: Settings, r: Rounding) -> dict[str, Bounded]:
        x, dy = Bounded.exact(inputs["x"], r), Bounded.exact(inputs["dy"], r)
        return {"y": x * x, "dx": 2 * x * dy}

    def by_hand(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        return {"y": inputs["x"] ** 2, "dx": 2 * inputs["dy"] * inputs["x"]}

    def wrong(inputs: Inputs, settings: Settings, place: Place) -> Outputs:
        return {"y": inputs["x"] ** 2, "dx": inputs["dy"] * inputs["x"]}

    rng = np.random.default_rng(0)
    case = Case("square", "random", {"x": rng.normal(size=9), "dy": rng.normal(size=9)})
    results = compare(Item("square", truth, elementwise=True), {"hand": by_hand, "wrong": wrong}, [case])
    assert {(r.backend, r.quantity) for r in results if not r.passed} == {("wrong", "dx")}
    assert all(r.ulps is not None and r.ulps <= 1.5 for r in results if r.passed)


def test_the_command_reports_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    arguments = ["check", "--quick", "--backend", "numpy", "--item", "linear", "dropout", "--json", str(file)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "linear   numpy    float64" in printed
    document = json.loads(file.read_text())
    assert document["passed"]
    assert {row["item"] for row in document["results"]} == {"linear", "dropout"}
    assert f"{len(document['results'])} of {len(document['results'])} comparisons hold" in printed


def test_the_command_fails_where_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(fast, "leaky_relu_backward", lambda dy, x, slope: dy * np.inf)
    file = tmp_path / "results.json"
    arguments = ["check", "--quick", "--backend", "numpy", "--item", "leaky_relu", "--json", str(file)]
    assert main(arguments) == 1
    assert "FAILED leaky_relu dx, numpy float32 on cpu, case 'exact zeros" in capsys.readouterr().out
    assert {row["share"] for row in json.loads(file.read_text())["results"]} >= {"inf"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--item", "lineal"], "item: expected one of linear, "),
        (["check", "--backend", "tensorflow"], "backend: expected one of numpy, jax, torch, shared, got 'te"),
        (
            ["check", "--dtype", "float16"],
            "dtype: expected one of float64, float32, bfloat16, tf32, shipped, ",
        ),
        (["check", "--backend", "numpy", "--dtype", "bfloat16", "--quick"], "nothing to compare"),
        (["check", "--drawn", "-1"], "drawn: expected 0 or more inputs for each item, got -1"),
        (["ulps", "--stride", "0"], "stride: expected 1 or more, got 0"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="json: cannot write"):
        write_json([], tmp_path / "missing" / "results.json")
