"""The soak's parts in short, and promises too small for a part of their own: docs/reliability.md."""

import io
import itertools
import json
import socket
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.convert import files as weights
from tests.helpers import tiny
from tools.soak import faults, resume
from tools.soak.targets import targets
from triptych.describe import protocol as backend
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.show.progress import Terminal
from triptych.store import checkpoint
from triptych.store.checkpoint import Checkpoint
from triptych.store.run_dir import RunDirectory

pytestmark = pytest.mark.usefixtures("machine")


@pytest.mark.parametrize("part", ["kill", "signals", "mutate"])
def test_a_short_soak_keeps_every_promise(tmp_path, part):
    words = ("-m", "tools.soak", "--short", part, "--backends", "numpy", "--out", str(tmp_path))
    done = tiny.python(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / f"{part}.json").read_text())["figures"]
    least = {"kill": ("numpy: kills", 5), "signals": ("numpy: signals", 4), "mutate": ("inputs", 2000)}[part]
    assert figures[least[0]] >= least[1]


def test_faults_at_some_calls_of_the_system_keep_every_promise(tmp_path):
    report = faults.run(tmp_path / "faults", every=17)
    assert report.findings == []
    assert report.figures["calls of the system in a run"] > 60
    assert all(report.figures[f"{kind}: faults"] > 3 for kind in faults.KINDS)


@pytest.mark.parametrize("name", list(resume.SETTINGS)[2:])
def test_going_on_from_every_step_changes_no_bit(tmp_path, name):
    report = resume.run(("numpy",), tmp_path, (name,))
    assert report.findings == []
    assert report.figures["numpy: resumed"] >= 5


def test_the_soak_sees_a_lost_run(tmp_path, monkeypatch):
    """Guards the guard: a resume that forgets the momentum is found."""
    from numpy_ref.backend import NumpyBackend

    whole = NumpyBackend.import_state

    def forgetful(self: Any, state: Any) -> None:
        whole(self, replace(state, slots={}))

    monkeypatch.setattr(NumpyBackend, "import_state", forgetful)
    report = resume.run(("numpy",), tmp_path, ("momentum, dropout",))
    assert any("parameters_sha256" in line for line in report.findings)


def test_the_watch_sees_programs_and_files_elsewhere(tmp_path):
    """Guards the guard: in a process of its own, since an audit hook stays."""
    code = (
        "import os, pathlib, sys\nfrom tools.soak.mutate import Watch\n"
        "watch = Watch(pathlib.Path(sys.argv[1]) / 'in')\nwatch.on = True\n"
        "os.system('true')\nopen(sys.argv[1] + '/elsewhere', 'w').close()\nos.mkdir(sys.argv[1] + '/in')\n"
        "print(len(watch.seen), *watch.seen)"
    )
    done = tiny.python("-c", code, str(tmp_path.resolve()))
    assert done.stdout.startswith("2 os.system")
    assert "elsewhere" in done.stdout


def test_every_kind_of_input_is_mutated(tmp_path):
    names = {kind.name.split()[0] for kind in targets(tmp_path.resolve())}
    files = "python binary checkpoint forged config.json metrics.jsonl summary.json torch safetensors msgpack"
    assert names >= {*files.split(), "command"}


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_changes_nothing_but_its_own_record(tmp_path, monkeypatch, jump):
    """Forth or back by thirty years in the middle of a run and of its resume."""
    tiny.launch(tmp_path / "whole", tiny.settings(), keep_checkpoints=9)
    real, calls = time.time, 0

    def jumping() -> float:
        nonlocal calls
        calls += 1
        return real() + (jump if calls % 2 else 0.0)

    monkeypatch.setattr(time, "time", jumping)
    tiny.launch(tmp_path / "run", tiny.settings(), keep_checkpoints=9)
    folder = tiny.rewind(tmp_path / "run", tmp_path / "again", 4)
    tiny.launch(folder, tiny.settings())
    assert calls >= 5, "the jumping clock was read, once an evaluation"
    for one in (tmp_path / "run", folder):
        assert tiny.results(one) == tiny.results(tmp_path / "whole")
        assert 0 <= tiny.summary(one)["train_seconds"] < 60


def test_progress_outlives_a_clock_that_goes_back(monkeypatch):
    now = itertools.cycle([1e9, 5.0, 2e9, 1.0, 3e9, 0.0])
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Terminal()
    progress.begin(10, 0, "run")
    bar = progress._bar
    assert bar is not None
    bar._time = lambda: next(now)
    for _ in range(5):
        progress.advance(2, 1.0, 0.5)
        bar.refresh()
    assert bar.n == 10
    progress.end()
    assert "10/10" in terminal.getvalue()


