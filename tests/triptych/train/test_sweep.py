"""Runs trained together by one program are the runs trained one by one: numbers, folders, interruptions."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from jax_models.backend import find_devices
from jax_models.sweep import JaxSweep
from tests.helpers import small, tiny
from triptych.describe.grid import common, grid
from triptych.describe.init import initial_parameters
from triptych.describe.protocol import create
from triptych.describe.spec import Experiment, Optimization, Schedule
from triptych.describe.state import State
from triptych.errors import UserError
from triptych.train.launch import Job, grouped, launch_all
from triptych.train.lockstep import call_length
from triptych.train.options import RunOptions

OPTIMIZERS = {
    "momentum": Optimization(momentum=0.9, nesterov=True),
    "adam": Optimization(optimizer="adam"),
    "adamw": Optimization(optimizer="adamw"),
    "amsgrad": Optimization(optimizer="adam", beta2=0.9, amsgrad=True),
}
SETTINGS = ((1e-3, 0.0, 0), (5e-4, 1e-2, 1), (2e-4, 1e-4, 0), (1e-3, 0.3, 2))
"""Learning rate, weight decay and seed of each run."""
DATA = small.data()


def runs(optimizer: str, dtype: str, share: float = 1.0) -> list[Experiment]:
    """With dropout, batch norm, crops and flips; the second run has a schedule of its own. Learning rates are
    `share` of those in SETTINGS.
    """
    base = small.experiment(dtype)
    base = replace(
        base,
        model=replace(base.model, dropout=0.2, batch_norm="manual"),
        data=replace(base.data, random_crop=2, random_flip=True),
    )
    made = []
    for rate, decay, seed in SETTINGS:
        o = replace(OPTIMIZERS[optimizer], learning_rate=share * rate, weight_decay=decay)
        made.append(replace(base, optimization=o, training=replace(base.training, seed=seed)))
    made[1] = replace(made[1], schedule=Schedule(schedule="cosine", warmup_steps=5))
    return made


def alone(run: Experiment, steps: int) -> State:
    backend = create("jax", run, DATA, "cpu")
    backend.start(initial_parameters(run))
    backend.compile(10)
    for first in range(0, steps, 10):
        backend.train(small.steps(run, DATA, first, 10))
    return backend.export_state()


def together(made: list[Experiment], steps: int, at_once: int, devices: int = 1) -> list[State]:
    return trained(program(made, at_once, devices), made, steps)


def program(made: list[Experiment], at_once: int, devices: int = 1) -> JaxSweep:
    """Asserts that training is traced once."""
    sweep = JaxSweep(made, DATA, find_devices("cpu")[:devices], at_once)
    assert sweep._mesh.size == devices
    chex.clear_trace_counter()  # it counts by function, and every sweep has the same
    once = chex.assert_max_traces(sweep.train_group, n=1)
    sweep._train = jax.jit(once, donate_argnums=0, out_shardings=sweep._divided)
    return sweep


def trained(sweep: JaxSweep, made: list[Experiment], steps: int) -> list[State]:
    """The states after so many steps of these runs; asserts that training was compiled once."""
    for member, run in zip(sweep.members, made, strict=True):
        member.start(initial_parameters(run))
    sweep.compile(10)
    for first in range(0, steps, 10):
        sweep.train({seat: small.steps(run, DATA, first, 10) for seat, run in enumerate(made)})
    compiled: Any = sweep._train
    assert compiled._cache_size() == 1
    return [member.export_state() for member in sweep.members]


def worst(left: State, right: State) -> float:
    """Largest relative difference of an array in norm."""
    ours, theirs = left.arrays(), right.arrays()
    assert (left.updates, ours.keys()) == (right.updates, theirs.keys())
    return max(
        float(np.linalg.norm(ours[key] - theirs[key])) / max(float(np.linalg.norm(theirs[key])), 1e-300)
        for key in theirs
    )


@pytest.mark.parametrize(
    "optimizer",
    [name if name == "adam" else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS],
)
def test_in_float64_together_is_one_by_one(optimizer):
    """One after another in the program, and three at once, which leaves two seats spare."""
    made = runs(optimizer, "float64")
    expected = [alone(run, 30) for run in made]

    def agreeing(at_once: int) -> JaxSweep:
        sweep = program(made, at_once)
        for state, wanted in zip(trained(sweep, made, 30), expected, strict=True):
            assert worst(state, wanted) <= 1e-12
        return sweep

    agreeing(3)
    sweep = agreeing(1)
    swapped = [replace(run) for run in made]
    swapped[0], swapped[2] = (
        replace(a, optimization=replace(a.optimization, learning_rate=b.optimization.learning_rate))
        for a, b in ((made[0], made[2]), (made[2], made[0]))
    )
    wrong = trained(sweep, swapped, 30)  # rates come with the steps: the same program
    assert [worst(state, wanted) > 1e-12 for state, wanted in zip(wrong, expected, strict=True)] == [
        True, False, True, False,
    ]  # fmt: skip


@pytest.mark.slow
def test_in_float32_together_is_one_by_one_to_rounding():
    """Another order of rounding may move a run as far as rounding itself does: by as much as float32 lies
    from float64 of the same run. Two float32 runs are at most twice that apart, one such distance each. Low
    rates, so that no LeakyReLU input changes sign by rounding: past such a jump no distance says anything.
    """
    made, exact = (runs("adam", dtype, 0.1) for dtype in ("float32", "float64"))
    found = together(made, 100, 3)
    swapped = together([made[2], made[1], made[0], made[3]], 100, 3)
    for place, run in enumerate(made):
        wanted, truth = alone(run, 100), alone(exact[place], 100)
        limit = 2 * worst(wanted, truth)
        assert 0 < limit < 1e-4
        assert worst(found[place], wanted) <= limit
        if place in (0, 2):
            assert worst(swapped[place], wanted) > limit


DIVIDED = """
from tests.triptych.train.test_sweep import runs, together, worst
made = runs("adam", "float64")[:3]
expected = together(made, 30, 1)
for at_once in (1, 2):
    found = together(made, 30, at_once, devices=2)
    print(all(worst(state, wanted) <= 1e-12 for state, wanted in zip(found, expected, strict=True)))
