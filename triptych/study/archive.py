"""One file of a name's runs: a plain tar in one xz stream, the same bytes for the same runs.

What is read may come from a stranger: nothing but the known files of known runs is taken, everything is
bounded, and nothing is written here.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast, get_args

from triptych.describe.spec import BackendName
from triptych.errors import UserError

FILES = ("config.json", "metrics.jsonl", "failed.json", "summary.json")
"""What is kept of a run: config.json with metrics.jsonl and summary.json; of one that stopped being finite
config.json with failed.json, and metrics.jsonl where there is one.
"""
Key = tuple[BackendName, int]
"""Backend and seed of a run."""
Runs = dict[Key, dict[str, bytes]]
"""Each run's files by name."""

MOST_FILE, MOST_CONTENT, MOST_PACKED, MOST_MEMORY = 2**24, 2**27, 2**26, 2**26
"""Bytes of one file, of an archive's content, of the archive itself, and of xz's memory while it is read: far
beyond what the plan's runs come to.
"""
AGAIN = "get the file again"

_RUN = rf"({'|'.join(get_args(BackendName))})-seed(0|[1-9][0-9]{{0,8}})"
_BLOCK = tarfile.BLOCKSIZE


def run_key(folder: str) -> Key | None:
    """Backend and seed that a run folder's name stands for; None for any other name."""
    found = re.fullmatch(_RUN, folder)
    return (cast(BackendName, found[1]), int(found[2])) if found else None


def packed(name: str, runs: Mapping[Key, Mapping[str, bytes]]) -> bytes:
    """The archive of these runs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for (backend, seed), files in sorted(runs.items()):
            for file in FILES:
                if file in files:
                    # A TarInfo of its own has no owner and no date, whatever the file has.
                    info = tarfile.TarInfo(f"{name}/{backend}-seed{seed}/{file}")
                    info.size = len(files[file])
                    tar.addfile(info, io.BytesIO(files[file]))
    return lzma.compress(buffer.getvalue(), check=lzma.CHECK_CRC64, preset=6 | lzma.PRESET_EXTREME)


def read(path: Path, name: str) -> Runs:
    """The runs of that name in an archive, each with one of the sets of files that `FILES` describes.

    Raises UserError, with file and member, for anything that `packed` does not write.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a file, found none")
    size = path.stat().st_size
    if size > MOST_PACKED:
        raise UserError(f"{path}: expected at most {MOST_PACKED} bytes, got {size}; {AGAIN}")
    return unpacked(path.read_bytes(), name, path)


def unpacked(content: bytes, name: str, path: Path) -> Runs:
    """`read` of an archive's bytes; `path` is what messages call it."""
    runs: Runs = {}
    wanted = re.compile(rf"{re.escape(name)}/({_RUN})/({'|'.join(map(re.escape, FILES))})")
    for member, data in _members(_decompressed(content, path), path):
        found = wanted.fullmatch(member)
        if found is None:
            raise UserError(
                f"{path}: member {member[:200]!r}: expected {name}/BACKEND-seedN/ and one of "
                f"{', '.join(FILES)}; {AGAIN}"
            )
        files = runs.setdefault((cast(BackendName, found[2]), int(found[3])), {})
        if found[4] in files:
            raise UserError(f"{path}: member {member} is there twice; {AGAIN}")
        files[found[4]] = data
    for (backend, seed), files in runs.items():
        kept = set(files) | {"metrics.jsonl"} if "failed.json" in files else set(files)
        if kept not in ({*FILES} - {"failed.json"}, {*FILES} - {"summary.json"}):
            raise UserError(
                f"{path}: run {name}/{backend}-seed{seed}: expected config.json with metrics.jsonl and "
                f"summary.json, or with failed.json, found {', '.join(sorted(files))}; {AGAIN}"
            )
    return runs


def _decompressed(content: bytes, path: Path) -> bytes:
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
    try:
        raw = decompressor.decompress(content, MOST_CONTENT + 1)
    except lzma.LZMAError as error:
        raise UserError(f"{path}: not a readable xz file ({error}); {AGAIN}") from None
    if len(raw) > MOST_CONTENT:
        raise UserError(f"{path}: expected at most {MOST_CONTENT} bytes of content, got more; {AGAIN}")
    if not decompressor.eof:
        raise UserError(f"{path}: the xz file ends early; {AGAIN}")
    if decompressor.unused_data:
        raise UserError(f"{path}: {len(decompressor.unused_data)} bytes after the xz file's end; {AGAIN}")
    if decompressor.check != lzma.CHECK_CRC64:
        raise UserError(f"{path}: an xz file without the CRC-64 that notices damage; {AGAIN}")
    return raw


def _members(raw: bytes, path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member. Header by header: tarfile's own reader follows extended headers, which
    rename and resize the members after them, and `packed` writes none.
    """
    at = 0
    while any(header := raw[at : at + _BLOCK]):
        try:
            info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise UserError(f"{path}: broken tar header at byte {at} ({error}); {AGAIN}") from None
        where = f"{path}: member {info.name[:200]!r}"
        if info.type != tarfile.REGTYPE:
            raise UserError(f"{where}: expected a regular file, got a link or a special entry; {AGAIN}")
        if not 0 <= info.size <= MOST_FILE:
            raise UserError(f"{where}: expected at most {MOST_FILE} bytes, got {info.size}; {AGAIN}")
        data = raw[at + _BLOCK : at + _BLOCK + info.size]
        if len(data) < info.size:
            raise UserError(f"{where}: expected {info.size} bytes, found {len(data)}; {AGAIN}")
        yield info.name, data
        at += _BLOCK * (1 + -(-info.size // _BLOCK))
    if len(raw) < at + 2 * _BLOCK or any(raw[at:]):
        raise UserError(f"{path}: expected the tar to end at byte {at}, with zeros; {AGAIN}")
