"""Every kind of file and text that Triptych reads, as something to spoil and a way to read it."""

from __future__ import annotations

import contextlib
import io
import random
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from parity.convert import files as weights
from tests.helpers import tiny
from tests.helpers.cifar_files import (
    ROWS,
    TITLES,
    batch_files,
    binary_batch,
    python_batch,
    tiny_arrays,
    tiny_official,
    write_archive,
)
from tools.soak import hostile
from tools.soak.mutators import BINARY, TEXT, Mutator, mutated
from triptych.cifar10 import binary, pickles, readers
from triptych.errors import UserError
from triptych.show import command
from triptych.show.progress import Terminal
from triptych.store import checkpoint
from triptych.store.checkpoint import Checkpoint
from triptych.store.run_dir import RunDirectory
from triptych.train import command as train
from triptych.train.resume import other_start, own_start, settings_of
from triptych.train.said import report

Read = Callable[[bytes], bool]
"""Reads an input; whether what came out is what the unspoilt input gives. Raises UserError to refuse."""


@dataclass(frozen=True)
class Target:
    """One kind of input."""

    name: str
    share: float
    """Of all inputs; the slow kinds get less."""
    seeds: Sequence[bytes]
    """Sound ones first in number, hostile ones after them."""
    mutators: Sequence[Mutator]
    read: Read
    original: bytes = b""
    """Where not empty: a sound input each of whose flipped bits must be refused or reported."""

    def input(self, number: int, seed: int) -> tuple[bytes, bool]:
        """The input of that number, and whether it is one flipped bit of the original."""
        draw = random.Random(f"{self.name} {number} {seed}")
        if self.original and number % 3 == 0:
            content = bytearray(self.original)
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            return bytes(content), True
        if number < len(self.seeds):
            return self.seeds[number], False
        return mutated(draw, self.seeds, self.mutators), False


def targets(folder: Path) -> list[Target]:
    """All of them, their files below `folder`."""
    run = _finished_run(folder)
    return [*_data(folder), *_run_files(run, folder), _command_lines(run), *_weights(folder)]


def _finished_run(folder: Path) -> Path:
    tiny.install(setattr)
    run = folder / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        tiny.launch(run, tiny.settings(momentum=0.9), checkpoint_every=4)
    return run


# --- CIFAR-10 ---


def _data(folder: Path) -> list[Target]:
    arrays = tiny_arrays()
    images, labels = arrays[0][:ROWS], arrays[1][:ROWS]
    good, rows = python_batch(images, labels, TITLES[0]), binary_batch(images, labels)
    expected = (images.tobytes(), labels.tobytes())

    def python(content: bytes) -> bool:
        found = pickles.parse(content, "data_batch_1", ROWS)
        return (found[0].tobytes(), found[1].tobytes()) == expected

    def plain(content: bytes) -> bool:
        found = binary.parse(content, "data_batch_1.bin", ROWS)
        return (found[0].tobytes(), found[1].tobytes()) == expected

    hostiles = hostile.pickles(folder)
    return [
        Target("python batch", 0.16, [good] * 8 + hostiles, BINARY, python),
        Target("binary batch", 0.06, [rows], BINARY, plain),
        *(
            _archive(folder, layout, ending)
            for layout in ("python", "binary")
            for ending in (".tar", ".tar.gz")
        ),
        _batch_folder(folder),
    ]


def _archive(folder: Path, layout: str, ending: str) -> Target:
    files = batch_files(tiny_arrays(), layout)
    path = write_archive(folder / f"{layout}{ending}", files)
    good = path.read_bytes()
    official = tiny_official(files if layout == "python" else None)
    sound = readers.read(path, official).fingerprint

    def read(content: bytes) -> bool:
        path.write_bytes(content)
        found = readers.find(path)
        data = readers.read(found or path, official)
        # A copy that is not the official one loads, and says so.
        return data.fingerprint == sound or bool(data.notices)

    bad = hostile.archives(folder, files)
    original = good if layout == "python" else b""
    return Target(f"{layout} archive {ending}", 0.03, [good] * 8 + bad, BINARY, read, original)


def _batch_folder(folder: Path) -> Target:
    files = batch_files(tiny_arrays(), "python")
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    official = tiny_official(files)
    sound = readers.read(place, official).fingerprint

    def read(content: bytes) -> bool:
        (place / "data_batch_3").write_bytes(content)
        data = readers.read(place, official)
        return data.fingerprint == sound or any("data_batch_3" in notice for notice in data.notices)

    good = files["data_batch_3"]
    return Target("python folder", 0.03, [good, *hostile.pickles(folder)], BINARY, read, good)


# --- a run's own files ---


