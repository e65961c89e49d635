"""The bench: what it reports, whom it compares, and what it refuses."""

import copy
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import tiny
from triptych.bench import __main__ as command
from triptych.bench import agree, collect, measure, reports, runners, steps, text
from triptych.bench.cases import MODELS, VARIANTS, Case, case_of
from triptych.describe.cost import step_bytes, step_flops
from triptych.describe.spec import Experiment
from triptych.errors import UserError

OURS = ("numpy", "jax", "jax-step", "torch")
PLAIN = ("torch-usual", "torch-best")
assert isinstance(runners.OURS, dict)
OURS_BY_NAME: dict[str, Any] = runners.OURS


def ask(request: dict[str, Any]) -> dict[str, Any]:
    """What a process of its own would answer, from this one."""
    return measure.answer({**request, "spawned": time.time()})


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "steps_of", lambda case: 3)


def options(**changes: Any) -> steps.Options:
    chosen: dict[str, Any] = {"models": ("fig1",), "quick": True, **changes}
    return steps.Options(**chosen)


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """fig1 in every variant that needs no compiler, all in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect, "steps_of", lambda case: 3)
        return steps.measure(options(variants=(*OURS, *PLAIN)), ask)


def test_every_variant_trains_the_same_steps_and_gets_a_row(measured):
    assert measured["refused"] == measured["failed"] == measured["skipped"] == []
    assert {row["variant"] for row in measured["rows"]} == {*OURS, *PLAIN}
    numpy = next(row for row in measured["rows"] if row["variant"] == "numpy")
    for row in measured["rows"]:
        assert row["reference"] == numpy["reference"] == "fig1 numpy batch 200 float32 cpu"
        assert len(row["losses"]) == agree.STEPS
        assert np.allclose(row["losses"], numpy["losses"], rtol=0, atol=2e-6), row["variant"]


def test_a_rows_numbers_fit_together(measured):
    spec = Experiment()
    flops, moved = (max(c[key] for c in measured["ceilings"]) for key in ("flops_per_s", "bytes_per_s"))
    # 308,310 parameters moved 6 times, SGD has no slots; 110 outputs and one image each.
    assert step_bytes(spec) == 308_310 * 4 * 6 + 200 * (5 * 4 * 110 + 3072 + 3 * 4 * 3072)
    for row in measured["rows"]:
        seconds = row["step_ms"]["median"] / 1e3
        assert 0 < row["step_ms"]["min"] <= row["step_ms"]["median"] <= row["step_ms"]["max"]
        assert row["flops"] == step_flops(spec) == 2 * 200 * (2 * 3072 * 100 + 3 * 100 * 10)
        assert row["bytes"] == step_bytes(spec)
        assert row["images_per_s"] == pytest.approx(200 / seconds)
        assert row["run_s"] == pytest.approx(1500 * seconds)
        assert row["share_of_product"] == pytest.approx(row["flops"] / seconds / flops)
        assert row["share_of_copy"] == pytest.approx(row["bytes"] / seconds / moved)
        assert row["share_of_floor"] == pytest.approx(max(row["share_of_product"], row["share_of_copy"]))
        assert 0 < row["compile_s"] < row["first_step_s"] or row["variant"] not in ("jax", "jax-step")
        assert row["first_step_s"] > 0
        assert row["host_bytes"] > 50e6
        assert (row["device_bytes"], row["processes"], row["device_name"]) == (None, 1, "cpu")
    assert {"python", "numpy", "jax", "torch"} <= set(measured["versions"])
    assert measured["machine"]["cores"] >= 1


def test_a_cnn_agrees_in_torchs_forms(monkeypatch):
    """Convolutions, image batch norm and Adam, channels-last or not, from the same canonical parameters. The
    CNN's training with fewer and narrower layers.
    """
    right = Case.experiment
    model = replace(Case("cnn", "numpy", 8, "float32", "cpu").experiment().model, channels=("8", "M", "12"))
    monkeypatch.setattr(Case, "experiment", lambda case: replace(right(case), model=model))
    variants = ("numpy", "torch", *PLAIN)
    data = steps.measure(options(models=("cnn",), batches=(8,), variants=variants), ask)
    assert data["refused"] == data["failed"] == []
    assert {row["variant"] for row in data["rows"]} == set(variants)
    first = data["rows"][0]["losses"]
    assert np.ptp(first) > 0.1  # it does train


WRONG = {
    "half the rate": lambda e: replace(e, optimization=replace(e.optimization, learning_rate=1e-3)),
    "no training at all": lambda e: replace(e, optimization=replace(e.optimization, learning_rate=0.0)),
    "other batches": lambda e: replace(e, training=replace(e.training, seed=1)),
    "another slope": lambda e: replace(e, model=replace(e.model, slope=1.0)),
    "another optimizer": lambda e: replace(e, optimization=replace(e.optimization, optimizer="adam")),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_variant_is_refused_and_gets_no_speed(wrong, monkeypatch):
    right = Case.experiment

    def planted(case: Case) -> Experiment:
        return WRONG[wrong](right(case)) if case.variant == "planted" else right(case)

    def lying(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("variant") != "jax":
            return ask(request)
        monkeypatch.setattr(Case, "experiment", planted)
        monkeypatch.setitem(OURS_BY_NAME, "planted", ("numpy", False))
        answer = ask({**request, "variant": "planted"})
        monkeypatch.setattr(Case, "experiment", right)
        return answer

    # jax is asked after numpy, the reference, and planted by NumPy itself: nothing but the fault differs.
    data = steps.measure(options(variants=("numpy", "jax")), lying)
    assert [row["variant"] for row in data["rows"]] == ["numpy"]
    (refused,) = data["refused"]
    assert refused["variant"] == "jax"
    assert refused["reference"] == "fig1 numpy batch 200 float32 cpu"
    assert "step_ms" not in refused
    assert "refused, its losses disagree" in text.terminal(data)


def test_limits_follow_the_precision():
    reference, untrained = np.array([2.0, 1.8, 1.5]), np.array([2.0, 2.0, 2.0])
    limits = {name: agree.allowed(reference, untrained, name) for name in agree.UNIT}
    assert limits["float32"] == pytest.approx(
        [2 * 512 * 2**-24, 1.8 * 512 * 2**-24 + 0.02, 1.5 * 512 * 2**-24 + 0.05]
    )
    assert (limits["float32"] < limits["tf32"]).all()
    assert (limits["tf32"] < limits["bfloat16"]).all()
    coarse = list(reference + 0.9 * limits["bfloat16"])
    assert agree.disagreement(coarse, reference, untrained, "bfloat16", "float32") is None
    assert "at step 1" in str(agree.disagreement(coarse, reference, untrained, "float32", "float32"))
    gone = [2.0, float("nan"), 1.5]
    assert "nan at step 2" in str(agree.disagreement(gone, reference, untrained, "bfloat16", "float32"))
    assert "2 losses" in str(agree.disagreement([2.0, 1.8], reference, untrained, "float32", "float32"))


def test_a_variant_that_dies_is_reported_and_the_others_stay(monkeypatch):
    def dying(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("variant") == "jax":
            raise collect.ProcessFailed("out of memory")
        return ask(request)

    data = steps.measure(options(variants=("numpy", "jax")), dying)
    assert [row["variant"] for row in data["rows"]] == ["numpy"]
    assert [(row["variant"], row["reason"]) for row in data["failed"]] == [("jax", "out of memory")]


def test_repeats_take_turns_and_stop_at_the_deadline():
    asked: list[str] = []

    def noting(request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request.get("variant", "ceilings"))
        return ask(request)

    cases = [Case("fig1", "numpy", 200, "float32", "cpu"), Case("fig1", "numpy", 20, "float32", "cpu")]
    settings = collect.Settings(calls=1, images=300, quick=True)
    done = collect.collect(cases, 2, settings, noting, lambda *_: None)
    assert asked == ["ceilings", "numpy", "numpy"] * 2
    report = collect.report(done, settings, [])
    assert [row["processes"] for row in report["rows"]] == [2, 2]
    assert report["rows"][0]["later_first_step_s"] > 0
    asked.clear()
    collect.collect(cases, 2, settings, noting, lambda *_: None, deadline=time.monotonic() - 1)
    assert asked == []


def slower(data: dict[str, Any], factor: float) -> dict[str, Any]:
    other = copy.deepcopy(data)
    for row in other["rows"]:
        row["step_ms"] = {
            key: [factor * each for each in value] if key == "each" else factor * value
            for key, value in row["step_ms"].items()
        }
    return other


def test_compare_tells_a_difference_from_the_spread(measured):
    assert reports.compare(measured, measured).count("within the spread") == len(measured["rows"])
    apart = reports.compare(measured, slower(measured, 1000))
    assert apart.count("B is slower") == len(measured["rows"])
    assert apart.count(" 1000.000 ") == len(measured["rows"])
    assert reports.compare(slower(measured, 1000), measured).count("B is faster") == len(measured["rows"])
    assert "warning" not in apart
    spread = {"min": 1.0, "max": 2.0, "median": 1.5}
    assert reports.verdict(spread, {"min": 1.9, "max": 3.0, "median": 2.5}) == "within the spread"
    assert reports.verdict(spread, {"min": 2.1, "max": 3.0, "median": 2.5}) == "B is slower"


def test_compare_warns_of_another_device_and_names_what_only_one_has(measured):
    other = copy.deepcopy(measured)
    for row in other["rows"]:
        row["device_name"] = "gpu (another)"
    other["versions"]["jax"] = "0.0"
    gone = other["rows"].pop()
    out = reports.compare(measured, other)
    assert "warning: different devices: cpu and gpu (another)" in out
    assert f"notice: jax {measured['versions']['jax']} and 0.0" in out
    assert f"{case_of(gone).label()}: only in A" in out


REFUSALS: dict[str, Callable[[Any], Any]] = {
    "measured differently": lambda data: data["settings"].update(calls=99),
    "not the same work": lambda data: data["rows"][0].update(flops=1),
    "did not train the same network": lambda data: data["rows"][0].update(losses=[2.3126] * agree.STEPS),
    "no row in common": lambda data: [row.update(batch=7) for row in data["rows"]],
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_compare_refuses_files_that_measured_different_things(measured, reason):
    other = copy.deepcopy(measured)
    REFUSALS[reason](other)
    with pytest.raises(UserError, match=reason):
        reports.compare(measured, other)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no file"),
        ("{", "is not JSON"),
        ("[]", "is no bench report"),
        ('{"rows": []}', "is no bench report"),
        (json.dumps(dict.fromkeys(reports.REQUIRED, 0)), "has format 0, this version reads"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path, capsys, content, reason):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    assert command.main(["table", str(path)]) == 2
    assert reason in capsys.readouterr().err


GPU = ("--device", "gpu", "--models", "fig1", "--quick")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--models", "fig9"], "models: expected some of fig1, size7, size11, size11-bn, cnn, got 'fig9'"),
        (["--variants", "fast"], "variants: expected some of numpy, jax,"),
        (["--precisions", "float16"], "precisions: expected some of float32, tf32, bfloat16"),
        (["--variants", "torch-graphs"], "torch-graphs cannot run here: torch-graphs runs on gpu only"),
        (["--variants", "jax", "--precisions", "tf32"], "TF32 is a GPU's"),
        (["--repeats", "0"], "repeats: expected at least 1"),
        (["--batches", "1"], "batches: expected at least 2"),
        (["sweep", "--variants", "numpy"], "variants: expected some of jax-sweep, jax, torch, torch-usual,"),
        (["sweep", "--paired", "-1"], "paired: expected at least 0, got -1"),
        (["sweep", "--runs", "0"], "runs: expected at least 1, got 0"),
        (["sweep", "--repeats", "0"], "repeats: expected at least 1, got 0"),
        (["sweep", "--calls", "0"], "calls: expected at least 1, got 0"),
        (["whole", "--variants", "numpy"], "expected some of jax-sweep, jax, torch, got 'numpy'"),
        (["whole", "--runs", "0"], "runs: expected at least 1, got 0"),
        (["whole", "--repeats", "-1"], "repeats: expected at least 1, got -1"),
        (["whole", "--data-dir", "nowhere"], "data-dir: no folder nowhere"),
        ([*GPU, "--variants", "jax"], "JAX finds no gpu here"),
        ([*GPU, "--variants", "torch-best"], "torch finds no gpu"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(words, reason, capsys, monkeypatch):
    monkeypatch.setattr(steps, "processes", lambda: nullcontext(ask))
    assert command.main(words) == 2
    assert reason in capsys.readouterr().err


def test_torch_compile_without_a_compiler_says_so(capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    assert command.main(["--models", "fig1", "--variants", "torch-compile"]) == 2
    assert "torch.compile needs a C++ compiler" in capsys.readouterr().err
    cases, skipped = steps.plan(options())
    assert "torch-compile" not in {case.variant for case in cases}
    assert "torch-compile" in {case.variant for case, reason in skipped if "C++ compiler" in reason}


def test_the_command_measures_in_processes_and_writes_its_files(tmp_path):
    report = tmp_path / "bench.json"
    words = ["--quick", "--models", "fig1", "--variants", "numpy", "--json", str(report)]
    done = tiny.python("-W", "error", "-m", "triptych", "bench", *words)
    assert done.returncode == 0, done.stderr
    data = reports.read(report)
    (row,) = data["rows"]
    assert row["first_step_s"] > row["step_ms"]["median"] / 1e3
    assert row["steps_per_call"] == 100
    assert "fig1, batch 200, float32, cpu: 0.247 GFLOP, 15.8 MB, floor" in done.stdout


def test_tables_and_picture_hold_every_row(measured, tmp_path, capsys):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(measured))
    assert command.main(["table", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (*OURS, *PLAIN):
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        assert line.count("|") == len(text.COLUMNS) + 1
    assert command.main(["picture", str(path), str(tmp_path / "bench.png")]) == 0
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert command.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == ["variant", *VARIANTS]


def test_every_model_is_in_the_catalogue():
    for name in MODELS:
        assert step_flops(Case(name, "numpy", 8, "float32", "cpu").experiment()) > 0


def test_the_gpu_table_is_that_of_its_report():
    root = Path(__file__).resolve().parents[3]
    rows = json.loads((root / "docs/bench-results/h100-2026-11-26/cnn.json").read_text())["rows"]
    ms = {(row["batch"], row["precision"], row["variant"]): row["step_ms"]["median"] for row in rows}
    speed = {(row["batch"], row["precision"]): row["images_per_s"] for row in rows if row["variant"] == "jax"}
    page = (root / "docs/performance.md").read_text()
    for (batch, precision), images in speed.items():
        ours, theirs = ms[batch, precision, "jax"], ms.get((batch, precision, "torch-graphs"))
        others = (f"{theirs:.3g}", f"{theirs / ours:.2f}") if theirs else ("-", "-")
        cells = f"batch {batch}, {precision}", f"{ours:.3g}", *others, f"{images:,.0f}"
        assert f"| {' | '.join(cells)} |" in page
