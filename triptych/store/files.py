"""Reading and writing the files of a folder that a stranger may have prepared.

A file is read only if it is a plain one, by its own name and of a bounded size: no link, pipe or device. What
the system refuses (EIO, EACCES, EMFILE) is a UserError of its own and never "damaged": only what was read and
is wrong is damaged. Nothing is written through a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from triptych.errors import UserError

_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
MODE = 0o666
"""Less the umask."""


class LinkError(UserError):
    """A link where a file or folder of a run's own is expected."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: is a link, where a run's own file is expected; remove it")


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a plain file. Raises FileNotFoundError; UserError for a link, a pipe or a device, for
    more than `most` bytes, and for what the system refuses.
    """
    try:
        # Without O_NONBLOCK a pipe would wait for somebody to write into it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _OPEN)
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{path}: expected a plain file, found a folder, a pipe or a device")
            if found.st_size > most:
                raise UserError(f"{path}: expected at most {most} bytes, found {found.st_size}")
            return file.read(found.st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkError(path) from None
        if error.errno == errno.EISDIR:
            raise UserError(f"{path}: expected a plain file, found a folder") from None
        raise UserError(
            f"{path}: cannot be read now ({error.strerror}); nothing was changed: see to the disk, its "
            "rights "
            "or the open files (ulimit -n), and repeat the command"
        ) from None


def append(path: Path, content: bytes) -> None:
    """Add to a file, on the disk when this returns. Raises LinkError, OSError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _OPEN, MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkError(path) from None
        raise
    try:
        # Unbuffered: what a full disk refuses must not be tried again when the file is closed.
        while content:
            content = content[os.write(handle, content) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: after a crash it holds the old or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # left by a crash; or a link, which must not be written through
        with open(os.open(temporary, _NEW, MODE), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        # A full disk stays full for as long as half a checkpoint lies on it.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def own_folder(path: Path) -> Path:
    """The folder, made where it is missing, without its parents: a run's folder that was deleted must not
    come back in part. Raises LinkError.
    """
    if path.is_symlink():
        raise LinkError(path)
    path.mkdir(exist_ok=True)
    return path
