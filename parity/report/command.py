"""`python -m parity report`: check, grow and self-test in one go, each part kept as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from parity.planted.self_test import document as matrix
from parity.planted.self_test import render as render_matrix
from parity.planted.self_test import run as run_self_test
from parity.report import page, saving
from parity.report import results as saved
from parity.report.progress import show
from parity.runs import growth
from parity.runs.growth import Growth
from parity.runs.growth_command import OUT, Wanted, follow, save
from parity.suite.backends import BACKENDS, installed
from parity.suite.check import run as run_checks
from parity.verification import table
from parity.verification.case import generator
from parity.verification.judge import Result
from triptych.cifar10.preprocess import fit
from triptych.describe.network import Model
from triptych.describe.protocol import TrainingData
from triptych.describe.spec import Data, Dtype, Experiment, Initialization, Optimization, Training
from triptych.errors import UserError
from triptych.store.sealed import read_json

Part = Literal["check", "grow", "self-test"]
RUNS = ("fig1", "fig5", "fig7")
FORMATS: tuple[Dtype, ...] = ("float64", "float32")


def report(
    quick: bool = False,
    only: tuple[Part, ...] = (),
    dataset: str = "auto",
    data_dir: Path | None = None,
    out: Path = OUT,
    json: Path | None = None,
    html: Path | None = None,
) -> int:
    """Run every proof and make one page of it: each part against the truth, whole runs, planted mistakes.

    Each part is written into the folder `out` as soon as it is done. Exit code 0: all holds, 1: something
    does not.

    Args:
        quick: The most telling cases, a small network's run, some of the planted mistakes: under a minute.
        only: Run only these parts afresh; what the folder has of the others is shown beside them.
        dataset: Of the whole runs, as for train.py.
        data_dir: As for train.py.
        out: Folder for results and page.
        json: Also write everything into this one file.
        html: Where the page goes; default: report.html in `out`.
    """
    begun = time.monotonic()
    parts = only or get_args(Part)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out: cannot make {out} ({error.strerror}); choose another --out") from None
    makers: dict[Part, Callable[[], None]] = {
        "check": lambda: _check(quick, out),
        "grow": lambda: _grow(quick, dataset, data_dir, out),
        "self-test": lambda: _self_test(quick, out),
    }
    for part, make in makers.items():
        if part in parts:
            make()
    found = collect(out, quick, parts if quick else ())
    target = html or out / "report.html"
    saving.write(target, page.render(found).encode(), "html")
    if json is not None:
        saving.write_json(json, document(found))
    print(f"\npage: {target}; {time.monotonic() - begun:.0f} s")
    print("Everything holds." if found.passed else "Something does NOT hold: see above and on the page.")
    return 0 if found.passed else 1


def collect(out: Path, quick: bool, parts: tuple[Part, ...]) -> page.Findings:
    """What the folder holds; of a quick run only its own parts."""
    prefix = "quick-" if quick else ""
    checks = out / f"{prefix}check.json"
    tests = out / f"{prefix}self-test.json"
    growths = sorted(out.glob(f"{prefix}growth-*.json"))
    use = {part: not parts or part in parts for part in get_args(Part)}
    return page.Findings(
        saved.read_json(checks) if use["check"] and checks.exists() else None,
        _ordered([Growth.of(read_json(path)) for path in growths]) if use["grow"] else (),
        read_json(tests) if use["self-test"] and tests.exists() else None,
        quick,
        datetime.now().astimezone().strftime("%Y-%m-%d"),
    )


def document(found: page.Findings) -> dict[str, Any]:
    """Everything as JSON values."""
    return {
        "passed": found.passed,
        "check": None if found.checks is None else saved.document(found.checks),
        "growth": [one.document() for one in found.growths],
        "self_test": found.self_test,
    }


def _check(quick: bool, out: Path) -> None:
    results: list[Result] = run_checks(quick=quick, progress=show)
    show("")
    print(table.render(results))
    for name in BACKENDS:
        if not installed(name):
            print(f"{name} is not installed and was left out.")
    saved.write_json(results, out / ("quick-check.json" if quick else "check.json"))


def _grow(quick: bool, dataset: str, data_dir: Path | None, out: Path) -> None:
    names = tuple(name for name in BACKENDS if installed(name))
    if len(names) < 2:
        print("Fewer than two backends are installed: no whole runs to compare.")
        return
    if quick:
        spec, data = small_run()
        found = [growth.grow("small MLP", spec, data, names)]
        save(found[0], out, "quick-")
    else:
        wanted = [Wanted(name, dtype) for name in RUNS for dtype in FORMATS]
        found = follow(wanted, names, dataset, data_dir, "cpu", out)
    show("")
    print("\n" + "\n\n".join(growth.table(one) for one in found))


def _self_test(quick: bool, out: Path) -> None:
    outcomes = run_self_test(quick=quick, progress=show)
    show("")
    print("\n" + render_matrix(outcomes))
    saving.write_json(out / ("quick-self-test.json" if quick else "self-test.json"), matrix(outcomes), "out")


def small_run() -> tuple[Experiment, TrainingData]:
    """A run that takes a second: 60 random images, hidden 12 and 8 with batch norm, 30 steps of plain SGD.

    Not Adam: the twin's moments are not kicked, and in arrays this small a draw of signs can miss that.
    """
    rng = generator("small run")
    images = {name: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for name, n in _SIZES.items()}
    labels = {name: rng.integers(0, 10, n).astype(np.uint8) for name, n in _SIZES.items()}
    mean, scale = fit(images["train"], "mean-image")
    spec = Experiment(
        model=Model(hidden=(12, 8), batch_norm="manual"),
        initialization=Initialization("framework"),
        optimization=Optimization(learning_rate=1e-3, weight_decay=1e-4),
        data=Data(batch_size=16),
        training=replace(Training(), steps=30, dtype="float64"),
    )
    return spec, TrainingData(images, labels, mean, scale)


_SIZES = {"train": 60, "test": 40}


def _ordered(growths: list[Growth]) -> list[Growth]:
    return sorted(growths, key=lambda one: (one.experiment, one.dtype != "float64"))