"""


def test_runs_divided_among_two_devices_are_the_same():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = tiny.python("-c", DIVIDED, **flags)
    assert (done.returncode, done.stdout) == (0, "True\nTrue\n"), done.stderr


ADAM = {"optimizer": "adam", "dropout": 0.3, "weight_decay": 1e-2, "validation": 40}
GRID = ("--sweep", "learning_rate=1e-3,1e-4", "seed=0,1")


def folders(parent: str) -> dict[str, Path]:
    return {path.name: path for path in Path(parent).iterdir() if path.is_dir()}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_each_run_leaves_the_folder_of_a_run_alone(backend, capsys):
    words = tiny.arguments(**ADAM)
    assert tiny.call("--backend", backend, "--run-dir", "all", *words, *GRID) == 0
    made = folders("all")
    assert len(made) == 4
    for seed in (0, 1):
        one = ("--backend", backend, *tiny.arguments(**ADAM | {"learning_rate": 1e-3, "seed": seed}))
        assert tiny.call(*one, "--run-dir", f"one{seed}") == 0
        swept = made[f"learning_rate=0.001,seed={seed}"]
        assert tiny.results(swept) == tiny.results(Path(f"one{seed}"))
        assert (swept / "config.json").read_text() == Path(f"one{seed}/config.json").read_text()
        assert {p.name for p in swept.rglob("*")} == {p.name for p in Path(f"one{seed}").rglob("*")}
        assert said(swept) == said(Path(f"one{seed}"))
        assert "test accuracy" in said(swept)[-1]
        capsys.readouterr()
        assert tiny.call(*one, "--run-dir", str(swept)) == 0
        assert "already finished, nothing to do" in capsys.readouterr().out
        assert tiny.summary(swept).get("sweep", {}).get("runs") == (4 if backend == "jax" else None)
    rows = json.loads(Path("all/sweep.json").read_text())["runs"]
    assert [(row["learning_rate"], row["seed"], row["status"]) for row in rows] == [
        (rate, seed, "finished") for rate in (1e-3, 1e-4) for seed in (0, 1)
    ]
    for row in rows:
        assert row["test_accuracy"] == tiny.summary(made[row["folder"]])["test_accuracy"]
    before = tiny.contents(Path("all"))
    assert tiny.call("--backend", backend, "--run-dir", "all", *words, *GRID) == 0
    assert tiny.contents(Path("all")) == before


def said(folder: Path) -> list[str]:
    """The lines of a run's log that do not depend on where and how fast it ran."""
    lines = [line[21:] for line in (folder / "log.txt").read_text().splitlines()]
    return [line for line in lines if line.startswith(("fig1", "mlp", "data", "step", "test accuracy"))]


