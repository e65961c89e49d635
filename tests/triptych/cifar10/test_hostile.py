"""Broken, swapped and hostile files: every one must end as DataError that says where and what."""

import os
import shutil

import numpy as np
import pytest

from tests.helpers.cifar_files import (
    GOOD,
    IMAGES,
    LABELS,
    ROWS,
    array,
    batch_files,
    binary_batch,
    refused,
    text,
    tiny_arrays,
    write_folder,
)
from triptych.cifar10 import DataError, binary, pickles, readers

PIXELS = IMAGES.tobytes()


def batch(data: bytes | None = None, labels: bytes | None = None) -> bytes:
    good_labels = b"](" + b"".join(b"K" + bytes([k]) for k in LABELS) + b"e"
    body = text("data") + (array(ROWS, PIXELS) if data is None else data)
    return b"\x80\x02}(" + body + text("labels") + (good_labels if labels is None else labels) + b"u."


def bomb_keys() -> bytes:
    """A dictionary whose key is a tuple that takes 2^80 steps to hash."""
    return b"\x80\x02}(" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 80 + b"h\x00K\x01u."


PICKLES = {
    "runs a program": (b"\x80\x02cposix\nsystem\n" + text("true") + b"\x85R.", "'posix system'"),
    "builtins": (b"\x80\x02c__builtin__\neval\n" + text("1") + b"\x85R.", "'__builtin__ eval'"),
    "another NumPy name": (b"\x80\x02cnumpy\nload\n" + text("x") + b"\x85R.", "'numpy load'"),
    "numpy loads": (b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "multiarray scalar"),
    "global off the stack": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "SHORT_BINUNICODE"),
    "instance": (b"\x80\x02(iposix\nsystem\n.", "INST"),
    "extension registry": (b"\x80\x02\x82\x01.", "EXT1"),
    "persistent id": (b"\x80\x02Pfile\n.", "PERSID"),
    "huge memo index": (b"\x80\x02}r\xff\xff\xff\x7f(" + b"K\x01K\x01u.", "byte strings"),
    "memo never written": (b"\x80\x02h\x07.", "memo"),
    "huge string": (b"\x80\x02T\xff\xff\xff\x7fabc.", "byte offset 2"),
    "negative string": (b"\x80\x02T\xff\xff\xff\xffabc.", "byte offset 2"),
    "huge integer": (batch(labels=b"](" + b"\x8a\xff" + b"\x7f" * 255 + b"e"), "expected 4 labels"),
    "huge integer as a label": (batch(labels=b"](" + (b"\x8a\xff" + b"\x7f" * 255) * 4 + b"e"), "row 0"),
    "deep nesting": (b"\x80\x02" + b"]" + b"\x85" * 900 + b".", "expected a dictionary, got tuple"),
    "endless operations": (b"\x80\x02" + b"(" * 5000 + b".", "operations"),
    "hash bomb": (bomb_keys(), "byte strings"),
    "unbalanced": (b"\x80\x02e.", "found none"),
    "tuple of marks": (b"\x80\x02((\x87.", "found none"),
    "empty": (b"", "byte offset 0"),
    "no pickle": (b"<html>404 Not Found</html>", "byte offset 0"),
    "escape sequence": (b"S'\\q'\n.", "STRING"),
    "truncated in the pixels": (GOOD[:3000], "byte offset"),
    "truncated at the end": (GOOD[:-1], f"byte offset {len(GOOD) - 1}"),
    "a list": (b"\x80\x02].", "expected a dictionary, got list"),
    "a number": (b"\x80\x02K\x07.", "expected a dictionary, got 7"),
    "no keys": (b"\x80\x02}.", "'data' and 'labels'"),
    "CIFAR-100's keys": (
        b"\x80\x02}(" + text("data") + array(ROWS, PIXELS) + text("fine_labels") + b"]u.",
        "'fine_labels'",
    ),
    "data is a list": (batch(data=b"]"), "expected a NumPy array, got list"),
    "data without state": (batch(data=array(ROWS, PIXELS).split(b"(K\x01")[0]), "expected a NumPy array"),
    "object dtype": (batch(data=array(ROWS, PIXELS, "O8")), "uint8"),
    "float dtype": (batch(data=array(ROWS, PIXELS, "f8")), "b'f8'"),
    "too few rows": (batch(data=array(ROWS - 1, PIXELS[3072:])), "(3, 3072)"),
    "rows of another length": (batch(data=array(ROWS, PIXELS, columns=3071)), "(4, 3071)"),
    "negative shape": (batch(data=array(-1, PIXELS)), "(-1, 3072)"),
    "huge shape": (batch(data=array(2**31 - 1, PIXELS, columns=2**31 - 1)), "2147483647"),
    "pixels missing": (batch(data=array(ROWS, PIXELS[:-5])), f"got {len(PIXELS) - 5}"),
    "call of a number": (b"\x80\x02K\x01K\x01\x85R.", "call"),
    "state of a number": (b"\x80\x02K\x01K\x01b.", "state"),
    "label 10": (batch(labels=b"](K\x01K\x0aK\x01K\x01e"), "row 1: expected 0 to 9, got 10"),
    "label -1": (batch(labels=b"](K\x01K\x01K\x01J\xff\xff\xff\xffe"), "row 3: expected 0 to 9, got -1"),
    "label True": (batch(labels=b"](K\x01K\x01\x88K\x01e"), "row 2: expected 0 to 9, got True"),
    "label a string": (batch(labels=b"](K\x01K\x01K\x01" + text("9") + b"e"), "row 3"),
    "labels a dictionary": (batch(labels=b"}"), "expected a list, got dict"),
    "three labels": (batch(labels=b"](K\x01K\x01K\x01e"), "expected 4 labels, got 3"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickle(case):
    content, said = PICKLES[case]
    with pytest.raises(DataError) as caught:
        pickles.parse(content, "folder/data_batch_1", ROWS)
    message = str(caught.value)
    assert said in message
    assert message.startswith("folder/data_batch_1: ")
    assert "restore" in message
    assert len(message) < 600


def test_the_good_batch_passes_before_it_is_broken():
    np.testing.assert_array_equal(pickles.parse(batch(), "x", ROWS)[0], IMAGES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got 0"),
        (binary_batch(IMAGES, LABELS)[:-1], "byte offset 9219"),
        (binary_batch(IMAGES, LABELS) + b"\0", "byte offset 12292"),
        (binary_batch(IMAGES, np.array([1, 2, 10, 255])), "byte offset 6146 (row 2), got 10"),
    ],
)
def test_broken_binary_file(content, said):
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected") as caught:
        binary.parse(content, "data_batch_1.bin", ROWS)
    assert said in str(caught.value)


