"""One process at a time in a run's folder: a second one is refused, and a killed one leaves no obstacle.

The lock is the kernel's (flock on the file `lock` in the folder), so it ends with the process that holds
it, however that ends. The file itself stays, and says who held it last; nothing depends on its content.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sys
from pathlib import Path
from types import TracebackType

from triptych.errors import UserError
from triptych.store.files import MODE, LinkError

NAME = "lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
"""What flock says on a file system that has none (some network and FUSE mounts)."""


class RunLocks:
    """The run folders that this process holds, until its context ends."""

    def __init__(self) -> None:
        self._handles: dict[Path, int | None] = {}
        """None where the file system has no locks."""

    def __enter__(self) -> RunLocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles.values():
            if handle is not None:
                os.close(handle)
        self._handles = {}

    def take(self, folder: Path) -> bool:
        """Hold `folder`, where it is there already; once held it stays held. Whether it is new to us.

        Raises UserError where another process holds it. On a file system without locks it says so on
        standard error and goes on: nobody should be kept from training there, but nothing stops a second
        process either.
        """
        if folder in self._handles or not folder.is_dir():
            return False
        handle = _opened(folder)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace").strip()
            os.close(handle)
            raise UserError(
                f"run_dir {folder}: another process is at work in it ({holder or 'it has not said which'}); "
                "wait for it or stop it, or choose another --run-dir"
            ) from None
        except OSError as error:
            os.close(handle)
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"notice: {folder} is on a file system without locks ({error.strerror}); see to it that no "
                "second process works in this folder",
                file=sys.stderr,
            )
            self._handles[folder] = None
            return True
        self._handles[folder] = handle
        _say_who(handle)
        return True

    def check(self, folder: Path) -> None:
        """Raises UserError where the folder or its lock is no longer the one that we hold: it was deleted,
        moved or replaced while this process was stopped, and another may be at work under its name.
        """
        handle = self._handles.get(folder)
        if handle is None:
            return
        ours = os.fstat(handle)
        try:
            there = os.stat(folder / NAME, follow_symlinks=False)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise UserError(
                f"run_dir {folder}: the folder or its file {NAME!r} was moved, deleted or replaced while "
                "this run "
                "was at work in it; nothing more is written. Put it back, or repeat the command"
            )


def _opened(folder: Path) -> int:
    """The lock's file, open. Raises UserError for a link, and where too many files are open."""
    try:
        return os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise LinkError(folder / NAME) from None
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise UserError(
                f"run_dir {folder}: too many open files for a lock on each run; raise the limit (ulimit "
                "-n), or "
                "make fewer runs at once"
            ) from None
        raise


def _say_who(handle: int) -> None:
    """Write process and machine into the lock's file, for the message that a second process gets."""
    try:
        who = f"process {os.getpid()} on {platform.node()}\n".encode()
        os.ftruncate(handle, 0)
        os.pwrite(handle, who, 0)
    except OSError:
        pass  # a full disk: the lock itself holds without
