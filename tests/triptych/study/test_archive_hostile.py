"""Broken and hostile archives of runs: one sentence that names file and member, and nothing is written."""

from __future__ import annotations

import json
import lzma
import random
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import study_runs
from triptych.errors import UserError
from triptych.store.sealed import sealed
from triptych.study import archive
from triptych.study.__main__ import main as study

RUN = "fig1/jax-seed0"
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The files of a whole run, sealed as train.py seals them."""
    folder = study_runs.finished(tmp_path_factory.mktemp("good"), "fig1", "jax", 0, 0.46)
    for name in ("config.json", "summary.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(sealed(content)))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def packed(good: Files) -> bytes:
    return archive.packed("fig1", {("jax", 0): good})


def entry(name: str, content: bytes = b"", size: int | None = None, **fields: Any) -> bytes:
    """A member as it stands in a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content) if size is None else size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8") + content + bytes(-len(content) % 512)


def run(files: Files, folder: str = RUN) -> bytes:
    return b"".join(entry(f"{folder}/{name}", content) for name, content in files.items())


def xz(tar: bytes, end: bytes = bytes(1024)) -> bytes:
    return lzma.compress(tar + end, preset=0)


class Refusal:
    """Unpacks bytes as fig1.tar.xz, and sees to it that they are refused as they should be."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self.root, self.capsys = folder / "from" / "fig1.tar.xz", folder / "root", capsys
        self.path.parent.mkdir()

    def __call__(self, content: bytes, said: str) -> None:
        self.path.write_bytes(content)
        assert study(["unpack", "--from", str(self.path.parent), "--root", str(self.root)]) == 2
        (line,) = self.capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {self.path}: ")
        assert said in line
        assert ".unpacking" not in line
        assert [path.name for path in self.root.rglob("*")] == [".lock"]
        assert {path.name for path in self.root.parent.iterdir()} == {"from", "root"}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(tmp_path, capsys)


def test_the_good_run_is_taken(packed: bytes, good: Files, tmp_path: Path) -> None:
    """So that what is refused below is refused for what was changed."""
    for number, content in enumerate((packed, xz(run(good)))):
        (tmp_path / "fig1.tar.xz").write_bytes(content)
        root = tmp_path / str(number)
        assert study(["unpack", "--from", str(tmp_path), "--root", str(root)]) == 0
        assert {path.name: path.read_bytes() for path in (root / RUN).iterdir()} == good


# --- members -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE,
        tarfile.CONTTYPE, tarfile.AREGTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, b"Z",
    ],
)  # fmt: skip
def test_only_regular_files(kind: bytes, good: Files, refused: Refusal) -> None:
    member = f"{RUN}/summary.json"
    content = xz(run(good, "fig1/jax-seed1") + entry(member, type=kind, linkname="/etc/passwd"))
    refused(content, f"member {member!r}: expected a regular file, got a link or a special entry")


@pytest.mark.parametrize(
    "name",
    [
        "/fig1/jax-seed1/config.json",
        "../fig1/jax-seed1/config.json",
        "fig1/../jax-seed1/config.json",
        "fig1/jax-seed1/../config.json",
        "./fig1/jax-seed1/config.json",
        "fig1//jax-seed1/config.json",
        "fig1/jax-seed1/deeper/config.json",
        "fig1/jax-seed1/checkpoints",
        "fig1/jax-seed1/predictions.npy",
        "fig1/jax-seed1/config.json.tmp",
        "fig1/jax-seed1/config.json\n",
        "fig1/jax-seed1/Config.json",
        "fig1/config.json",
        "config.json",
        "",
        "fig2/jax-seed1/config.json",
        "figX/jax-seed1/config.json",
        "fig1/tpu-seed1/config.json",
        "fig1/JAX-seed1/config.json",
        "fig1/jax-seed/config.json",
        "fig1/jax-seed01/config.json",
        "fig1/jax-seed-1/config.json",
        "fig1/jax-seed+1/config.json",
        "fig1/jax-seed1e3/config.json",
        "fig1/jax-seed1_0/config.json",
        "fig1/jax-seed 1/config.json",
        "fig1/jax-seed1000000000/config.json",
        "fig1/jax-seed1\\..\\config.json",
    ],
)
def test_only_known_names(name: str, good: Files, refused: Refusal) -> None:
    member = entry(name, good["config.json"])
    refused(xz(run(good) + member), f"member {name!r}: expected fig1/BACKEND-seedN/ and one of config.json")


def test_names_beyond_ascii(good: Files, refused: Refusal) -> None:
    refused(xz(run(good) + entry("fig1/jax-seed٣/config.json")), "broken tar header at byte")


def test_a_member_twice(good: Files, refused: Refusal) -> None:
    again = entry(f"{RUN}/config.json", good["config.json"])
    refused(xz(run(good) + again), f"member {RUN}/config.json is there twice")


@pytest.mark.parametrize("names", [
    ["config.json"], ["config.json", "summary.json"], ["metrics.jsonl", "summary.json"], ["failed.json"],
    ["config.json", "metrics.jsonl"], ["config.json", "metrics.jsonl", "failed.json", "summary.json"],
])  # fmt: skip
def test_a_run_in_part(names: list[str], good: Files, refused: Refusal) -> None:
    part = {name: good.get(name, b"{}") for name in names}
    found = ", ".join(sorted(names))
    refused(xz(run(part)), f"run {RUN}: expected config.json with metrics.jsonl and summary.json, or with")
    refused(xz(run(part)), f"found {found};")


# --- sizes ---------------------------------------------------------------------------------------


def test_a_bomb(refused: Refusal) -> None:
    content = lzma.compress(bytes(archive.MOST_CONTENT + 1), preset=0)
    assert len(content) < 2**15
    refused(content, f"expected at most {archive.MOST_CONTENT} bytes of content, got more")


def test_an_archive_that_is_too_large(refused: Refusal) -> None:
    with open(refused.path, "wb") as file:
        file.truncate(archive.MOST_PACKED + 1)
    refused(refused.path.read_bytes(), f"expected at most {archive.MOST_PACKED} bytes, got")


def test_a_file_that_is_too_large(refused: Refusal) -> None:
    size = archive.MOST_FILE + 1
    member = entry(f"{RUN}/metrics.jsonl", bytes(size))
    refused(xz(member), f"expected at most {archive.MOST_FILE} bytes, got {size}")


def test_a_negative_size_and_one_beyond_the_end(refused: Refusal) -> None:
    negative = bytearray(entry(f"{RUN}/metrics.jsonl"))
    negative[124:136] = b"\xff" * 10 + b"\xfc\x00"
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative[:512])
    refused(xz(bytes(negative)), f"expected at most {archive.MOST_FILE} bytes, got -1024")
    refused(xz(entry(f"{RUN}/metrics.jsonl", size=5000)), "expected 5000 bytes, found 1024")


def test_memory_for_xz_is_bounded(good: Files, refused: Refusal) -> None:
    """A dictionary as large as xz allows would be taken before a byte comes out."""
    content = bytearray(lzma.compress(run(good) + bytes(1024), preset=0))
    assert content[12:17] == b"\x02\x00\x21\x01\x0c"  # the block's header: LZMA2, dictionary of 2**18
    content[16] = 40  # 2**32 - 1
    content[20:24] = zlib.crc32(content[12:20]).to_bytes(4, "little")
    refused(bytes(content), "not a readable xz file (Memory usage limit exceeded)")


# --- damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: b"", "the xz file ends early"),
        (lambda whole: whole[:20], "the xz file ends early"),
        (lambda whole: whole[: len(whole) // 2], "the xz file ends early"),
        (lambda whole: whole[:-1], "the xz file ends early"),
        (lambda whole: whole + b"x", "1 bytes after the xz file's end"),
        (lambda whole: whole + whole, "bytes after the xz file's end"),
        (lambda whole: b"PK" + whole, "not a readable xz file"),
        (lambda whole: lzma.decompress(whole), "not a readable xz file"),
        (lambda whole: lzma.compress(lzma.decompress(whole), lzma.FORMAT_ALONE), "not a readable xz file"),
        (lambda whole: lzma.compress(lzma.decompress(whole), check=lzma.CHECK_NONE), "without the CRC-64"),
        (lambda whole: xz(lzma.decompress(whole), b"x"), "expected the tar to end at byte"),
        (lambda whole: xz(lzma.decompress(whole)[:-9000], b""), "expected"),
        (lambda whole: xz(b"", bytes(512)), "expected the tar to end at byte 0, with zeros"),
        (lambda whole: xz(b"hello " * 200), "broken tar header at byte 0"),
    ],
)
def test_damage(change: Callable[[bytes], bytes], said: str, packed: bytes, refused: Refusal) -> None:
    refused(change(packed), said)


def test_no_flipped_bit_goes_unnoticed(packed: bytes) -> None:
    for place in {*range(40), *range(len(packed) - 40, len(packed)), *range(0, len(packed), 97)}:
        broken = bytearray(packed)
        broken[place] ^= 1 << place % 8
        with pytest.raises(UserError, match=r"^a\.tar\.xz: "):
            archive.unpacked(bytes(broken), "fig1", Path("a.tar.xz"))


def test_random_damage_within_the_tar_never_ends_otherwise(good: Files) -> None:
    """The xz around it is whole, so that nothing but the reader of the tar stands in the way."""
    short = {name: content[:700] for name, content in good.items()}
    tar, rng, refusals = run(short) + bytes(1024), random.Random(7), 0
    for _ in range(600):
        broken = bytearray(tar)
        for _ in range(rng.randint(1, 4)):
            at = rng.choice([0, 1024 + 512, 3072]) + rng.randrange(512)
            if rng.random() < 0.2:
                del broken[at : at + rng.randint(1, 600)]
            else:
                broken[at % len(broken)] = rng.randrange(256)
        if rng.random() < 0.7:  # mended, so that more than the checksum is looked at
            broken[148:156] = b" " * 8
            broken[148:156] = b"%06o\0 " % sum(broken[:512])
        try:
            found = archive.unpacked(lzma.compress(bytes(broken), preset=0), "fig1", Path("a"))
        except UserError:
            refusals += 1
        else:
            assert all(backend in ("numpy", "jax", "torch") for backend, _ in found)
            assert all(set(files) <= set(archive.FILES) for files in found.values())
    assert refusals > 300
