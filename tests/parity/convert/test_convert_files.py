"""`python -m parity convert`: files of every kind, there and back, runs on their test set, and mistakes."""

from __future__ import annotations

import functools
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import flax.serialization
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from parity.__main__ import main
from parity.convert import canonical_of, files
from tests.helpers import tiny
from tests.helpers.small import same_bits
from triptych.describe.spec import Experiment
from triptych.store import checkpoint

Capture = pytest.CaptureFixture[str]
NORMED = {"hidden": (6, 6), "batch_norm": "manual"}
CNN = {"hidden": (), "channels": ("4", "M", "4", "M"), "batch_norm": "autodiff", "slope": 0.0}


class Backwards(nn.Module):
    """A model of the caller's own: square layers, registered in the reverse of their order."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.b, self.a, self.first = (
            nn.Linear(6, 10), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(3072, 6),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.a, self.b):
            x = nn.functional.leaky_relu(layer(x.flatten(1)), 0.02)
        out: torch.Tensor = self.last(x)
        return out


class Vectors(Backwards):
    """Wants its images flattened beforehand."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.first(x))


@functools.cache
def settings(**changes: Any) -> Experiment:
    return tiny.settings(**changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny runs, by what is told apart here."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch.setattr)
        for name, changes, backend in (
            ("mlp", NORMED, "numpy"),
            ("deep", {"hidden": (6, 6, 6)}, "numpy"),
            ("cnn", CNN | {"learning_rate": 1e-3, "optimizer": "adam"}, "torch"),
        ):
            assert tiny.launch(folder / name, settings(**changes), backend) == 0
    return {name: folder / name for name in ("mlp", "deep", "cnn")}


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def state_of(run: Path) -> dict[str, Any]:
    found, _ = checkpoint.load_latest(run / "checkpoints")
    assert found is not None
    return canonical_of(found.state)


# --- there and back ---


@pytest.mark.parametrize(
    ("run", "to"), [("mlp", "flax-nnx"), ("mlp", "torch"), ("cnn", "torch"), ("cnn", "flax-linen")]
)
def test_a_run_predicts_the_same_once_converted(
    runs: dict[str, Path], run: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    tiny.install(monkeypatch.setattr)
    target = tmp_path / "out.safetensors"
    assert convert(runs[run], target, "--to", to) == 0
    printed = capsys.readouterr().out
    assert f"check, plain {to} model: holds" in printed
    assert "optimizer's state" in printed or run == "mlp"
    back = tmp_path / "back.safetensors"
    assert convert(target, back, "--to", "canonical") == 0
    assert same_bits(safetensors.numpy.load_file(back), state_of(runs[run]))


def test_through_every_kind_of_file_and_back(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    """Formats that note nothing beside the arrays: names and shapes and --experiment are all there is."""
    experiment = ("--experiment", runs["cnn"])
    chain = [("a.pt", "torch"), ("b.msgpack", "flax-linen"), ("c.pth", "torch"), ("d.msgpack", "flax-nnx")]
    before: Path = runs["cnn"]
    for name, to in [*chain, ("e.safetensors", "canonical")]:
        assert convert(before, tmp_path / name, "--to", to, "--no-check", *experiment) == 0
        before = tmp_path / name
    assert same_bits(safetensors.numpy.load_file(before), state_of(runs["cnn"]))
    assert "source: Flax msgpack, nnx names" in capsys.readouterr().out
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    plain.load_state_dict(loaded)  # strict, into what knows nothing of this project
    assert int(loaded["1.num_batches_tracked"]) == 12


@pytest.mark.parametrize("to", ["torch", "flax-nnx", "flax-linen", "canonical"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_safetensors_keep_the_dtype(to: str, dtype: str, tmp_path: Path, rng: np.random.Generator) -> None:
    kind: Any = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float64
    canonical = {
        "linear1.weight": rng.normal(size=(10, 3072)).astype(kind),
        "linear1.bias": np.zeros(10, kind),
    }
    canonical["linear1.bias"][:2] = [np.nan, -0.0]
    first, second, third = (tmp_path / f"{i}.safetensors" for i in range(3))
    safetensors.numpy.save_file(canonical, first)
    assert convert(first, second, "--to", to) == 0
    assert convert(second, third, "--to", "canonical") == 0
    assert same_bits(files.read(third).arrays, canonical)


def test_a_foreign_state_dict_is_seen_through_its_wrappings(tmp_path: Path, capsys: Capture) -> None:
    """Saved by DataParallel inside a training checkpoint; numbered names, and no experiment known."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, tmp_path / "in.pt")
    assert convert(tmp_path / "in.pt", tmp_path / "out.safetensors", "--to", "canonical") == 0
    found = files.read(tmp_path / "out.safetensors").arrays
    assert np.array_equal(found["norm1.gamma"], state["module.2.weight"].numpy())
    assert np.array_equal(found["linear2.weight"], state["module.4.weight"].numpy())
    printed = capsys.readouterr().out
    assert "under 'state_dict'" in printed
    assert "left out of the names: module" in printed
    assert "not checked: the network is not known" in printed


def test_nan_is_moved_and_said(runs: dict[str, Path], tmp_path: Path, capsys: Capture) -> None:
    broken = {name: array.copy() for name, array in state_of(runs["mlp"]).items()}
    broken["linear2.weight"][0, 0] = np.nan
    safetensors.numpy.save_file(broken, tmp_path / "in.safetensors")
    words = ("--to", "flax-linen", "--experiment", runs["mlp"])
    assert convert(tmp_path / "in.safetensors", tmp_path / "out.msgpack", *words) == 0
    assert "the weights hold NaN or infinities" in capsys.readouterr().out
    tree = flax.serialization.msgpack_restore((tmp_path / "out.msgpack").read_bytes())
    assert np.isnan(tree["params"]["Dense_1"]["kernel"][0, 0])


# --- a model of one's own ---


def test_the_models_own_forward_pass_decides_which_layer_is_which(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    words = (runs["deep"], tmp_path / "own.pt", "--to", "torch", "--model", f"{__name__}:Backwards")
    assert convert(*words) == 2
    assert "several layers fit each other" in capsys.readouterr().err
    assert convert(*words, "--map", "a=linear3") == 1
    printed = capsys.readouterr().out
    assert "check, plain torch model: holds" in printed
    assert "check, your model: FAILED" in printed
    assert not (tmp_path / "own.pt").exists()
    right = ("--map", "a=linear2", "--map", "b.weight=linear3.weight", "--map", "b.bias=linear3.bias")
    assert convert(*words, *right) == 0
    assert "check, your model: holds" in capsys.readouterr().out
    model = Backwards()
    model.load_state_dict(torch.load(tmp_path / "own.pt", weights_only=True))
    assert np.array_equal(model.a.weight.detach().numpy(), state_of(runs["deep"])["linear2.weight"])
    # And back: the file alone is ambiguous, the model checks what is said of it.
    back = (
        tmp_path / "own.pt",
        tmp_path / "back.safetensors",
        "--to",
        "canonical",
        "--experiment",
        runs["deep"],
    )
    own = ("--model", f"{__name__}:Backwards")
    assert convert(*back) == 2
    assert convert(*back, *own, "--map", "a=linear3", "--map", "b=linear2") == 1
    assert convert(*back, *own, *right) == 0
    assert same_bits(files.read(tmp_path / "back.safetensors").arrays, state_of(runs["deep"]))


def test_names_are_taken_from_a_map(runs: dict[str, Path], tmp_path: Path) -> None:
    words = ("--map", "up=linear1", "--map", "out=linear4")
    assert convert(runs["deep"], tmp_path / "b.pt", "--to", "torch", *words) == 0
    assert {name for name in files.read(tmp_path / "b.pt").arrays if not name[0].isdigit()} == {
        "up.weight", "up.bias", "out.weight", "out.bias",
    }  # fmt: skip


# --- mistakes ---


def header(fields: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def compressed(path: Path) -> bytes:
    torch.save({"0.weight": torch.zeros(10, 3072)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(f"{path}.z", "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return Path(f"{path}.z").read_bytes()


def torch_file(path: Path, what: Any) -> bytes:
    torch.save(what, path)
    return path.read_bytes()


def npz(path: Path) -> bytes:
    np.savez(path, a=np.zeros(3))
    return path.with_suffix(".x.npz").read_bytes()


def tensors(**arrays: Any) -> bytes:
    return safetensors.numpy.save({name.replace("_", "."): array for name, array in arrays.items()})


UNSOUND = "not a sound safetensors file"
W = np.zeros((10, 3072), np.float32)
HOSTILE = {
    "nothing": (lambda p: b"", "expected a run folder, safetensors"),
    "text": (lambda p: b"weights: none\n", "found b'weights:'"),
    "a header longer than the file": (
        lambda p: struct.pack("<Q", 2**60) + b"{}",
        UNSOUND,
    ),
    "a header of 100 MB": (lambda p: struct.pack("<Q", 10**8 + 1) + b"{", UNSOUND),
    "offsets beyond the data": (
        lambda p: header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b"0" * 8),
        UNSOUND,
    ),
    "a shape that overflows": (
        lambda p: header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}),
        UNSOUND,
    ),
    "deep nesting": (lambda p: struct.pack("<Q", 10**5) + b'{"a":' * 20000, UNSOUND),
    "whole numbers": (
        lambda p: tensors(linear1_weight=np.zeros((10, 3072), np.int32)),
        "linear1.weight is int32",
    ),
    "a whole model": (lambda p: torch_file(p, nn.Linear(3, 2)), "save model.state_dict(), not the model"),
    "no tensors": (lambda p: torch_file(p, {"a": 3}), "expected a state_dict of tensors, found a"),
    "a tensor alone": (lambda p: torch_file(p, torch.zeros(3)), "expected a state_dict, found Tensor"),
    "integer tensors": (
        lambda p: torch_file(p, {"0.weight": torch.zeros(3, 2, dtype=torch.int8)}),
        "0.weight is int8",
    ),
    "a pickle that runs code": (lambda p: pickle.dumps({"a": Bomb()}), "reads with weights_only=True"),
    "a compressed archive": (compressed, "a compressed archive, which torch does not write"),
    "half an archive": (lambda p: torch_file(p, {"0.weight": torch.zeros(99)})[:400], "a damaged archive"),
    "NumPy's archive": (npz, "a NumPy .npz archive"),
    "half a msgpack": (lambda p: flax.serialization.msgpack_serialize({"a": {"kernel": W}})[:90], "msgpack"),
    "msgpack of text": (
        lambda p: flax.serialization.msgpack_serialize({"a": "b"}),
        "a is str: expected weights of float64",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_file(
    name: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make, message = HOSTILE[name]
    path = tmp_path / "in.x"
    path.write_bytes(make(path))
    before = {file.name for file in tmp_path.iterdir()}
    assert convert(path, tmp_path / "out.safetensors", "--to", "canonical") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "in.x" in error
    assert "Traceback" not in error
    assert {file.name for file in tmp_path.iterdir()} == before, "something was executed or written"


def test_a_changed_byte_in_a_file_of_ours_is_found(
    runs: dict[str, Path], tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "a.safetensors"
    assert convert(runs["mlp"], path, "--to", "torch", "--no-check") == 0
    tiny.flip(path)
    assert convert(path, tmp_path / "b.safetensors", "--to", "canonical") == 2
    assert "damaged, its SHA-256 is not the one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{nowhere} {out} --to torch", "no such file or run folder"),
        ("{there} {out} --to canonical", "alone, found a (b (10, 3072))"),
        ("{folder} {out} --to torch", "expected a run folder with config.json"),
        ("{mlp} {mlp} --to torch", "expected a file in a folder that exists"),
        ("{mlp} {there} --to torch", "exists; choose another target or say --overwrite"),
        ("{mlp} {folder}/a.bin --to torch", "are written as .safetensors, .pt, .pth"),
        ("{mlp} {folder}/a.pt --to flax-nnx", "are written as .safetensors, .msgpack"),
        ("{mlp} {out} --to torch --experiment nope", "no 'nope' in the catalogue"),
        ("{mlp} {out} --to torch --experiment fig1", "linear1.weight: expected (100, 3072), found (6, 3072)"),
        ("{mlp} {out} --to torch --map linear1", "expected THEIR.NAME=OUR.NAME, got"),
        ("{mlp} {out} --to torch --model nowhere:Net", "cannot import nowhere:Net"),
        ("{mlp} {out} --to torch --model pathlib:Path", "to be a torch Module, got PosixPath"),
        ("{mlp} {out} --to torch --model torch.nn:Linear", "cannot be called without arguments"),
        (
            f"{{deep}} {{out}} --to torch --model {__name__}:Vectors --map a=linear2 --map b=linear3",
            "expected one that takes images (B, 3, 32, 32)",
        ),
    ],
)
def test_mistakes(runs: dict[str, Path], tmp_path: Path, capsys: Capture, words: str, message: str) -> None:
    there = tmp_path / "there.safetensors"
    there.write_bytes(tensors(a_b=W))
    places = {
        "out": tmp_path / "out.safetensors",
        "folder": tmp_path,
        "nowhere": tmp_path / "no",
        "there": there,
    }
    assert convert(*(word.format(**places, **runs) for word in words.split())) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert [file.name for file in tmp_path.iterdir()] == ["there.safetensors"]
    assert there.read_bytes() == tensors(a_b=W)
