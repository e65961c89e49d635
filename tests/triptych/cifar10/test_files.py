"""The official layouts, whole: python and binary files, folders and archives, written here in small."""

import hashlib
import os
import pickle
import tarfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import cifar_files as made
from triptych.cifar10 import CLASS_NAMES, binary, load, pickles, readers
from triptych.cifar10.dataset import Arrays, fingerprint
from triptych.cifar10.official import CIFAR10, FILES

REAL_DATA = "TRIPTYCH_TEST_CIFAR10"


def test_the_writer_writes_what_python_and_numpy_read():
    # The ordinary unpickler, on our own bytes, is the independent witness for both writer and reader.
    images, labels, *_ = made.tiny_arrays()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy.core moved
        batch = pickle.loads(made.python_batch(images, labels, made.TITLES[0]), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], images.reshape(-1, 3072))
    assert batch[b"labels"] == labels.tolist()
    assert batch[b"batch_label"] == made.TITLES[0].encode()


def test_python_batch_in_fortran_order():
    images, labels, *_ = made.tiny_arrays()
    columns = np.asfortranarray(images.reshape(-1, 3072)).tobytes(order="A")
    content = made.python_batch(images, labels, made.TITLES[0])
    content = content.replace(images.tobytes(), columns).replace(b"tb\x89T", b"tb\x88T")
    np.testing.assert_array_equal(pickles.parse(content, "batch", len(images))[0], images)


@pytest.mark.parametrize(
    ("parse", "write", "title"),
    [
        (pickles.parse, partial(made.python_batch, title=made.TITLES[2]), b"training batch 3 of 5"),
        (binary.parse, made.binary_batch, None),
    ],
)
def test_batch(parse, write, title):
    images, labels, *_ = made.tiny_arrays()
    got_images, got_labels, got_title = parse(write(images, labels), "batch", len(images))
    np.testing.assert_array_equal(got_images, images, strict=True)
    np.testing.assert_array_equal(got_labels, labels, strict=True)
    assert title in (got_title, None)


@pytest.mark.parametrize("layout", ["python", "binary"])
@pytest.mark.parametrize("place", ["itself", "inside", "archive.tar.gz", "archive.tar", "archive inside"])
def test_every_place_gives_the_same_arrays(tmp_path, layout, place):
    arrays = made.tiny_arrays()
    files = made.batch_files(arrays, layout)
    folder = "cifar-10-batches-py" if layout == "python" else "cifar-10-batches-bin"
    if place in ("itself", "inside"):
        root = made.write_folder(tmp_path / folder, files)
        root = root if place == "itself" else tmp_path
        source = f"cifar10 {layout} files"
    else:
        root = tmp_path / (f"cifar-10-{layout}.tar.gz" if place == "archive inside" else place)
        made.write_archive(root, files, folder)
        root = tmp_path if place == "archive inside" else root
        source = "cifar10 archive"
    official = made.tiny_official(files if layout == "python" else None)
    data = readers.read(readers.find(root) or root, official)
    made.assert_same(data, arrays)
    assert data.source == source
    assert str(tmp_path) not in " ".join((data.source, *data.notices))
    assert bool(data.notices) == (layout == "binary")


def test_a_folder_of_any_name_and_an_archive_without_folders(tmp_path):
    arrays = made.tiny_arrays()
    files = made.batch_files(arrays, "python")
    for path in (
        made.write_folder(tmp_path / "mine", files),
        made.write_archive(tmp_path / "a.tar", files, "."),
    ):
        made.assert_same(readers.read(path, made.tiny_official(files)), arrays)


def test_archive_members_in_any_order(tmp_path):
    arrays = made.tiny_arrays()
    files = made.batch_files(arrays, "python")
    path = made.write_archive(tmp_path / "a.tar.gz", {"readme.html": b"<p>", **dict(reversed(files.items()))})
    made.assert_same(readers.read(path, made.tiny_official(files)), arrays)


def test_unofficial_files_are_used_with_a_notice(tmp_path):
    arrays = made.tiny_arrays()
    files = made.batch_files(arrays, "python")
    official = made.tiny_official(files)
    files["data_batch_2"] = files["data_batch_2"].replace(b"image_00000", b"image_99999")
    (notice,) = readers.read(made.write_folder(tmp_path, files), official).notices
    assert "unofficial" in notice
    assert "1 of 6 files" in notice
    assert "data_batch_2" in notice
    assert "\n" not in notice


def test_binary_notices(tmp_path):
    files = made.batch_files(made.tiny_arrays(), "binary")
    (notice,) = readers.read(made.write_folder(tmp_path / "b", files), made.tiny_official()).notices
    assert "not checked" in notice
    path = made.write_archive(tmp_path / "a.tar.gz", files)
    (notice,) = readers.read(path, made.tiny_official()).notices
    assert "not checked" in notice
    known = made.tiny_official(binary_archive_md5=hashlib.md5(path.read_bytes()).hexdigest())
    assert readers.read(path, known).notices == ()


def test_fingerprint_follows_content_shape_and_order():
    arrays = made.tiny_arrays()
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
