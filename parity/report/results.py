"""The results of `python -m parity check` as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from parity.bounds.rounding import truth_note
from parity.report import saving
from parity.verification.judge import Result
from triptych.errors import UserError


def write_json(results: Sequence[Result], path: Path) -> None:
    """`document`, on the disk; raises UserError where it cannot be written."""
    saving.write_json(path, document(results))


def document(results: Sequence[Result]) -> dict[str, Any]:
    """Every result, and what float64 was judged against; infinities as strings."""
    return {
        "truth": truth_note(),
        "passed": all(result.passed for result in results),
        "results": [saving.strict(asdict(result)) for result in results],
    }


def read_json(path: Path) -> list[Result]:
    """The results that `write_json` wrote; raises UserError for another file."""
    try:
        rows = json.loads(path.read_text())["results"]
        return [Result(**{key: _loose(key, value) for key, value in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: expected the results of `python -m parity check --json` ({error}); run it again"
        ) from None


def _loose(key: str, value: Any) -> Any:
    """The reverse of `saving.strict`, and the index a tuple again."""
    if key in ("share", "actual", "truth", "limit", "ulps") and isinstance(value, str):
        return float(value)
    return tuple(value) if key == "index" else value
