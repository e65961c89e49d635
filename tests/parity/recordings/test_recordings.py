"""`parity.record` and `parity compare`: the verdict of `verify_model`, from two folders and no framework."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import record, verify_model
from parity.__main__ import main
from parity.errors import UsageError
from parity.recordings.record import compared, differing

INPUTS = {"x": (4, 5)}
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "flax", "torch"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
from parity.__main__ import main
sys.exit(main(["compare", *sys.argv[1:]]))
"""


def original() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 3))


class Port(nnx.Module):
    def __init__(self, theirs: nn.Sequential, eps: float = 1e-5, approximate: bool = False) -> None:
        rngs, self.approximate = nnx.Rngs(0), approximate
        self.first, self.last = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(6, epsilon=eps, momentum=0.9, rngs=rngs)
        for own, name in ((self.first, "0"), (self.last, "3")):
            own.kernel.set_value(jnp.asarray(theirs.get_parameter(f"{name}.weight").detach().numpy().T))
            own.bias = nnx.Param(jnp.asarray(theirs.get_parameter(f"{name}.bias").detach().numpy()))

    def __call__(self, x: Any) -> Any:
        y = nnx.gelu(self.norm(self.first(x)), approximate=self.approximate)
        return self.last(y)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(original(), INPUTS, tmp_path_factory.mktemp("recorded") / "first", training=False)


@pytest.fixture(scope="module")
def right(first: Path) -> Path:
    return record(Port(original()), first, first.parent / "right")


def test_a_right_port_passes_where_there_is_no_framework(first: Path, right: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(first), str(right)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "The same versions and settings" in found.stdout
    assert "model: passed, all" in found.stdout


@pytest.mark.parametrize(
    ("wrong", "layer"),
    [({"eps": 1e-3}, "1"), ({"approximate": True}, "the model itself")],
    ids=["eps", "gelu"],
)
def test_a_wrong_port_gets_the_report_of_verify_model(
    first: Path, tmp_path: Path, wrong: dict[str, Any], layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = Port(original(), **wrong)
    second = record(port, first, tmp_path / "second")
    assert main(["compare", str(first), str(second)]) == 1
    assert f"Wrong by its own doing: {layer}" in capsys.readouterr().out
    direct = verify_model("model", inputs=INPUTS, reference=original(), port=port, training=False)
    assert str(compared(first, second)[1]) == str(direct)


def test_running_statistics_after_a_step(tmp_path: Path) -> None:
    first = record(original(), INPUTS, tmp_path / "first", training=True, dtypes=("float64",))
    second = record(Port(original()), first, tmp_path / "second")
    report = compared(first, second)[1]
    assert {result.quantity for result in report.failures} == {"1.running_var after"}


def test_what_a_folder_holds(first: Path) -> None:
    fields = json.loads((first / "manifest.json").read_text().rstrip("\n").rpartition("\n")[0])
    assert fields["state"]["0.weight"] == [[6, 5], "float64"]
    assert fields["settings"]["torch"] == torch.__version__
    assert (first / "upstream.safetensors").exists()
    other = {**fields, "settings": {**fields["settings"], "torch": "1.0", "torch autocast": "True"}}
    assert [line.partition(":")[0] for line in differing(fields, other)] == ["torch", "torch autocast"]


def sealed(text: str) -> str:
    return f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n"


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A manifest that says something else, and whose digest is right."""

    def write(folder: Path) -> None:
        path = folder / "manifest.json"
        fields = json.loads(path.read_text().rstrip("\n").rpartition("\n")[0])
        change(fields)
        path.write_text(sealed(json.dumps(fields)))

    return write


def each_run(fields: dict[str, Any], **new: Any) -> None:
    for run in fields["runs"].values():
        run.update(new)


def folder_for_file(folder: Path) -> None:
    (folder / "run0.safetensors").unlink()
    (folder / "run0.safetensors").mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda p: (p / "manifest.json").unlink(),
    "a byte of the manifest": lambda p: (p / "manifest.json").write_bytes(
        (p / "manifest.json").read_bytes().replace(b"float64", b"float32", 1)
    ),
    "not text": lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "deep JSON": lambda p: (p / "manifest.json").write_text(sealed("[" * 100_000)),
    "a list": lambda p: (p / "manifest.json").write_text(sealed("[1]")),
    "a cut file": lambda p: (p / "state.safetensors").write_bytes(b"\x00" * 9),
    "no file": lambda p: (p / "state.safetensors").unlink(),
    "a folder for a file": folder_for_file,
    "a path that leaves it": changed(lambda f: f["files"].update({"../first/state": "0"})),
    "a run of another file": changed(lambda f: each_run(f, file="../../x")),
    "no runs": changed(lambda f: f["runs"].clear()),
    "runs of nothing": changed(lambda f: each_run(f, activations=[["a"]])),
    "a name that is not there": changed(lambda f: f["state"].update({"none": [[1], "float64"]})),
    "another format": changed(lambda f: f.update(format="parity recording 2")),
    "of nothing": changed(lambda f: f.update(of=None)),
    "no side": changed(lambda f: f.update(side=3)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_folder_is_told_in_one_line(
    what: str, first: Path, right: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in right.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    DAMAGE[what](copy)
    assert main(["compare", str(first), str(copy)]) == 2
    told = capsys.readouterr()
    assert "copy" in told.err
    assert "Traceback" not in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert not told.out


def test_what_record_refuses(first: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a new or an empty folder"):
        record(original(), INPUTS, first)
    with pytest.raises(UsageError, match=r"no manifest\.json"):
        record(original(), tmp_path, tmp_path / "new")
    with pytest.raises(UsageError, match="a function alone"):
        record(lambda p, x: {"output": x}, {"x": np.ones((1, 2))}, tmp_path / "new")


def test_a_second_side_of_other_inputs_is_refused(first: Path, right: Path, tmp_path: Path) -> None:
    other = record(original(), {"x": (2, 5)}, tmp_path / "other", training=False, dtypes=("float64",))
    with pytest.raises(UsageError, match="expected a recording made from"):
        compared(other, right)
