"""From the official files, in a folder or an archive, to a checked Dataset.

Each of the six batch files is read whole (its size is bounded first), parsed by `pickles` or `binary`,
and copied into place; the two layouts and the archives end in the same arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from triptych.cifar10 import archives, binary, pickles
from triptych.cifar10.dataset import DataError, Dataset
from triptych.cifar10.official import (
    ARCHIVES,
    BINARY_FOLDER,
    CHANNELS,
    CIFAR10,
    FILES,
    PYTHON_FOLDER,
    SIDE,
    TEST_FILE,
    TRAIN_FILES,
    Official,
)

Parser = Callable[[bytes, str, int], tuple[np.ndarray, np.ndarray, bytes | None]]


@dataclass(frozen=True)
class Layout:
    """One of the two official layouts: its name, the ending of its files and their parser."""

    kind: str
    suffix: str
    folder: str
    parse: Parser


PYTHON = Layout("python", "", PYTHON_FOLDER, pickles.parse)
BINARY = Layout("binary", ".bin", BINARY_FOLDER, binary.parse)


def find(root: Path) -> Path | None:
    """The first CIFAR-10 at `root`: itself, a batches folder in it, or an archive in it. None if none.

    Raises DataError when `root` is a file but no archive, or something odd.
    """
    try:
        if root.is_file():
            if not archives.is_archive(root):
                raise DataError(
                    f"{root}: expected a CIFAR-10 folder or a tar archive ({', '.join(ARCHIVES)}), got "
                    "another sort of file; give the folder that holds the data"
                )
            return root
        if root.exists() and not root.is_dir():
            raise DataError(f"{root}: expected a folder or an archive file, got something else")
        if _holds(root, PYTHON) or _holds(root, BINARY):
            return root
        places = (PYTHON_FOLDER, BINARY_FOLDER, *ARCHIVES)
        return next((root / place for place in places if (root / place).exists()), None)
    except OSError as problem:
        raise DataError(f"{root}: cannot be read: {problem.strerror or problem}") from None


def read(path: Path, official: Official = CIFAR10) -> Dataset:
    """The data set at `path`, as `find` returned it. Raises DataError unless it is whole and right."""
    return read_archive(path, official) if path.is_file() else read_folder(path, official)


def read_folder(folder: Path, official: Official = CIFAR10) -> Dataset:
    """The data set in a folder that holds the six batch files of either layout."""
    if _holds(folder, PYTHON):
        layout = PYTHON
    elif _holds(folder, BINARY) or folder.name == BINARY_FOLDER:
        layout = BINARY
    else:
        layout = PYTHON
    return _collect(layout, _folder_parts(folder, layout, official), str(folder), official)


def _holds(folder: Path, layout: Layout) -> bool:
    """Whether any of the layout's six files is there: one is enough to call the rest missing."""
    return any((folder / f"{name}{layout.suffix}").exists() for name in FILES)


def read_archive(path: Path, official: Official = CIFAR10) -> Dataset:
    """The data set in a tar archive (gzip or plain) of either layout, read without extracting it."""
    if path.stat().st_size > official.archive_bytes:
        raise DataError(
            f"{path}: expected an archive of at most {official.archive_bytes} bytes, got "
            f"{path.stat().st_size}; this is not the CIFAR-10 archive"
        )
    parts = archives.members(path, official.file_bytes, official.archive_bytes)
    first = next(parts, None)
    if first is None:
        raise DataError(
            f"{path}: expected the CIFAR-10 batch files ({FILES[0]} ... {TEST_FILE}) in the archive, found "
            "none; is it CIFAR-100 or another archive?"
        )
    layout = BINARY if first[0].endswith(".bin") else PYTHON
    named = ((name, f"{path}({name})", data) for name, data in _chain(first, parts))
    return _collect(layout, named, str(path), official, archive=path)


