"""Checkpoints: what comes back is what was saved, or a CheckpointError; writes are whole or not at all."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tests.helpers import tiny
from triptych.describe.state import State
from triptych.errors import UserError
from triptych.store import checkpoint
from triptych.store.checkpoint import Checkpoint, CheckpointError
from triptych.store.files import write_atomically

INFO = {"backend": "numpy", "fingerprint": "sha256:00", "train_seconds": 0.1, "note": 'a "quoted" ü'}


def state() -> State:
    rng = np.random.default_rng(1)
    weight, bias = rng.standard_normal((3, 2)).astype(np.float32), np.array([0.0, -0.0, 5e-324, np.pi])
    momentum = {"linear1.weight": np.array([[np.nan, np.inf, -np.inf]], np.float32)}
    statistics = {"norm1.running_mean": np.array([1e-310, 3.0])}
    return State({"linear1.weight": weight, "linear1.bias": bias}, {"momentum": momentum}, statistics, 5)


def saved(folder: Path, step: int = 7) -> Path:
    return checkpoint.save(folder, Checkpoint(step, state(), dict(INFO)))


def assert_same(actual: State, expected: State) -> None:
    left, right = actual.flat(), expected.flat()
    assert set(left) == set(right)
    for name, array in right.items():
        assert (left[name].dtype, left[name].shape) == (array.dtype, array.shape), name
        assert left[name].tobytes() == array.tobytes(), name


def test_what_is_loaded_is_what_was_saved(tmp_path):
    path = saved(tmp_path / "new")
    assert path.name == "step-00000007.safetensors"
    loaded = checkpoint.load(path)
    assert (loaded.step, loaded.info) == (7, INFO)
    assert_same(loaded.state, state())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_arrays_of_any_shape_and_memory_layout_come_back(tmp_path, rng):
    table = rng.standard_normal((4, 6))
    shapes = {str(shape): np.ones(shape, np.float32) for shape in ((), (0,), (3, 0), (1, 1, 1))}
    odd = State({"t": table.T, "s": table[::2, ::-1], "f": np.asfortranarray(table), **shapes})
    assert_same(checkpoint.load(checkpoint.save(tmp_path, Checkpoint(0, odd, {}))).state, odd)


def test_a_long_run_keeps_its_place(tmp_path):
    for step in (99_999_999, 100_000_000):
        saved(tmp_path, step)
    found, damaged = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert (found.step, damaged) == (100_000_000, [])


def undetected(path: Path, contents: Iterator[tuple[str, bytes]]) -> list[str]:
    """Which of these contents load, or raise anything but CheckpointError (UserError: another format)."""
    wrong = []
    for what, content in contents:
        path.write_bytes(content)
        try:
            checkpoint.load(path)
            wrong.append(f"{what}: loaded")
        except UserError as error:
            if not isinstance(error, CheckpointError) and "expected format" not in str(error):
                wrong.append(f"{what}: {error!r}")
            if str(path) not in str(error):
                wrong.append(f"{what}: the message does not name the file: {error}")
        except Exception as error:
            wrong.append(f"{what}: {error!r}")
    return wrong


def test_every_flipped_bit_is_detected(tmp_path):
    """In the tensors' bytes, in safetensors' header, and in the header's length."""
    path = saved(tmp_path)
    whole = path.read_bytes()

    def flipped() -> Iterator[tuple[str, bytes]]:
        for at in range(len(whole)):
            for bit in range(8):
                content = bytearray(whole)
                content[at] ^= 1 << bit
                yield f"byte {at}, bit {bit}", bytes(content)

    assert undetected(path, flipped()) == []


def test_every_truncation_and_any_extra_byte_is_detected(tmp_path):
    longer = (path := saved(tmp_path)).read_bytes() + b"\0"
    other = [length for length in range(len(longer) + 1) if length != len(longer) - 1]
    assert undetected(path, ((f"{length} bytes", longer[:length]) for length in other)) == []


def foreign(kind: str, size: int) -> bytes:
    """A valid safetensors file of one tensor of a dtype that NumPy may lack."""
    header = f'{{"a":{{"dtype":"{kind}","shape":[2],"data_offsets":[0,{2 * size}]}}}}'.encode()
    return len(header).to_bytes(8, "little") + header + bytes(2 * size)


