"""What `python -m parity check` covers: every trap in every item, drawn inputs, formats on accelerators."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numpy_ref import augment, fast, norm
from parity.__main__ import main
from parity.bounds.rounding import ROUNDINGS, TF32_U, rounding
from parity.suite import backends, check, drawn, ulps
from parity.suite.registry import ITEMS, OPERATORS, cases_of
from parity.verification.case import Case
from parity.verification.place import Outputs, Place, Settings
from triptych.describe.layers import Window

# --- every trap in every item where it makes sense, read off the cases themselves ---


def floats(case: Case) -> list[np.ndarray]:
    return [array for array in case.inputs.values() if array.dtype.kind == "f"]


def largest(case: Case) -> float:
    """Of the inputs that are finite, but for parameters, the one of the most extreme size."""
    name = next((key for key in ("x", "s", "W", "g") if key in case.inputs), None)
    values = np.abs(case.inputs[name]) if name else np.array([1.0])
    return float(values[np.isfinite(values)].max())


def batch(case: Case) -> int | None:
    name = next((key for key in ("x", "s", "images") if key in case.inputs), None)
    return None if name is None else len(case.inputs[name])


def does_not_divide(case: Case) -> bool:
    if "window" in case.settings:
        window: Window = case.settings["window"]
        size = case.inputs["x"].shape[2:]
        sides = zip(size, window.kernel, window.stride, window.padding, strict=True)
        return any((n + 2 * p - k) % s for n, k, s, p in sides)
    shape = next(case.inputs[key] for key in ("x", "s", "W", "g", "images") if key in case.inputs).shape
    return any(n % 2 for n in shape) and any(n > 4 for n in shape)


def constant_channel(case: Case) -> bool:
    x = case.inputs["x"]
    columns = x if x.ndim == 2 else np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    return len(columns) > 1 and bool((np.ptp(columns, axis=0) == 0).any())


def tied(case: Case) -> bool:
    x = case.inputs["x"]
    return len(np.unique(x)) < x.size / 8


TRAPS: dict[str, Callable[[Case], bool]] = {
    "exact zeros": lambda c: any((a == 0).any() for a in floats(c)),
    "one sample": lambda c: batch(c) == 1,
    "one class": lambda c: c.inputs["s"].shape[1] == 1,
    "huge": lambda c: largest(c) > 1e3,
    "tiny": lambda c: largest(c) < 1e-15,
    "ties": tied,
    "constant channel": constant_channel,
    "strided": lambda c: c.layout == "strided",
    "channels-last": lambda c: c.layout == "channels-last",
    "does not divide": does_not_divide,
    "NaN": lambda c: any(np.isnan(a).any() for a in floats(c)),
    "infinity": lambda c: any(np.isinf(a).any() for a in floats(c)),
}
SIZES = {"one sample", "huge", "tiny", "strided", "does not divide", "NaN", "infinity"}
LOGITS = SIZES | {"one class"}
WHERE = {
    "linear": SIZES | {"exact zeros"},
    "leaky_relu": SIZES | {"exact zeros", "channels-last"},
    "dropout": SIZES | {"exact zeros"},
    "flatten": {"one sample", "strided", "channels-last", "does not divide"},
    "conv2d": SIZES | {"exact zeros", "channels-last"},
    "conv2d_winograd": {"one sample", "strided", "channels-last"},
    "max_pool2d": SIZES | {"exact zeros", "ties", "channels-last"},
    "batch_norm_manual": SIZES - {"infinity"} | {"exact zeros", "constant channel", "channels-last"},
    "batch_norm_autodiff": SIZES - {"infinity"} | {"exact zeros", "constant channel", "channels-last"},
    "batch_norm_evaluate": SIZES | {"exact zeros", "constant channel", "channels-last"},
    "linear_norm": {"huge", "tiny", "strided", "does not divide", "constant channel"},
    "softmax": LOGITS | {"exact zeros"},
    "cross_entropy": LOGITS | {"exact zeros"},
    "squared_error": LOGITS | {"exact zeros"},
    "hinge": LOGITS - {"NaN", "infinity"} | {"exact zeros"},
    "l2": {"exact zeros", "huge", "tiny", "strided", "does not divide", "NaN"},
    "optimizer": {"exact zeros", "huge", "tiny", "strided", "NaN"},
    "augmentation": {"one sample", "strided", "channels-last", "does not divide"},
}


@pytest.mark.parametrize("item", WHERE)
def test_every_trap_is_among_the_cases(item: str) -> None:
    missing = {trap for trap in WHERE[item] if not any(TRAPS[trap](c) for c in cases_of(item))}
    assert missing == set()


def test_every_item_with_inputs_has_its_traps_listed() -> None:
    prepared = {"learning_rate", "initial_draws", "initial_parameters", "augmentation_draws", "preprocessing"}
    prepared |= {"initial_constants", "batch_order", "validation_split"}
    assert set(WHERE) == set(ITEMS) - prepared
    assert {name for name, operator in OPERATORS.items() if operator.draw} == set(WHERE) - {"conv2d_winograd"}


# --- augmentation ---


def flipped_first(images: Any, shifts: Any, flips: Any, border: int) -> Any:
    mirrored = augment_before(images, None, flips, border)
    return augment_before(mirrored, shifts, None, border)


def no_border(images: Any, shifts: Any, flips: Any, border: int) -> Any:
    """Pixels at the edge repeated in place of black ones."""
    if shifts is None:
        return augment_before(images, shifts, flips, border)
    wide = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)), mode="edge")
    moved = augment_before(wide, shifts, None, border)
    cut = moved[:, :, border : border + images.shape[2], border : border + images.shape[3]]
    return augment_before(cut, None, flips, border)


augment_before = augment.augment


@pytest.mark.parametrize("wrong", [flipped_first, no_border])
@pytest.mark.parametrize("item", ["augmentation", "preprocessing"])
def test_wrong_augmentation_fails(item: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flip before the crop is another augmentation wherever the shift is not in the middle."""
    monkeypatch.setattr(augment, "augment", wrong)
    failed = {r.case for r in check.run([item], ["numpy"], ["float32"]) if not r.passed}
    assert len(failed) > 1
    assert not failed & {"flips alone", "none flips", "no shift, all flip", "neither", "mean-image"}