FOLDERS = {
    "a missing file": (lambda paths: paths[3].unlink(), ("missing", "{3}")),
    "too large a file": (lambda paths: os.truncate(paths[2], 2**34), ("expected at most",)),  # sparse
    "the same file twice": (lambda paths: shutil.copy(paths[0], paths[1]), ("same bytes as data_batch_1",)),
    "a folder in place of a file": (lambda paths: (paths[0].unlink(), paths[0].mkdir()), ("{0}",)),
}


@pytest.mark.parametrize("layout", ["python", "binary"])
@pytest.mark.parametrize("case", FOLDERS)
def test_broken_folder(tmp_path, layout, case):
    change, said = FOLDERS[case]
    files = batch_files(tiny_arrays(), layout)
    folder = write_folder(tmp_path / "in", files)
    change([folder / name for name in files])
    message = refused(folder)
    assert all(one.format(*files) in message for one in said)


def test_swapped_files_are_noticed(tmp_path):
    files = batch_files(tiny_arrays(), "python")
    files["data_batch_1"], files["test_batch"] = files["test_batch"], files["data_batch_1"]
    message = refused(write_folder(tmp_path, files))
    assert "changed places" in message
    assert "data_batch_1" in message


def test_empty_batches_folder_is_broken_not_absent(tmp_path):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    assert "data_batch_1.bin" in refused(tmp_path)


def test_wrong_sort_of_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(DataError, match="another sort of file"):
        readers.find(path)


def test_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="something else"):
        readers.find(tmp_path / "pipe")
