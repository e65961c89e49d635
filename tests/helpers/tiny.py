"""Tiny runs on a tiny data set, for the tests of the run machinery, and a program that dies on demand.

    python -m tests.helpers.tiny SIGKILL:replace:5 --backend numpy --steps 12

is train.py on the tiny data, killed just before its fifth os.replace (see `DEATHS` for the other moments).
"""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import triptych.show.plots
import triptych.train.launch
import triptych.train.loop
from triptych import cifar10
from triptych.cifar10 import Dataset, generated
from triptych.describe.protocol import Backend, TrainingData, create
from triptych.describe.schedule import learning_rates
from triptych.describe.spec import Experiment
from triptych.store import checkpoint
from triptych.store.checkpoint import Checkpoint
from triptych.store.records import sha256
from triptych.store.run_dir import RunDirectory
from triptych.train import command as train
from triptych.train.options import RunOptions

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("numpy", "jax", "torch")
TRAIN, TEST = 400, 100
BASE: dict[str, Any] = {
    "hidden": (6,),
    "init": "framework",
    "learning_rate": 1e-5,
    "dataset": "generated",
    "batch_size": 20,
    "steps": 12,
    "eval_every": 4,
}
"""Settings of every tiny run: 12 steps, three evaluations, less than an epoch."""
DEATHS: dict[str, tuple[object, str]] = {
    "replace": (os, "replace"),
    "fsync": (os, "fsync"),
    "unlink": (Path, "unlink"),
    "append": (RunDirectory, "append_metrics"),
    "plan": (triptych.train.loop.Run, "plan"),
    "save": (triptych.train.loop.Run, "save"),
}
"""Moments at which a run can be made to die: just before the n-th call of one of these."""


@functools.cache
def dataset() -> Dataset:
    return Dataset.of(generated.generate(train=TRAIN, test=TEST), "generated")


def settings(**changes: Any) -> Experiment:
    """BASE with changes, by the fields' plain names."""
    values = BASE | changes
    groups = {}
    for group, kind in get_type_hints(Experiment).items():
        own = {field.name for field in dataclasses.fields(kind)}
        groups[group] = kind(**{name: values.pop(name) for name in own & set(values)})
    assert not values, f"no such settings: {values}"
    return Experiment(**groups)


def arguments(**changes: Any) -> list[str]:
    """The command line for `settings(**changes)`."""
    words = []
    for name, value in (BASE | changes).items():
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return words


def install(patch: Callable[[Any, str, Any], None], capacity: int = 3) -> None:
    """Let every run in this process take the tiny data, `capacity` steps a call, and draw no picture.

    `patch` is setattr, or pytest's monkeypatch.setattr.
    """
    patch(cifar10, "load", lambda *_, **__: dataset())
    patch(triptych.train.loop, "steps_per_call", lambda *_: capacity)
    patch(triptych.show.plots, "curves", lambda records, title: b"no picture in these tests")
    patch(triptych.train.launch, "create", _create)


_MADE: dict[tuple[str, Experiment, str], Backend] = {}


def _create(name: Any, what: Experiment, data: TrainingData, device: Any = "auto") -> Backend:
    """A backend that may have run before, so that jax compiles each experiment once."""
    key = (name, what, device)
    if key not in _MADE:
        _MADE[key] = create(name, what, data, device)
    return _MADE[key]


def launch(folder: Path, what: Experiment, backend: str = "numpy", **options: Any) -> int:
    """One command's work, as train.py has it done; the exit code."""
    return triptych.train.launch.launch(RunOptions(backend=backend, run_dir=folder, **options), what)  # type: ignore[arg-type]


def finished(folder: Path, what: Experiment, backend: str = "numpy", **options: Any) -> Path:
    """The folder of a finished run, for fixtures that outlive the patches of one test."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch.setattr)
        assert launch(folder, what, backend, **options) == 0
    return folder


def call(*words: str) -> int:
    """train.py's exit code for these words."""
    try:
        return train.main(list(words))
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else -1


def newest(folder: Path) -> Checkpoint:
    """A run's newest checkpoint; none may be damaged."""
    found, damaged = checkpoint.load_latest(folder / "checkpoints")
    assert found is not None
    assert damaged == []
    return found


def contents(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def summary(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "summary.json").read_bytes())
    return loaded


def metrics(folder: Path, kind: str = "train eval") -> list[dict[str, Any]]:
    """The records in metrics.jsonl without what depends on the clock; every line must be whole."""
    lines = (folder / "metrics.jsonl").read_text().split("\n")
    assert lines.pop() == "", "metrics.jsonl does not end with a line's end"
    records = [json.loads(line) for line in lines]
    clock = {"time", "train_seconds"}
    return [
        {key: value for key, value in record.items() if key not in clock}
        for record in records
        if record["kind"] in kind
    ]


def results(folder: Path) -> tuple[str, list[dict[str, Any]], list[int]]:
    """All that a finished run computed: parameters' digest, metrics, predictions."""
    predictions = np.load(folder / "predictions.npy").tolist()
    return summary(folder)["parameters_sha256"], metrics(folder), predictions


def rewind(folder: Path, copy: Path, step: int) -> Path:
    """A copy of a finished run as if it had died just after its checkpoint of `step`, metrics ahead."""
    shutil.copytree(folder, copy)
    for name in ("summary.json", "predictions.npy", "curves.png"):
        (copy / name).unlink()
    for path in (copy / "checkpoints").iterdir():
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()
    return copy


def rewrite_metrics(folder: Path, records: list[dict[str, Any]]) -> None:
    """Another past for a run, with checkpoints that vouch for it."""
    directory = RunDirectory(folder)
    directory.restart_metrics(records)
    for step, path in checkpoint.listing(directory.checkpoints):
        found = checkpoint.load(path)
        found.info["metrics_sha256"] = sha256(record for record in records if record["step"] <= step)
        checkpoint.save(path.parent, found)


def flip(path: Path, at: int = -1) -> None:
    """Damage one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def huge_rate(what: Experiment, first: int, count: int) -> np.ndarray:
    """In place of `learning_rates`: far too high at step 6, in the middle of a call."""
    return np.where(np.arange(first, first + count) == 5, 1e38, learning_rates(what, first, count))


# --- the program ---------------------------------------------------------------------------------


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python on these words in a process of its own, one thread."""
    variables = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=170
    )


def run(moment: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """This file as a program, warnings shown on its standard error."""
    return python("-W", "always", "-m", "tests.helpers.tiny", moment, *command, **environment)


class Killed(BaseException):
    """Stands for SIGKILL within this process: nothing in the program may catch it."""


@contextlib.contextmanager
def killed(moment: str) -> Iterator[None]:
    """Dies at `moment` with Killed, within this process."""
    with pytest.MonkeyPatch.context() as patch:
        arm(patch.setattr, moment, kill)
        with pytest.raises(Killed):
            yield


def kill(_: signal.Signals) -> None:
    raise Killed


def arm(patch: Callable[[Any, str, Any], None], moment: str, die: Callable[[signal.Signals], None]) -> None:
    """At `moment`, such as SIGINT:append:2, call `die` with the signal; "never" arms nothing."""
    if moment == "never":
        return
    name, place, count = moment.split(":")
    owner, attribute = DEATHS[place]
    original = getattr(owner, attribute)
    calls = 0

    def wrapped(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(count):
            die(signal.Signals[name])
        return original(*args, **keywords)

    patch(owner, attribute, wrapped)


def main(argv: list[str]) -> int:
    install(setattr)
    arm(setattr, argv[0], lambda number: os.kill(os.getpid(), number))
    return train.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