def test_a_run_opens_no_socket(tmp_path, monkeypatch):
    """From the command line to the summary; only the data's download may, and the data are here."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(AssertionError, match="a socket was opened"):
        socket.create_connection(("localhost", 9))
    words = ("--backend", "numpy", "--run-dir", str(tmp_path / "run"), *tiny.arguments())
    assert tiny.call(*words, "--tensorboard") == 0


def test_only_the_download_imports_what_reaches_the_network():
    rooms = ("triptych", "numpy_ref", "jax_models", "torch_models")
    files = [
        path for room in rooms for path in sorted((tiny.ROOT / room).rglob("*.py")) or [tiny.ROOT / room]
    ]
    words = ("urllib", "http.client", "import socket", "requests", "ftplib")
    found = {path.name for path in files for word in words if word in path.read_text()}
    assert len(files) > 40
    assert found <= {"download.py", "torchvision_source.py", "tfds_source.py"}
    assert "download.py" in found


def test_deterministic_names_each_framework_s_switches(monkeypatch):
    """In place before the first device is asked for, beside flags that the user has set."""
    code = (
        "import os\nfrom triptych.describe.protocol import make_deterministic\n"
        "make_deterministic('jax'); make_deterministic('jax'); make_deterministic('torch')\n"
        "import torch, jax\n"
        "print(os.environ['XLA_FLAGS'], '|', os.environ['CUBLAS_WORKSPACE_CONFIG'], '|',"
        " torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic,"
        " torch.backends.cudnn.benchmark, jax.numpy.ones(2).sum())"
    )
    done = tiny.python("-c", code, XLA_FLAGS="--xla_cpu_enable_fast_math=false", JAX_PLATFORMS="cpu")
    assert done.stdout.strip() == (
        "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0 | "
        ":4096:8 | True True False 2.0"
    ), done.stderr


@pytest.mark.parametrize("name", tiny.BACKENDS)
def test_two_runs_on_a_cpu_are_equal_bit_for_bit(tmp_path, name):
    """Without any flag: convolutions, max-pool, batch norm and dropout included."""
    what = tiny.settings(
        channels=("4", "M"), batch_norm="manual", slope=0.0, random_crop=4, random_flip=True, steps=4
    )
    for run in ("one", "two"):
        tiny.launch(tmp_path / run, what, name)
    states = [tiny.newest(tmp_path / run).state.flat() for run in ("one", "two")]
    one, two = ({name: a.tobytes() for name, a in state.items()} for state in states)
    assert one == two
    assert tiny.results(tmp_path / "one") == tiny.results(tmp_path / "two")


def test_deterministic_reaches_the_backend(tmp_path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("triptych.train.launch.make_deterministic", asked.append)
    tiny.launch(tmp_path / "run", tiny.settings(), deterministic=True)
    assert asked == ["numpy"]
    backend.make_deterministic("numpy")  # nothing to do there


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl"])
def test_a_changed_digit_in_a_run_s_file_is_noticed(tmp_path, capsys, name):
    """A number that stays a number: nothing but the SHA-256 can tell."""
    again, _ = half_done(tmp_path, tiny.settings())
    folder, field = (again, b'"loss": ') if name == "metrics.jsonl" else (tmp_path / "run", b'"steps": ')
    path = folder / name
    tiny.flip(path, path.read_bytes().index(field) + len(field))
    words = (
        ["--run-dir", str(folder), *tiny.arguments()] if name != "config.json" else ["--resume", str(folder)]
    )
    assert tiny.call("--backend", "numpy", *words) == 2
    text = capsys.readouterr().err
    assert name in text
    assert text.count("\n") == 1


def test_files_of_earlier_versions_have_no_sha256_and_are_read(tmp_path):
    tiny.launch(tmp_path / "run", tiny.settings())
    folder = RunDirectory(tmp_path / "run")
    for path, read in ((folder.config, folder.read_config), (folder.summary, folder.read_summary)):
        content = json.loads(path.read_text())
        del content["sha256"]
        path.write_text(json.dumps(content))
        assert read() == content


def half_done(tmp_path: Path, what: Experiment) -> tuple[Path, Checkpoint]:
    tiny.launch(tmp_path / "run", what, keep_checkpoints=9)
    folder = tiny.rewind(tmp_path / "run", tmp_path / "again", 8)
    return folder, tiny.newest(folder)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("optimizer/updates", np.array(-1)),
        ("optimizer/updates", np.array([1, 2])),
        ("optimizer/momentum/linear1.weight", np.zeros(3)),
        ("parameters/linear1.bias", np.zeros(6, np.int64)),
    ],
)
def test_a_forged_checkpoint_is_refused(tmp_path, name, array):
    """Its SHA-256 is right: anybody can compute one."""
    what = tiny.settings(momentum=0.9)
    folder, found = half_done(tmp_path, what)
    forged = checkpoint.encode(found.step, found.state.flat() | {name: array}, found.info)
    (folder / "checkpoints" / f"step-{found.step:08d}.safetensors").write_bytes(forged)
    with pytest.raises(UserError, match=f"{name} is|do not fit"):
        tiny.launch(folder, what)


@pytest.mark.parametrize("field", ["backend", "fingerprint", "timed_from", "train_seconds"])
def test_a_checkpoint_that_does_not_say_enough_is_refused(tmp_path, field):
    folder, found = half_done(tmp_path, tiny.settings())
    del found.info[field]
    checkpoint.save(folder / "checkpoints", found)
    with pytest.raises(UserError, match=f"does not say {field}"):
        tiny.launch(folder, tiny.settings())


def test_a_checkpoint_of_an_enormous_step_is_refused_at_once(tmp_path):
    """Found by the soak: the list of the steps before it took all memory."""
    folder, found = half_done(tmp_path, tiny.settings())
    checkpoint.save(folder / "checkpoints", Checkpoint(2**62, found.state, found.info))
    with pytest.raises(UserError, match=f"expected the {2**62} steps before its checkpoint"):
        tiny.launch(folder, tiny.settings())


@pytest.mark.parametrize("archive", [True, False])
def test_weights_that_take_for_ever_to_hash_are_refused(tmp_path, archive):
    """Found by the soak: torch.load runs nothing, but hashed a key of 2^80 parts."""
    bomb = b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 80 + b"h\x00K\x01u."
    path = tmp_path / "weights.pt"
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", bomb)
            file.writestr("archive/version", "3")
    else:
        path.write_bytes(bomb)
    with pytest.raises(UserError, match="unpacks to many times its size"):
        weights.read(path)


def test_weights_that_are_an_enormous_view_of_one_number_are_refused(tmp_path):
    import torch

    torch.save({"linear1.weight": torch.ones(1).expand(2**15, 2**15)}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="unpacks to many times its size"):
        weights.read(tmp_path / "weights.pt")