FOREIGN = {
    "empty": b"",
    "another format": b"\x93NUMPY\x01\x00 not safetensors at all",
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "no metadata": safetensors.numpy.save({"a": np.zeros(3)}),
    "torch's": safetensors.numpy.save({"a": np.zeros(3)}, {"format": "pt"}),
    "no content": safetensors.numpy.save({}, {"format": checkpoint.FORMAT}),
    "bfloat16": foreign("BF16", 2),
    "float8": foreign("F8_E4M3", 1),
}


def test_a_foreign_file_is_refused(tmp_path):
    assert undetected(tmp_path / "step-00000001.safetensors", iter(FOREIGN.items())) == []


def test_another_version_of_the_format_is_named(tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(3)}, {"format": "triptych-checkpoint-2"}))
    with pytest.raises(UserError, match=r"format triptych-checkpoint-1, found triptych-checkp.*-2") as raised:
        checkpoint.load(path)
    assert not isinstance(raised.value, CheckpointError)  # not damaged: an older one must not take its place


def test_a_missing_file_and_a_folder_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        checkpoint.load(tmp_path / "step-00000001.safetensors")
    with pytest.raises(UserError, match="expected a plain file, found a folder"):
        checkpoint.load(tmp_path)


def test_the_newest_whole_checkpoint_is_taken_and_the_damaged_are_named(tmp_path):
    paths = {step: saved(tmp_path, step) for step in (2, 10, 9, 100)}
    tiny.flip(paths[100])
    paths[10].write_bytes(b"")
    found, damaged = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 9
    named = [step for line in damaged for step, path in paths.items() if str(path) in line]
    assert named == [100, 10]


def test_with_no_whole_checkpoint_there_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path / "nowhere") == (None, [])
    tiny.flip(saved(tmp_path, 3))
    found, damaged = checkpoint.load_latest(tmp_path)
    assert (found, len(damaged)) == (None, 1)


@pytest.mark.parametrize(
    ("keep_last", "keep_steps", "left"),
    [
        (2, set(), [8, 12]),
        (1, {4}, [4, 12]),
        (2, {12, 0}, [0, 8, 12]),
        (9, set(), [0, 4, 8, 12]),
        (1, {99}, [12]),
    ],
)
def test_pruning_keeps_the_newest_and_the_chosen(tmp_path, keep_last, keep_steps, left):
    for step in (0, 4, 8, 12):
        saved(tmp_path, step)
    checkpoint.prune(tmp_path, keep_last, keep_steps)
    assert [step for step, _ in checkpoint.listing(tmp_path)] == left


def test_a_temporary_file_left_over_is_no_checkpoint_and_is_pruned(tmp_path):
    saved(tmp_path, 3)
    leftover = tmp_path / "step-00000004.safetensors.tmp"
    leftover.write_bytes(b"half")
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    found, damaged = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert (found.step, damaged) == (3, [])
    checkpoint.prune(tmp_path, 2, set())
    assert not leftover.exists()
    assert other.read_text() == "mine"


def test_the_digest_covers_name_dtype_shape_and_bytes():
    """Its definition, spelled out: published digests must keep their meaning."""
    values = np.array([[1.0, -2.0]], np.float32)
    text = b'["parameters/a", "<f4", [1, 2]]' + bytes.fromhex("0000803f000000c0")
    assert checkpoint.parameters_sha256(State({"a": values})) == hashlib.sha256(text).hexdigest()


def test_the_digest_sees_any_change_of_a_parameter():
    """By one ulp, or of a zero's sign, of shape or dtype."""
    a = np.zeros((2, 2), np.float32)
    changed = (a, np.nextafter(a, np.float32(9)), -a, a.reshape(-1), a.astype(np.float64))
    digests = {checkpoint.parameters_sha256(State({"a": array})) for array in changed}
    assert len(digests) == len(changed)


def test_the_digest_ignores_the_optimizer_and_the_order():
    full = state()
    bare = State(dict(sorted(full.parameters.items(), reverse=True)))
    assert checkpoint.parameters_sha256(full) == checkpoint.parameters_sha256(bare)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        calls.append("folder" if folder else "file")
        fsync(handle)

    def note_replace(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"content"
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["file", "rename", "folder"]