def _run_files(run: Path, folder: Path) -> list[Target]:
    directory, what = RunDirectory(run), tiny.settings(momentum=0.9)
    config, summary = directory.read_config(), directory.read_summary()
    *older, (_, newest) = checkpoint.listing(directory.checkpoints)
    found = checkpoint.load(newest)
    past = directory.read_metrics(found.step)
    state = {name: array.tobytes() for name, array in found.state.flat().items()}
    kept = (directory.config, directory.metrics, directory.summary, newest)
    originals = {path: path.read_bytes() for path in kept}
    for _, path in older:
        path.unlink()  # else an older one would serve in place of a spoilt one

    def spoilt(path: Path, read: Callable[[], bool]) -> Read:
        def call(content: bytes) -> bool:
            path.write_bytes(content)
            try:
                return read()
            finally:
                path.write_bytes(originals[path])

        return call

    def read_checkpoint() -> bool:
        loaded = checkpoint.load(newest)
        return {name: array.tobytes() for name, array in loaded.state.flat().items()} == state

    def read_config() -> bool:
        directory.check(config)
        settings_of(run)
        return directory.read_config() == config

    def read_metrics() -> bool:
        start = own_start(directory, what, Terminal())
        other_start(run, replace(what, training=replace(what.training, steps=99)), Terminal())
        return start is not None and start.records == past

    def read_summary() -> bool:
        with contextlib.redirect_stdout(io.StringIO()):
            report(directory.read_summary(), directory, Terminal())
        return directory.read_summary() == summary

    def text(path: Path, name: str, share: float, read: Callable[[], bool]) -> Target:
        return Target(name, share, [originals[path]], TEXT, spoilt(path, read), originals[path])

    good = originals[newest]
    return [
        Target(
            "checkpoint",
            0.2,
            [good] * 8 + hostile.safetensors_files(),
            BINARY,
            spoilt(newest, read_checkpoint),
            good,
        ),
        _forged(folder, found, directory),
        text(directory.config, "config.json", 0.1, read_config),
        text(directory.metrics, "metrics.jsonl", 0.1, read_metrics),
        text(directory.summary, "summary.json", 0.1, read_summary),
    ]


def _forged(folder: Path, found: Checkpoint, directory: RunDirectory) -> Target:
    """Checkpoints with a right SHA-256 over wrong content, as anybody can write: read as a start."""
    place = RunDirectory(folder / "forged")
    place.checkpoints.mkdir(parents=True)
    place.restart_metrics(directory.read_metrics(found.step))
    odd: list[Any] = [None, True, -1, 2**70, 1.5, "x" * 2000, [], {}, float("1e308"), "\ud800", [[[]]]]
    arrays = [np.zeros(3), np.zeros((6, 3072), np.int64), np.array(-1), np.array(7, np.int32), np.zeros((0,))]
    names = [*found.state.flat(), "parameters/other", "statistics/x", "\n"]

    def read(content: bytes) -> bool:
        draw = random.Random(content)
        step, state, info = found.step, found.state.flat(), dict(found.info)
        for _ in range(draw.randint(1, 3)):
            match draw.randrange(4):
                case 0:
                    info[draw.choice([*info, "more"])] = draw.choice(odd)
                case 1:
                    info.pop(draw.choice([*info, "backend"]), None)
                case 2:
                    state[draw.choice(names)] = draw.choice(arrays)
                case 3:
                    state.pop(draw.choice(names), None)
        if draw.random() < 0.1:
            step = draw.choice([0, 1, 2**62, found.step])
        path = place.checkpoints / f"step-{step:08d}.safetensors"
        path.write_bytes(checkpoint.encode(step, state, info))
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                start = own_start(place, tiny.settings(momentum=0.9), Terminal())
            return start is not None and start.records == place.read_metrics(found.step)
        finally:
            path.unlink()

    return Target("forged checkpoint", 0.05, [bytes([n]) for n in range(256)], (_draws,), read)


def _draws(draw: random.Random, content: bytearray, others: Sequence[bytes]) -> None:
    content[:] = draw.randbytes(8)


def _command_lines(run: Path) -> Target:
    lines = [
        shlex.join(["--backend", "numpy", *tiny.arguments(momentum=0.9)]),
        "--experiment fig5 --seed 3 --dtype float64 --batch-norm autodiff --hidden 600 500",
        "--resume " + str(run) + " --steps 3000 --optimizer adam --weight-decay 1e-4",
        "--channels 32 M 64 M --random-crop 4 --random-flip --schedule cosine --warmup-steps 5",
        "list",
    ]

    def read(content: bytes) -> bool:
        # What the system hands to a program: no NUL, undecodable bytes as surrogates.
        words = content.replace(b"\0", b"").decode("utf-8", "surrogateescape").split(" ")
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())

        def parsed() -> int:
            train.parse(words)
            return 0

        with quiet[0], quiet[1]:
            try:
                # As train.py does it, but for the training.
                code = command.run(parsed, "interrupted")
            except SystemExit as error:  # tyro's: 0 after --help, 2 after it has said what is wrong
                code = 2 if error.code is None else int(error.code)
        if code == command.OURS:
            raise AssertionError("ended in a traceback")
        if code == 2:
            raise UserError("refused")
        return code == 0

    return Target("command line", 0.01, [line.encode() for line in lines], TEXT, read)


# --- weights to convert ---


def _weights(folder: Path) -> list[Target]:
    import flax.serialization
    import safetensors.numpy
    import torch

    arrays = {"linear1.weight": np.ones((2, 3), np.float32), "linear1.bias": np.zeros(2, np.float32)}
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    new, old, wide = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save({"linear1.weight": torch.ones(1).expand(2**14, 2**14)}, wide)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    tree = {"linear1": {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    packed = flax.serialization.msgpack_serialize(tree)
    sound = safetensors.numpy.save(arrays)

    def reader(name: str) -> Read:
        path = folder / name

        def read(content: bytes) -> bool:
            path.write_bytes(content)
            found = weights.read(path)
            size = sum(array.nbytes for array in found.arrays.values())
            # Weights that are larger than their file come from a file that lies.
            return size <= 4 * len(content)

        return read

    return [
        Target(
            "torch .pt",
            0.03,
            [new.getvalue()] * 8 + [wide.getvalue(), *hostile.torch_files(folder, new.getvalue())],
            BINARY,
            reader("w.pt"),
        ),
        Target("torch .pt, old", 0.02, [old.getvalue()], BINARY, reader("old.pt")),
        Target(
            "safetensors", 0.05, [sound] * 4 + hostile.safetensors_files(), BINARY, reader("w.safetensors")
        ),
        Target("msgpack", 0.03, [packed], BINARY, reader("w.msgpack")),
    ]
