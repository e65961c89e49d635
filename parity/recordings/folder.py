"""A recording's files: `manifest.json`, and a safetensors file for each pass, for the weights and the inputs.

What is read comes from elsewhere. Nothing in it is executed, the manifest and every file are held to their
SHA-256, and whatever does not fit raises UsageError in one line. Tensors are read one at a time.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from parity.bounds.rounding import Array
from parity.errors import UsageError
from parity.verification.place import Lazy

try:
    import safetensors
    from safetensors.numpy import save_file
except ModuleNotFoundError:
    raise UsageError("record: the package 'safetensors' is not installed; pip install safetensors") from None

MANIFEST = "manifest.json"
FORMAT = "parity recording 1"
DAMAGE = ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError
MOST = 2**28
"""Bytes of a manifest."""


def begin(folder: Path) -> None:
    """Makes the folder; raises UsageError for one that holds something."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder}: expected a new or an empty folder; remove it, or name another")


def write(folder: Path, name: str, arrays: Mapping[str, Array]) -> str:
    """A file of arrays; returns its digest."""
    with told(folder):
        path = folder / f"{name}.safetensors"
        save_file({key: np.array(array, order="C") for key, array in arrays.items()}, path)
        return _digest(path)


def finish(folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes the manifest, last."""
    text = json.dumps({"format": FORMAT, **fields}, indent=1)
    seal = hashlib.sha256(text.encode()).hexdigest()
    with told(folder):
        (folder / MANIFEST).write_text(f"{text}\n{seal}\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a recording that is whole."""
    with told(folder):
        path = _regular(folder / MANIFEST)
        if path.stat().st_size > MOST:
            raise ValueError("its manifest is too large")
        text, _, seal = path.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != seal:
            raise ValueError("its manifest does not match its SHA-256")
        fields: dict[str, Any] = json.loads(text)
        if fields["format"] != FORMAT:
            raise ValueError(f"expected the format {FORMAT!r}, got {fields['format']!r}")
        for name, digest in fields["files"].items():
            if not name.isalnum() or _digest(_regular(folder / f"{name}.safetensors")) != digest:
                raise ValueError(f"{name}.safetensors does not match its SHA-256")
        return fields


def arrays(folder: Path, name: str) -> Mapping[str, Array]:
    """A file's arrays, each read when asked for."""
    path = folder / f"{name}.safetensors"

    def one(_: str, key: str) -> Array:
        with told(folder), safetensors.safe_open(path, "numpy") as file:
            array: Array = file.get_tensor(key)
        return array

    with told(folder), safetensors.safe_open(path, "numpy") as file:
        return Lazy({key: key for key in file.keys()}, one)  # noqa: SIM118


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Whatever a damaged folder raises, in one line."""
    try:
        yield
    except FileNotFoundError as error:
        missing = Path(error.filename or MANIFEST).name
        raise UsageError(f"{folder}: expected a recording, no {missing}; make it by parity.record") from None
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}; check the path and its permissions") from None
    except (safetensors.SafetensorError, *DAMAGE) as error:
        why = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UsageError(f"{folder}: not a sound recording ({why}); copy it again, or record anew") from None


def _regular(path: Path) -> Path:
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path.name} is not a file")
    return path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mapped(names: list[str], there: Mapping[str, Array], prefix: str) -> Lazy[str]:
    """Arrays of a file under names without their prefix, in this order."""
    read: Callable[[str, str], Array] = lambda _, key: there[key]  # noqa: E731
    return Lazy({name: prefix + name for name in names}, read)
