"""Reads the batch files inside a CIFAR-10 tar archive, compressed with gzip or plain; extracts nothing."""

from __future__ import annotations

import gzip
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from triptych.cifar10.dataset import DataError
from triptych.cifar10.official import FILES

NEXT_STEP = "delete it and download it again"
GZIP_MAGIC = b"\x1f\x8b"
WANTED = frozenset(FILES) | frozenset(f"{name}.bin" for name in FILES)

# What tarfile, gzip and zlib are known to raise on damaged or hostile input.
BROKEN = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    ValueError,
    ArithmeticError,
    LookupError,
    RecursionError,
    MemoryError,
)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded:
    """A stream that counts what it has handed out and stops at a limit: a guard against gzip bombs."""

    def __init__(self, stream: _Readable, name: str, limit: int) -> None:
        self.stream, self.name, self.limit = stream, name, limit
        self.count = 0

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.count += len(data)
        if self.count > self.limit:
            raise DataError(
                f"{self.name}: expected at most {self.limit} bytes of content, got more; "
                "this is not the CIFAR-10 archive, move it away"
            )
        return data


def is_archive(path: Path) -> bool:
    """Whether the file starts like a gzip file or a tar archive (whatever is inside)."""
    with path.open("rb") as file:
        head = file.read(512)
    return head.startswith(GZIP_MAGIC) or head[257:262] == b"ustar"


def members(path: Path, member_bytes: int, total_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Base name and bytes of each batch file in the archive, in the archive's order.

    Only regular members with a batch file's name are read, at most `member_bytes` each and `total_bytes`
    of (decompressed) archive together. The archive is read to its end, so that gzip's checksum counts.
    Raises DataError for anything broken, with the offset in the (decompressed) archive.
    """
    bounded: _Bounded | None = None
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            bounded = _Bounded(gzip.GzipFile(fileobj=file) if compressed else file, str(path), total_bytes)
            # Stream mode reads forward only, through the bound, whatever the headers claim.
            with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]
                yield from _members(tar, path, member_bytes)
            while bounded.read(2**20):
                pass
    except BROKEN as problem:
        at = bounded.count if bounded else 0
        reason = str(problem) or type(problem).__name__
        raise DataError(
            f"{path}: broken archive at byte offset {at} of its content: {reason}; {NEXT_STEP}"
        ) from None


def _members(tar: tarfile.TarFile, path: Path, member_bytes: int) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        name = PurePosixPath(member.name).name
        if name not in WANTED:
            continue
        where = f"{path}({member.name[:200]})"
        if not member.isreg() or member.issparse():
            raise DataError(f"{where}: expected a regular file, got a link or a special file; {NEXT_STEP}")
        if not 0 <= member.size <= member_bytes:
            raise DataError(f"{where}: expected at most {member_bytes} bytes, got {member.size}; {NEXT_STEP}")
        content = tar.extractfile(member)
        assert content is not None  # tarfile's answer for what is not a regular file
        data = content.read()
        if len(data) != member.size:
            raise DataError(
                f"{where}: expected {member.size} bytes, got {len(data)}: the archive ends early at byte "
                f"offset {member.offset_data + len(data)} of its content; {NEXT_STEP}"
            )
        yield name, data