# --- drawn inputs ---


def test_a_planted_bug_is_drawn_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "leaky_relu_backward", lambda dy, x, slope: np.where(x >= 0, dy, slope * dy))
    results = check.run(["leaky_relu"], ["numpy"], ["float32"], quick=True, drawn=20)
    (smallest,) = [r for r in results if r.case == "drawn and shrunk, seed 0"]
    assert not smallest.passed
    assert smallest.quantity == "dx"
    assert smallest.index == (0, 0)
    assert smallest.note.startswith("x [[0.0]], dy [[")
    assert "layout plain" in smallest.note
    assert sum(r.case.startswith("drawn ") for r in results) > 30


def test_what_holds_is_not_shrunk() -> None:
    results = check.run(["softmax"], ["numpy", "torch"], ["float64"], quick=True, drawn=5, seed=3)
    drawn_cases = {r.case for r in results if r.case.startswith("drawn")}
    assert drawn_cases == {f"drawn {n}, seed 3" for n in range(1, 6)}
    assert all(r.passed for r in results)


def test_jax_draws_from_few_shapes() -> None:
    shapes = {case.inputs["x"].shape for case in drawn.examples("conv2d", 20, 0, few=True)}
    assert len(shapes) == 1
    assert all(r.passed for r in check.run(["leaky_relu"], ["jax"], ["float32"], quick=True, drawn=3))


def test_another_seed_draws_other_inputs() -> None:
    first, again, other = (drawn.examples("linear", 8, seed) for seed in (0, 0, 1))
    assert first is again
    shapes = [[case.inputs["x"].shape for case in found] for found in (first, other)]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize("loaded", ["parity.suite.backends.torch", "parity.runs.growth"])
