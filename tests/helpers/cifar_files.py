"""Writers of the official CIFAR-10 layouts in small, and what the tests of their readers share."""

import dataclasses
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from triptych.cifar10 import DataError, Dataset, readers
from triptych.cifar10.dataset import Arrays, fingerprint
from triptych.cifar10.official import FILES, Official

ROWS = 4
TITLES = [f"training batch {k} of 5" for k in range(1, 6)] + ["testing batch 1 of 1"]


def text(value: str | bytes) -> bytes:
    """A Python 2 string as its pickle writes it."""
    raw = value.encode() if isinstance(value, str) else value
    return b"U" + bytes([len(raw)]) + raw


def array(rows: int, pixels: bytes, dtype: str = "u1", columns: int = 3072, order: bytes = b"\x89") -> bytes:
    """A NumPy array (rows, columns) as Python 2 and the NumPy of its time pickle it."""
    make = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    kind = b"cnumpy\ndtype\nq\x09" + text(dtype) + b"K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNN"
    kind += b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"
    return make + b"(K\x01" + shape + kind + order + b"T" + struct.pack("<I", len(pixels)) + pixels + b"tb"


def python_batch(images: np.ndarray, labels: np.ndarray, title: str) -> bytes:
    """One batch file as Python 2's cPickle wrote it: protocol 2, with its memo."""
    many = b"".join(b"K" + bytes([label]) for label in labels)
    names = b"".join(
        text(f"image_{row:05d}.png") + b"r" + struct.pack("<I", 300 + row) for row in range(len(labels))
    )
    return (
        b"\x80\x02}q\x01("
        + text("batch_label") + b"q\x02" + text(title) + b"q\x03"
        + text("labels") + b"q\x04]q\x05(" + many + b"e"
        + text("data") + array(len(labels), images.tobytes())
        + text("filenames") + b"q\x0b]q\x0c(" + names + b"eu."
    )  # fmt: skip


def binary_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """One binary batch file: rows of a label and 3072 pixels."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels, strict=True))


def batch_files(arrays: Arrays, layout: str) -> dict[str, bytes]:
    """The six files of these arrays: name -> content."""
    images, labels = np.concatenate([arrays[0], arrays[2]]), np.concatenate([arrays[1], arrays[3]])
    parts = zip(np.split(images, 6), np.split(labels, 6), strict=True)
    if layout == "binary":
        return {f"{name}.bin": binary_batch(*part) for name, part in zip(FILES, parts, strict=True)}
    return {name: python_batch(*part, title) for name, part, title in zip(FILES, parts, TITLES, strict=True)}


def write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, files: dict[str, bytes], folder: str = "cifar-10-batches-py") -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tiny_arrays(rows: int = ROWS, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6 * rows, 3, 32, 32), np.uint8)
    labels = rng.integers(0, 10, 6 * rows, np.uint8)
    return images[: 5 * rows], labels[: 5 * rows], images[5 * rows :], labels[5 * rows :]


def tiny_official(files: dict[str, bytes] | None = None, **changes: object) -> Official:
    """The facts about a small stand-in of the official files."""
    known = {name: hashlib.md5(files[name]).hexdigest() for name in FILES} if files else {}
    blank = dict.fromkeys(FILES, "0" * 32)
    facts = Official(
        rows=ROWS, file_md5={**blank, **known}, archive_bytes=2**20, url="http://127.0.0.1:9/none"
    )
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def assert_same(data: Dataset, arrays: Arrays) -> None:
    """Equal to the four arrays, in value, shape, dtype and memory order."""
    got = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    for actual, expected in zip(got, arrays, strict=True):
        assert actual.dtype == np.uint8
        assert actual.flags.c_contiguous
        np.testing.assert_array_equal(actual, expected, strict=True)
    assert data.fingerprint == fingerprint(*arrays)


def refused(path: Path, official: Official | None = None) -> str:
    """The message of the DataError that reading this folder or archive raises."""
    with pytest.raises(DataError) as caught:
        readers.read(readers.find(path) or path, official or tiny_official())
    return str(caught.value)


IMAGES, LABELS = (part[:ROWS] for part in tiny_arrays()[:2])
GOOD = python_batch(IMAGES, LABELS, TITLES[0])
