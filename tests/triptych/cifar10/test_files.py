"""The official layouts, whole: python and binary files, folders and archives, written here in small."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import pickle
import struct
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from triptych.cifar10 import CLASS_NAMES, Dataset, binary, load, pickles, readers
from triptych.cifar10.dataset import Arrays, fingerprint
from triptych.cifar10.official import CIFAR10, FILES, Official

ROWS = 4
TITLES = [f"training batch {k} of 5" for k in range(1, 6)] + ["testing batch 1 of 1"]
REAL_DATA = "TRIPTYCH_TEST_CIFAR10"


# ---- writers of the official layouts, also for the other tests of the data ----


def text(value: str | bytes) -> bytes:
    """A Python 2 string as its pickle writes it."""
    raw = value.encode() if isinstance(value, str) else value
    return b"U" + bytes([len(raw)]) + raw


def array(rows: int, pixels: bytes, dtype: str = "u1", columns: int = 3072, order: bytes = b"\x89") -> bytes:
    """A NumPy array (rows, columns) as Python 2 and the NumPy of its time pickle it."""
    make = b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08"
    shape = b"J" + struct.pack("<i", rows) + b"J" + struct.pack("<i", columns) + b"\x86"
    kind = (
        b"cnumpy\ndtype\nq\x09"
        + text(dtype)
        + b"K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNN"
        + b"J\xff\xff\xff\xff" * 2
    )
    return (
        make
        + b"(K\x01"
        + shape
        + kind
        + b"K\x00tb"
        + order
        + b"T"
        + struct.pack("<I", len(pixels))
        + pixels
        + b"tb"
    )


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


# ---- parsers ----


def test_the_writer_writes_what_python_and_numpy_read():
    # The ordinary unpickler, on our own bytes, is the independent witness for both writer and reader.
    images, labels, *_ = tiny_arrays()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core moved
        batch = pickle.loads(python_batch(images, labels, TITLES[0]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], images.reshape(-1, 3072))
    assert batch[b"labels"] == labels.tolist()
    assert batch[b"batch_label"] == TITLES[0].encode()


def test_python_batch():
    images, labels, *_ = tiny_arrays()
    got_images, got_labels, title = pickles.parse(
        python_batch(images, labels, TITLES[2]), "batch", len(images)
    )
    np.testing.assert_array_equal(got_images, images, strict=True)
    np.testing.assert_array_equal(got_labels, labels, strict=True)
    assert title == b"training batch 3 of 5"


def test_python_batch_in_fortran_order():
    images, labels, *_ = tiny_arrays()
    columns = np.asfortranarray(images.reshape(-1, 3072)).tobytes(order="A")
    content = python_batch(images, labels, TITLES[0])
    content = content.replace(images.tobytes(), columns).replace(b"tb\x89T", b"tb\x88T")
    np.testing.assert_array_equal(pickles.parse(content, "batch", len(images))[0], images)


def test_binary_batch():
    images, labels, *_ = tiny_arrays()
    got_images, got_labels, _ = binary.parse(binary_batch(images, labels), "batch", len(images))
    np.testing.assert_array_equal(got_images, images, strict=True)
    np.testing.assert_array_equal(got_labels, labels, strict=True)


# ---- folders and archives ----


@pytest.mark.parametrize("layout", ["python", "binary"])
@pytest.mark.parametrize("place", ["itself", "inside", "archive.tar.gz", "archive.tar", "archive inside"])
def test_every_place_gives_the_same_arrays(tmp_path, layout, place):
    arrays = tiny_arrays()
    files = batch_files(arrays, layout)
    folder = "cifar-10-batches-py" if layout == "python" else "cifar-10-batches-bin"
    if place in ("itself", "inside"):
        root = write_folder(tmp_path / folder, files)
        root = root if place == "itself" else tmp_path
        source = f"cifar10 {layout} files"
    else:
        root = tmp_path / (f"cifar-10-{layout}.tar.gz" if place == "archive inside" else place)
        write_archive(root, files, folder)
        root = tmp_path if place == "archive inside" else root
        source = "cifar10 archive"
    official = tiny_official(files if layout == "python" else None)
    data = readers.read(readers.find(root) or root, official)
    assert_same(data, arrays)
    assert data.source == source
    assert str(tmp_path) not in " ".join((data.source, *data.notices))
    assert bool(data.notices) == (layout == "binary")


def test_a_folder_of_any_name_and_an_archive_without_folders(tmp_path):
    arrays = tiny_arrays()
    files = batch_files(arrays, "python")
    assert_same(readers.read(write_folder(tmp_path / "mine", files), tiny_official(files)), arrays)
    assert_same(readers.read(write_archive(tmp_path / "a.tar", files, "."), tiny_official(files)), arrays)


def test_archive_members_in_any_order(tmp_path):
    arrays = tiny_arrays()
    files = batch_files(arrays, "python")
    path = write_archive(tmp_path / "a.tar.gz", {"readme.html": b"<p>", **dict(reversed(files.items()))})
    assert_same(readers.read(path, tiny_official(files)), arrays)


def test_unofficial_files_are_used_with_a_notice(tmp_path):
    arrays = tiny_arrays()
    files = batch_files(arrays, "python")
    official = tiny_official(files)
    files["data_batch_2"] = files["data_batch_2"].replace(b"image_00000", b"image_99999")
    (notice,) = readers.read(write_folder(tmp_path, files), official).notices
    assert "unofficial" in notice
    assert "1 of 6 files" in notice
    assert "data_batch_2" in notice
    assert "\n" not in notice


def test_binary_notices(tmp_path):
    files = batch_files(tiny_arrays(), "binary")
    (notice,) = readers.read(write_folder(tmp_path / "b", files), tiny_official()).notices
    assert "not checked" in notice
    path = write_archive(tmp_path / "a.tar.gz", files)
    (notice,) = readers.read(path, tiny_official()).notices
    assert "not checked" in notice
    known = tiny_official(binary_archive_md5=hashlib.md5(path.read_bytes()).hexdigest())
    assert readers.read(path, known).notices == ()


def test_fingerprint_follows_content_shape_and_order():
    arrays = tiny_arrays()
    print_ = fingerprint(*arrays)
    assert print_ == "sha256:" + _fingerprint_by_hand(arrays)
    assert fingerprint(*(np.asfortranarray(a) for a in arrays)) == print_
    changed = arrays[0].copy()
    changed[-1, -1, -1, -1] ^= 1
    assert fingerprint(changed, *arrays[1:]) != print_
    assert fingerprint(arrays[2], arrays[3], arrays[0], arrays[1]) != print_


def _fingerprint_by_hand(arrays: Arrays) -> str:
    return hashlib.sha256(b"".join(f"|u1 {a.shape}\n".encode() + a.tobytes() for a in arrays)).hexdigest()


def test_class_names_are_the_official_ones_in_order():
    assert CLASS_NAMES[:5] == ("airplane", "automobile", "bird", "cat", "deer")
    assert CLASS_NAMES[5:] == ("dog", "frog", "horse", "ship", "truck")


# ---- the real data ----


@pytest.mark.skipif(REAL_DATA not in os.environ, reason=f"{REAL_DATA} names no folder with CIFAR-10")
def test_real_data_is_the_same_from_every_source(tmp_path):
    root = Path(os.environ[REAL_DATA])
    prints = {}
    for layout in (readers.PYTHON, readers.BINARY):
        folder = root / layout.folder
        prints[layout.kind] = load("cifar10", folder, report=lambda _: None).fingerprint
        path = tmp_path / f"cifar-10-{layout.kind}.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as tar:
            tar.add(folder, folder.name)
        prints[f"{layout.kind} archive"] = load("cifar10", path, report=lambda _: None).fingerprint
    assert len(set(prints.values())) == 1, prints


def test_the_official_facts_are_consistent():
    assert CIFAR10.train_rows == 50_000
    assert set(CIFAR10.file_md5) == set(FILES)
    assert 31_100_000 < CIFAR10.file_bytes < 40_000_000
