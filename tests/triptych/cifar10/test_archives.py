"""Broken and hostile archives, and random damage to every layout: always DataError, never another end."""

import io
import os
import random
import struct
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import cifar_files as made
from tests.helpers.tiny import flip
from triptych.cifar10 import DataError, pickles, readers
from triptych.cifar10.official import FILES

FILES_PYTHON = made.batch_files(made.tiny_arrays(), "python")


def archive(path, members, mode="w"):
    """An archive of hand-made members: (TarInfo, content)."""
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            info.size = len(content) if content else info.size
            tar.addfile(info, io.BytesIO(content) if content else None)
    return path


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_archive_members_that_are_no_files(tmp_path, kind):
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.type, info.linkname = kind, "/etc/passwd"
    assert "regular file" in made.refused(archive(tmp_path / "a.tar", [(info, b"")]))


def test_archive_with_paths_that_lead_outside_writes_nothing(tmp_path):
    inner = tmp_path / "deep" / "in"
    inner.mkdir(parents=True)
    path = made.write_archive(inner / "a.tar", FILES_PYTHON, "../../escaped")
    data = readers.read(path, made.tiny_official(FILES_PYTHON))
    assert len(data.train_images) == 5 * made.ROWS
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "deep", "in"]


WRONG = {
    "a member too large": ({**FILES_PYTHON, "data_batch_1": b"\0" * 60_000}, "tar", "expected at most"),
    "both layouts": ({**FILES_PYTHON, **made.batch_files(made.tiny_arrays(), "binary")}, "tar", "one layout"),
    "something else": ({"train": b"1", "test": b"2"}, "tar.gz", "found none"),
    "five files": ({name: FILES_PYTHON[name] for name in FILES[:-1]}, "tar", "missing test_batch"),
    "a bomb": ({"zeros": bytes(3 * 2**20), **FILES_PYTHON}, "tar.gz", "of content, got more"),
    "a broken member": ({**FILES_PYTHON, "data_batch_4": b"junk"}, "tar.gz", "a.tar.gz(data_batch_4)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_archive_is_refused(tmp_path, case):
    files, suffix, said = WRONG[case]
    path = made.write_archive(tmp_path / f"a.{suffix}", files)
    assert case != "a bomb" or path.stat().st_size < 2**17
    message = made.refused(path)
    assert said in message
    assert str(tmp_path) in message
    assert case != "a broken member" or "byte offset 0" in message


def test_archive_with_member_twice(tmp_path):
    files = [(tarfile.TarInfo(name), content) for name, content in FILES_PYTHON.items()]
    files.append((tarfile.TarInfo("data_batch_1"), FILES_PYTHON["data_batch_1"]))
    assert "twice" in made.refused(archive(tmp_path / "a.tar", files))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_truncated_archive(tmp_path, suffix, share):
    path = made.write_archive(tmp_path / f"cifar-10-python.{suffix}", FILES_PYTHON)
    os.truncate(path, int(path.stat().st_size * share))
    assert str(path) in made.refused(tmp_path)


def test_size_and_gzip_checksum_count(tmp_path):
    flip(path := made.write_archive(tmp_path / "a.tar.gz", FILES_PYTHON), -8)
    assert "CRC" in made.refused(path)
    os.truncate(path, 2**30)
    assert "expected an archive of at most" in made.refused(path)


def test_negative_size_in_a_tar_header(tmp_path):
    path = made.write_archive(tmp_path / "a.tar", FILES_PYTHON)
    content = bytearray(path.read_bytes())
    content[124:136] = b"\xff" + struct.pack(">q", -1024).rjust(11, b"\xff")
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    path.write_bytes(content)
    made.refused(path)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One to four small random changes, most of them near the structure at both ends."""
    out = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = min(int(rng.random() ** 3 * len(out)), len(out) - 1)
        at = at if rng.random() < 0.6 else len(out) - 1 - at
        match rng.randrange(4):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                del out[at : at + rng.randint(1, 40)]
            case 2:
                out[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            case _:
                del out[rng.randrange(len(out)) :]
        if not out:
            break
    return bytes(out)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_batches_never_raise_anything_else(seed):
    rng = random.Random(seed)
    refusals = 0
    for _ in range(250):
        try:
            pickles.parse(mutate(made.GOOD, rng), "x", made.ROWS)
        except DataError:
            refusals += 1
    assert refusals > 100


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_mutated_archives_never_raise_anything_else(tmp_path, suffix):
    rng = random.Random(7)
    content = made.write_archive(tmp_path / f"a.{suffix}", FILES_PYTHON).read_bytes()
    path = tmp_path / f"mutated.{suffix}"
    refusals = 0
    for _ in range(150):
        path.write_bytes(mutate(content, rng))
        try:
            readers.read_archive(path, made.tiny_official())
        except DataError:
            refusals += 1
    assert refusals > 40


BARE = [bytes([code]) for code in b"}])(t\x85\x86\x87eausRb02N\x88\x89."]
NAMES = [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"]
TEXTS = [made.text(word) for word in ("data", "labels", "u1")]
VALUES = [b"K\x03", *TEXTS, made.array(1, bytes(3072)), b"](K\x01e"]
MEMO = [b"q\x00", b"h\x00", b"q\x01", b"h\x01"]
OPERATIONS = st.sampled_from([*BARE, *NAMES, *VALUES, *MEMO])


@given(st.lists(OPERATIONS, max_size=30))
@settings(max_examples=300)
def test_any_sequence_of_operations_is_read_or_refused(operations):
    try:
        images, labels, _ = pickles.parse(b"\x80\x02" + b"".join(operations) + b".", "x", 1)
    except DataError:
        return
    assert images.shape == (1, 3, 32, 32)
    assert labels.shape == (1,)


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_any_bytes_are_refused(content):
    with pytest.raises(DataError):
        pickles.parse(content, "x", 1)