@pytest.mark.usefixtures("machine")
def test_runs_left_at_different_steps_go_on_to_the_same_end():
    command = ("--backend", "jax", *tiny.arguments(**ADAM), *GRID)
    assert tiny.call(*command, "--run-dir", "whole", "--keep-checkpoints", "9") == 0
    whole = folders("whole")
    names = list(whole)
    for name, step in zip(names, (4, 8, 8), strict=False):
        tiny.rewind(whole[name], Path("cut") / name, step)  # the fourth has not begun
    assert tiny.call(*command, "--run-dir", "cut") == 0
    for name in names:
        assert tiny.results(Path("cut") / name) == tiny.results(whole[name])


@pytest.mark.parametrize(
    ("moment", "code"),
    [pytest.param("SIGINT:append:9", 130, marks=pytest.mark.slow), ("SIGKILL:save:11", -9)],
)
def test_an_interrupted_sweep_goes_on_to_the_same_weights(tmp_path, moment, code):
    words = ("--backend", "jax", "--run-dir", str(tmp_path / "run"), *tiny.arguments(**ADAM), *GRID)
    cache = {"TRIPTYCH_CACHE_DIR": str(tmp_path / "compiled")}  # the three processes compile once
    assert tiny.run(moment, *words, **cache).returncode == code
    assert not list((tmp_path / "run").rglob("summary.json"))
    assert tiny.run("never", *words, **cache).returncode == 0
    whole = (*words[:3], str(tmp_path / "whole"), *words[4:])
    assert tiny.run("never", *whole, **cache).returncode == 0
    for name, folder in folders(str(tmp_path / "whole")).items():
        assert tiny.results(tmp_path / "run" / name) == tiny.results(folder)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_a_run_that_breaks_down_leaves_the_others_alone(backend, capsys):
    words = ("--backend", backend, "--run-dir", "all", *tiny.arguments())
    assert tiny.call(*words, "--sweep", "learning_rate=1e-5,1e30,1e-6") == 3
    text = capsys.readouterr().out
    assert "failed: all/learning_rate=1e+30: training stopped being finite at step 2" in text
    assert "in the output of layer linear2" in text
    rows = json.loads(Path("all/sweep.json").read_text())["runs"]
    assert [row["status"] for row in rows] == ["finished", "failed", "finished"]
    assert tiny.call("--backend", backend, "--run-dir", "one", *tiny.arguments(learning_rate=1e-6)) == 0
    assert tiny.results(Path("all/learning_rate=1e-06")) == tiny.results(Path("one"))
    assert tiny.newest(Path("all/learning_rate=1e+30")).step == 0


