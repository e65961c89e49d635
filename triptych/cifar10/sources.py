"""Where the data comes from: `load` picks a source and reports what the user should know."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from triptych.cifar10 import generated, readers, tfds_source, torchvision_source
from triptych.cifar10.dataset import DataError, Dataset
from triptych.cifar10.download import download
from triptych.cifar10.official import ARCHIVES, CIFAR10, PYTHON_FOLDER, Official

SOURCES = ("auto", "cifar10", "torchvision", "tfds", "generated")
DATA_DIR_VARIABLE = "TRIPTYCH_DATA_DIR"
DEFAULT_DATA_DIR = Path("data")
BANNER_WIDTH = 90
Report = Callable[[str], None]


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def load(
    dataset: str = "auto",
    data_dir: Path | None = None,
    *,
    timeout: float = 10.0,
    report: Report = _to_stderr,
) -> Dataset:
    """CIFAR-10 in memory, from the named source.

    dataset: "auto" takes local files, else downloads, else (where no data_dir is named) makes the generated
    stand-in and says so loudly; "cifar10" never takes the stand-in; "torchvision" and "tfds" go through
    those packages; "generated" is the stand-in itself.
    data_dir: the official folder or archive, or a folder that holds one, and where a download goes.
    Without it the environment's TRIPTYCH_DATA_DIR counts, then ./data.
    timeout: seconds until a silent connection is given up. report: receives every notice.
    Raises DataError when the source cannot give the data, and for a broken local copy in any case.
    """
    return load_official(dataset, data_dir, timeout, report, CIFAR10)


def load_official(
    dataset: str, data_dir: Path | None, timeout: float, report: Report, official: Official
) -> Dataset:
    """`load` for a given description of the official files; the tests pass a small one."""
    if dataset not in SOURCES:
        raise DataError(f"dataset: expected one of {', '.join(SOURCES)}, got '{dataset}'")
    chosen = data_dir or (Path(os.environ[DATA_DIR_VARIABLE]) if os.environ.get(DATA_DIR_VARIABLE) else None)
    root = (chosen or DEFAULT_DATA_DIR).expanduser()
    if dataset == "generated":
        data = Dataset.of(generated.generate(), "generated")
    elif dataset == "torchvision":
        data = torchvision_source.read(root, timeout, official)
    elif dataset == "tfds":
        # Without a folder of the user's, tfds knows its own (~/tensorflow_datasets).
        data = tfds_source.read(root if chosen else None, official)
    else:
        data = _official(root, timeout, report, official, stand_in=dataset == "auto" and not chosen)
    for notice in data.notices:
        if "\n" in notice:
            report(notice)
        elif report is not _to_stderr or _first_time(root, notice):
            width = shutil.get_terminal_size().columns if sys.stderr.isatty() else sys.maxsize
            report(textwrap.fill(f"notice: {notice}", width))
    return data


def _first_time(root: Path, notice: str) -> bool:
    """Whether this was not yet said of that folder: once is enough. Noted below the cache's folder."""
    name = hashlib.sha256(f"{root.resolve()} {notice}".encode()).hexdigest()[:16]
    try:
        chosen = os.environ.get("XDG_CACHE_HOME")
        mark = Path(chosen or Path.home() / ".cache").expanduser() / "triptych" / "said" / name
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch(exist_ok=False)
    except (FileExistsError, RuntimeError, OSError) as error:
        return not isinstance(error, FileExistsError)
    return True


def _official(root: Path, timeout: float, report: Report, official: Official, stand_in: bool) -> Dataset:
    """Local files, else a download, else (if allowed) the stand-in."""
    found = readers.find(root)
    if found is None:
        # A missing file is no place to download into.
        if not root.exists() and root.suffix in (".gz", ".tar", ".tgz"):
            raise DataError(
                f"{root}: no such file; expected a CIFAR-10 archive or folder ({', '.join(ARCHIVES)})"
            )
        report(f"no CIFAR-10 in {root}: downloading {official.url}")
        try:
            found = download(root, timeout, official)
        except DataError as problem:
            if stand_in:
                return Dataset.of(generated.generate(), "generated", (_banner(str(problem), root),))
            raise DataError(
                f"{root}: expected CIFAR-10 there ({PYTHON_FOLDER} or {ARCHIVES[0]}), found none, and "
                f"{problem}; or take --dataset generated"
            ) from None
    return readers.read(found, official)


def _banner(reason: str, root: Path) -> str:
    lines = [
        "THIS IS NOT CIFAR-10.",
        "No CIFAR-10 was found and none could be downloaded, so this run trains on GENERATED images.",
        "Its accuracies say nothing about CIFAR-10 and must not be compared with reported ones.",
        f"Looked in: {root}",
        f"Reason: {reason}",
        "To use the real data: --data-dir FOLDER. To say that you want this: --dataset generated.",
    ]
    width = min(BANNER_WIDTH, max(20, shutil.get_terminal_size().columns - 7))
    rule = "!" * (width + 6)
    wrapped = [part for line in lines for part in textwrap.wrap(line, width)]
    return "\n".join(["", rule, *(f"!! {part:<{width}} !!" for part in wrapped), rule, ""])
