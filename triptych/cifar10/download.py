"""Fetches the official archive: bounded in time and size, checked before it appears under its name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import queue
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from tqdm import tqdm

from triptych.cifar10.dataset import DataError
from triptych.cifar10.official import CIFAR10, PYTHON_ARCHIVE, Official

CHUNK = 2**18
NEXT_STEP = "fetch the archive by other means and give its folder as --data-dir"


def download(folder: Path, timeout: float, official: Official = CIFAR10) -> Path:
    """Download the official python archive into `folder` (made if needed); its path.

    A connection that does not stand within `timeout` seconds is given up, and so is one that falls silent
    for as long. The file appears under its name only when its checksum is right, and nothing is left
    behind otherwise. Raises DataError with the reason in one line.
    """
    url = official.url
    try:
        with contextlib.closing(_connect(url, timeout)) as response:
            length = _length(response, official)
            folder.mkdir(parents=True, exist_ok=True)
            return _store(response, length, folder, official)
    except (OSError, http.client.HTTPException, ValueError) as problem:
        # URLError wraps the reason; a bare time-out has no text at all.
        if isinstance(problem, urllib.error.HTTPError):
            problem.close()  # it holds the connection
        reason = getattr(problem, "reason", None) or str(problem) or type(problem).__name__
        raise DataError(f"{url}: the download failed: {' '.join(str(reason).split())}; {NEXT_STEP}") from None


def _connect(url: str, timeout: float) -> http.client.HTTPResponse:
    """The open response. In a thread, because looking up a host's name obeys no time-out."""
    answers: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def work() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=timeout)
        except Exception as problem:  # carried over to the caller, which knows what to catch
            answers.put(problem)
            return
        answers.put(response)
        if given_up.is_set():
            response.close()

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {timeout:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _length(response: http.client.HTTPResponse, official: Official) -> int | None:
    length = response.headers.get("Content-Length")
    if length is None:
        return None
    if int(length) > official.archive_bytes:
        raise ValueError(f"expected at most {official.archive_bytes} bytes, the server announces {length}")
    return int(length)


def _store(response: http.client.HTTPResponse, length: int | None, folder: Path, official: Official) -> Path:
    """Write to a temporary file beside the target, check it, and only then give it its name."""
    target = folder / PYTHON_ARCHIVE
    handle, temporary = tempfile.mkstemp(prefix=".cifar-10-", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            md5, sha256 = _copy(response, file, length, official)
            file.flush()
            os.fsync(file.fileno())
        if (md5, sha256) != (official.archive_md5, official.archive_sha256):
            raise ValueError(
                f"expected MD5 {official.archive_md5} and SHA-256 {official.archive_sha256}, "
                f"got {md5} and {sha256}"
            )
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return target


def _copy(
    response: http.client.HTTPResponse, file: IO[bytes], length: int | None, official: Official
) -> tuple[str, str]:
    """Copy the body; its MD5 and SHA-256."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    count = 0
    # disable=None: silent unless the standard error is a terminal.
    with tqdm(total=length, unit="B", unit_scale=True, desc=PYTHON_ARCHIVE, disable=None) as bar:
        while chunk := response.read(CHUNK):
            count += len(chunk)
            if count > official.archive_bytes:
                raise ValueError(f"expected at most {official.archive_bytes} bytes, got more")
            file.write(chunk)
            md5.update(chunk)
            sha256.update(chunk)
            bar.update(len(chunk))
    if length is not None and count != length:
        raise ValueError(f"expected {length} bytes, the connection ended after {count}")
    return md5.hexdigest(), sha256.hexdigest()