@pytest.mark.slow
@pytest.mark.usefixtures("machine")
def test_a_run_that_stops_early_rests_while_the_others_go_on():
    stopping = {"early_stopping": 1, "eval_every": 3, "optimizer": "adam"}
    words = tiny.arguments(**stopping)
    assert tiny.call("--backend", "jax", "--run-dir", "all", *words, "--sweep", "learning_rate=0,1e-3") == 0
    for rate in ("0.0", "0.001"):
        one = tiny.arguments(**stopping, learning_rate=rate)
        assert tiny.call("--backend", "jax", "--run-dir", f"one{rate}", *one) == 0
        assert tiny.results(Path(f"all/learning_rate={rate}")) == tiny.results(Path(f"one{rate}"))
    assert tiny.summary(Path("all/learning_rate=0.0"))["steps"] == 6


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("backend", tiny.BACKENDS)
def test_a_dry_run_takes_two_steps_and_writes_nothing(backend, capsys):
    assert tiny.call("--backend", backend, *tiny.arguments(), *GRID, "--dry-run") == 0
    text = capsys.readouterr().out
    assert text.count("at step 2") == 4
    assert "nothing was written" in text
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("hidden=6,7", "sweep: hidden makes another program of each value"),
        ("optimizer=adam,sgd", "Run train.py once for each value of --optimizer"),
        ("rate=1,2", "sweep: no setting 'rate'; a sweep can change learning_rate, weight_decay, seed"),
        ("learning_rate=1e-3,fast", "expected numbers for learning_rate, got 'fast'"),
        ("learning_rate=1e-3,nan", "expected finite numbers for learning_rate, got 'nan'"),
        ("learning_rate=1e-3,", "expected numbers for learning_rate, got ''"),
        ("learning_rate", "expected learning_rate=A,B,C, got 'learning_rate'"),
        ("learning_rate=-1", "learning_rate: expected a finite number >= 0, got -1.0"),
        ("seed=0,0.5", "expected whole numbers for seed, got '0.5'"),
        ("seed=1,1", "seed has 1 more than once"),
        ("weight_decay=1e-3,0.001", "weight_decay has 0.001 more than once"),
    ],
)
@pytest.mark.usefixtures("machine")
def test_a_mistake_is_named(word, expected, capsys):
    assert tiny.call("--backend", "numpy", "--sweep", word) == 2
    assert expected in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_a_grid_is_every_combination_in_order():
    points = grid(tiny.settings(), ["seed=3,1", "learning-rate=1e-2,1e-3"])
    assert [point.values for point in points] == [
        {"seed": seed, "learning_rate": rate} for seed in (3, 1) for rate in (1e-2, 1e-3)
    ]
    assert points[1].experiment == tiny.settings(seed=3, learning_rate=1e-3)
    assert points[1].name == "seed=3,learning_rate=0.001"
    with pytest.raises(UserError, match="seed comes twice"):
        grid(tiny.settings(), ["seed=3", "seed=4"])


def test_only_runs_of_one_program_are_grouped(tmp_path):
    wide = tiny.settings(hidden=(7,))
    jobs = [Job(RunOptions("numpy", run_dir=tmp_path / str(i)), what) for i, what in enumerate(
        [tiny.settings(), wide, tiny.settings(seed=5, weight_decay=1.0, schedule="cosine")]
    )]  # fmt: skip
    assert grouped(jobs) == [[jobs[0], jobs[2]], [jobs[1]]]
    assert common(wide) != common(tiny.settings())
    with pytest.raises(UserError, match="a folder for each run"):
        launch_all([jobs[0], jobs[0]])


@pytest.mark.parametrize(
    ("alone", "runs", "length"),
    [(100, 1, 100), (100, 2, 100), (100, 4, 50), (100, 10, 20), (100, 40, 10), (14, 2, 14), (3, 40, 3)],
)
def test_calls_of_many_runs_are_short_but_not_too_short(alone, runs, length):
    assert call_length(alone, runs) == length