def _chain(first: tuple[str, bytes], rest: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    yield first
    yield from rest


def _folder_parts(folder: Path, layout: Layout, official: Official) -> Iterator[tuple[str, str, bytes]]:
    for name in (f"{stem}{layout.suffix}" for stem in FILES):
        path = folder / name
        try:
            if not path.is_file():
                raise DataError(
                    f"{path}: expected {FILES[0]}{layout.suffix} ... {TEST_FILE}{layout.suffix} "
                    "in this folder, this one is missing; complete the folder or delete it"
                )
            size = path.stat().st_size
            if size > official.file_bytes:
                raise DataError(f"{path}: expected at most {official.file_bytes} bytes, got {size}")
            data = path.read_bytes()
        except OSError as problem:
            raise DataError(f"{path}: cannot be read: {problem.strerror or problem}") from None
        yield name, str(path), data


def _collect(
    layout: Layout,
    parts: Iterable[tuple[str, str, bytes]],
    where: str,
    official: Official,
    archive: Path | None = None,
) -> Dataset:
    """Parse every part (file name, name for messages, bytes) into its place among the 60,000 images."""
    images = np.empty((len(FILES), official.rows, CHANNELS, SIDE, SIDE), np.uint8)
    labels = np.empty((len(FILES), official.rows), np.uint8)
    digests: dict[str, str] = {}
    for file_name, shown, data in parts:
        stem = file_name.removesuffix(layout.suffix)
        if stem not in FILES:
            raise DataError(
                f"{shown}: expected only files of the {layout.kind} layout beside it; use one layout"
            )
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        _check_new(stem, digest, digests, shown)
        digests[stem] = digest
        at = FILES.index(stem)
        images[at], labels[at], title = layout.parse(data, shown, official.rows)
        _check_title(stem, title, shown)
    missing = [f"{name}{layout.suffix}" for name in FILES if name not in digests]
    if missing:
        raise DataError(
            f"{where}: expected all six batch files, missing {', '.join(missing)}; download it again"
        )
    kind = "cifar10 archive" if archive else f"cifar10 {layout.kind} files"
    notice = _python_notice(digests, official) if layout is PYTHON else _binary_notice(archive, official)
    train, rows = len(TRAIN_FILES), official.train_rows
    arrays = (
        images[:train].reshape(rows, CHANNELS, SIDE, SIDE),
        labels[:train].reshape(rows),
        images[train],
        labels[train],
    )
    return Dataset.of(arrays, kind, (notice,) if notice else ())


def _check_new(stem: str, digest: str, digests: dict[str, str], shown: str) -> None:
    if stem in digests:
        raise DataError(
            f"{shown}: expected each batch file once, got {stem} twice; download the archive again"
        )
    for other, known in digests.items():
        if digest == known:
            raise DataError(
                f"{shown}: holds the same bytes as {other}; restore both from the official archive"
            )


def _check_title(stem: str, title: bytes | None, shown: str) -> None:
    """A python batch says which of the six it is: files that changed places are noticed."""
    number = TRAIN_FILES.index(stem) + 1 if stem in TRAIN_FILES else 0
    expected = f"training batch {number} of 5" if number else "testing batch 1 of 1"
    if title is not None and title != expected.encode():
        raise DataError(
            f"{shown}: 'batch_label': expected '{expected}', got {title[:40]!r}: the files changed places; "
            "give them their right names or restore them from the official archive"
        )


def _python_notice(digests: dict[str, str], official: Official) -> str | None:
    others = [name for name in FILES if digests[name] != official.file_md5[name]]
    if not others:
        return None
    return (
        f"an unofficial copy of CIFAR-10: the MD5 of {len(others)} of {len(FILES)} files differs from the "
        f"official one ({', '.join(others)}); results may differ a little from those on the official data"
    )


def _binary_notice(archive: Path | None, official: Official) -> str | None:
    """No MD5 is published for the single binary files; only the whole compressed archive can be told."""
    if archive is None:
        return "cifar10 binary files: not checked against the official data (their MD5s are not published)"
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest == official.binary_archive_md5:
        return None
    return (
        f"cifar10 binary archive: not checked against the official data: its MD5 is {digest}, that of the "
        f"official compressed archive {official.binary_archive_md5}"
    )
