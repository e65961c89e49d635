"""Writing what a command found: whole or not at all, with a clear word where it cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from triptych.errors import UserError
from triptych.store.files import write_atomically


def write(path: Path, content: bytes, option: str) -> None:
    """The file `path`, given by the command line's `option`; raises UserError where it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UserError(
            f"{option}: cannot write {path} ({error.strerror}); choose another --{option}"
        ) from None


def write_json(path: Path, document: Any, option: str = "json") -> None:
    """The same for values of JSON, `strict` ones."""
    write(path, (json.dumps(strict(document), indent=1, allow_nan=False) + "\n").encode(), option)


def strict(value: Any) -> Any:
    """The value with numbers that are not finite as strings: JSON has none."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
