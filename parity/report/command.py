"""`python -m parity report`: check, grow and self-test in one go, each part kept as soon as it is there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

from parity.planted.self_test import document as matrix
from parity.planted.self_test import render as render_matrix
from parity.planted.self_test import run as run_self_test
from parity.report import page, saving
from parity.report import results as saved
from parity.report.check_command import check
from parity.report.progress import show
from parity.runs import growth
from parity.runs.growth import Growth
from parity.runs.growth_command import OUT, Wanted, follow, save
from parity.suite.backends import BACKENDS, installed
from triptych.cifar10 import Dataset
from triptych.cifar10.generated import generate
from triptych.cifar10.preprocess import prepare
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
    prefix = "quick-" if quick else ""
    makers: dict[Part, Callable[[], object]] = {
        "check": lambda: check(quick=quick, drawn=0, json=out / f"{prefix}check.json"),
        "grow": lambda: _grow(quick, dataset, data_dir, out),
        "self-test": lambda: _self_test(quick, out / f"{prefix}self-test.json"),
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

    def files(part: Part, pattern: str) -> list[Path]:
        asked = not parts or part in parts
        return sorted(out.glob(f"quick-{pattern}" if quick else pattern)) if asked else []

    checks, tests = files("check", "check.json"), files("self-test", "self-test.json")
    growths = [Growth.of(read_json(path)) for path in files("grow", "growth-*.json")]
    return page.Findings(
        saved.read_json(checks[0]) if checks else None,
        sorted(growths, key=lambda one: (one.experiment, one.dtype != "float64")),
        read_json(tests[0]) if tests else None,
        quick,
        datetime.now().astimezone().strftime("%Y-%m-%d"),
    )


def document(found: page.Findings) -> dict[str, Any]:
    return {
        "passed": found.passed,
        "check": None if found.checks is None else saved.document(found.checks),
        "growth": [one.document() for one in found.growths],
        "self_test": found.self_test,
    }


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


def _self_test(quick: bool, path: Path) -> None:
    outcomes = run_self_test(quick=quick, progress=show)
    show("")
    print("\n" + render_matrix(outcomes))
    saving.write_json(path, matrix(outcomes), "out")


def small_run() -> tuple[Experiment, TrainingData]:
    """A run that takes a second: 60 generated images, hidden 12 and 8 with batch norm, 30 steps of plain SGD.

    Not Adam: the twin's moments are not kicked, and in arrays this small a draw of signs can miss that.
    """
    spec = Experiment(
        model=Model(hidden=(12, 8), batch_norm="manual"),
        initialization=Initialization("framework"),
        optimization=Optimization(learning_rate=1e-3, weight_decay=1e-4),
        data=Data(batch_size=16),
        training=replace(Training(), steps=30, dtype="float64"),
    )
    dataset = Dataset.of(generate(train=60, test=40), "generated")
    return spec, prepare(dataset, spec.data.preprocess)