def test_draws_do_not_depend_on_what_is_loaded(loaded: str) -> None:
    """hypothesis reads constants off the source of loaded modules, unless it is kept from it."""
    code = (
        f"import {loaded}\nfrom parity.suite.drawn import examples\n"
        "print([(c.inputs['x'].tolist(), c.layout) for c in examples('leaky_relu', 10, 0)])"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    here = [(c.inputs["x"].tolist(), c.layout) for c in drawn.examples("leaky_relu", 10, 0)]
    assert run.stdout.strip() == str(here)


def test_the_full_check_draws_if_it_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "--backend", "numpy", "--item", "leaky_relu", "--dtype", "float64"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    monkeypatch.setattr(drawn, "available", lambda: False)
    assert main(arguments) == 0
    without = capsys.readouterr().out
    counts = [int(text.split(" comparisons took")[0].rsplit("\n", 1)[-1]) for text in (told, without)]
    assert counts[0] - counts[1] == 2 * drawn.PER_ITEM
    assert "No inputs were drawn" in without
    assert main([*arguments, "--drawn", "3"]) == 2
    assert "the package 'hypothesis', which is not installed" in capsys.readouterr().err


# --- formats on devices that are not here ---


@pytest.mark.parametrize(
    ("backend", "device", "extra"),
    [
        ("jax", "gpu", ["tf32", "shipped-tf32"]),
        ("torch", "gpu", ["tf32", "shipped-float32"]),
        ("jax", "tpu", ["shipped-bfloat16"]),
    ],
)
def test_an_accelerator_gets_its_reduced_modes(
    backend: str, device: Any, extra: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, None]] = {}

    def by_numpy(inputs: Any, settings: Settings, place: Place) -> Outputs:
        seen.setdefault(place.device, {})[place.dtype] = None
        return backends.computations("numpy")["linear"](inputs, settings, place)

    monkeypatch.setattr(check, "devices", lambda name: ["cpu", device])
    results = check.run(["linear"], [backend], quick=True, replaced={(backend, "linear"): by_numpy})
    assert list(seen["cpu"]) == ["float64", "float32", "bfloat16"]
    assert list(seen[device]) == ["float64", "float32", "bfloat16", *extra]
    assert {r.device for r in results} == {"cpu", device}


def test_torch_ships_tf32_convolutions_alone() -> None:
    assert backends.shipped("torch", "conv2d", "gpu") == "shipped-tf32"
    assert backends.shipped("torch", "linear_norm", "gpu") == "shipped-float32"
    assert backends.shipped("jax", "conv2d", "cpu") == "shipped-float32"
    assert backends.shipped("numpy", "linear", "cpu") is None


def test_what_a_framework_ships_is_judged_on_a_cpu_if_asked_for() -> None:
    results = check.run(["linear"], ["numpy", "torch", "jax"], ["shipped"], quick=True)
    assert {(r.backend, r.dtype) for r in results} == {(b, "shipped-float32") for b in ("torch", "jax")}
    assert all(r.passed for r in results)


def test_the_limit_of_what_is_shipped_is_its_mode_s() -> None:
    assert rounding("shipped-float32").operand_u == 0
    assert rounding("shipped-tf32").operand_u == rounding("tf32").operand_u == TF32_U
    assert rounding("shipped-bfloat16").operand_u == ROUNDINGS["bfloat16"].u


# --- whole networks ---


def told(backend: str, dtype: str) -> dict[tuple[str, str], str]:
    """(model, quantity of its evaluation) to the note; nothing may fail."""
    results = check.run(["model"], [backend], [dtype])
    assert all(r.passed for r in results)
    return {(r.case, r.quantity): r.note for r in results if "statistics" in r.quantity}


def test_predictions_are_sure_where_worst_cases_leave_a_lead() -> None:
    exact, single, half = told("numpy", "float64"), told("numpy", "float32"), told("torch", "bfloat16")
    normed = ("MLP, batch norm, dropout", "shallow CNN", "CNN")
    for statistics in ("running", "batch"):
        for model in normed:
            assert exact[model, f"predictions, {statistics} statistics"] == "20 of 20 sure, all right"
            assert (model, f"evaluation loss, {statistics} statistics") in exact
    for model in ("one layer", "MLP", *normed):
        assert int(single[model, "predictions, running statistics"].split()[0]) > 5
    assert int(half["one layer", "predictions, running statistics"].split()[0]) > 5


def test_evaluation_by_the_wrong_statistics_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_bessel(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, eps: float) -> Any:
        return before(x, gamma, beta, mean, variance * (20 / 19), eps)

    before = norm.normalize
    monkeypatch.setattr(norm, "normalize", with_bessel)
    failed = {r.quantity for r in check.run(["model"], ["numpy"], ["float64"]) if not r.passed}
    assert failed == {"evaluation loss, running statistics"}


# --- the accuracy of library functions ---


def test_library_functions_are_as_accurate_as_limits_assume() -> None:
    found = list(ulps.measure("numpy", 200_003))
    assert {(m.function, m.dtype) for m in found} >= {(name, "float32") for name in ("exp", "log", "rsqrt")}
    assert all(0.4 < m.ulps <= m.allowed for m in found)


def test_a_function_that_is_too_far_off_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = ulps._function
    coarse = lambda library, name, dtype: lambda x: right(library, name, dtype)(x) * x.dtype.type(1 + 1e-6)  # noqa: E731
    monkeypatch.setattr(ulps, "_function", coarse)
    monkeypatch.setattr(ulps, "SAMPLES", 1000)
    assert main(["ulps", "--library", "numpy", "--stride", "2000003"]) == 1
    assert "TOO FAR" in capsys.readouterr().out
