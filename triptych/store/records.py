"""What metrics.jsonl and summary.json hold, checked value by value: a file may come from a stranger.

metrics.jsonl has one JSON object a line: {"kind": "train" | "eval", "step": ..., ...}.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from triptych.errors import UserError

Record = dict[str, Any]

_KINDS = {
    "train": ("loss", "accuracy", "learning_rate"),
    "eval": ("train_loss", "train_accuracy", "test_loss", "test_accuracy"),
}
"""A record's kind to the numbers that it must have."""
_SUMMARY_TEXTS = ("backend", "experiment", "dtype", "device", "parameters_sha256")
_SUMMARY_COUNTS = ("seed", "steps", "best_step")
_SUMMARY_NUMBERS = (
    "test_accuracy",
    "test_loss",
    "best_test_accuracy",
    "train_seconds",
    "compile_seconds",
    "steps_per_second",
)
_SUMMARY_OPTIONAL = ("test_accuracy_running_statistics", "test_accuracy_batch_statistics")


def line(record: Record) -> str:
    """A record as its line in metrics.jsonl."""
    return json.dumps(record, allow_nan=False) + "\n"


def sha256(records: Iterable[Record]) -> str:
    """Of the records' lines: equal exactly when every record is."""
    return hashlib.sha256("".join(map(line, records)).encode()).hexdigest()


def csv_of(records: Sequence[Record]) -> str:
    """The records as a table with one column for each name; empty where a record has no such number."""
    names = list(dict.fromkeys(name for record in records for name in record))
    lines = [",".join(names)]
    lines += [",".join(str(record.get(name, "")) for name in names) for record in records]
    return "\n".join(lines) + "\n"


def parse(text: str) -> Record | None:
    """The record in a line, or None where it is half-written, damaged or none of ours."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(record: Any) -> bool:
    if not isinstance(record, dict) or record.get("kind") not in ("train", "eval"):
        return False
    rest = {name: value for name, value in record.items() if name != "kind"}
    return is_count(rest.get("step")) and rest["step"] > 0 and all(map(is_number, rest.values()))


def is_complete(record: Record) -> bool:
    """Whether a record has every number that the loop reads again."""
    return all(type(record.get(name)) is float for name in _KINDS[record["kind"]])


def is_count(value: Any) -> bool:
    """A whole number that fits 64 bits, from 0; a bool is none."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """A finite number; a bool is none."""
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**63)


def check_summary(summary: dict[str, Any], path: Path) -> None:
    """Raises UserError unless each value of a summary is of its kind."""
    numbers = (*_SUMMARY_NUMBERS, *(name for name in _SUMMARY_OPTIONAL if name in summary))
    wrong = [name for name in _SUMMARY_TEXTS if not isinstance(summary[name], str)]
    wrong += [name for name in _SUMMARY_COUNTS if not is_count(summary[name])]
    wrong += [name for name in numbers if not is_number(summary[name])]
    if (
        not _is_texts(summary["versions"])
        or not _is_texts(summary["data"])
        or "source" not in summary["data"]
    ):
        wrong.append("data or versions")
    changed = summary["changed_settings"]
    if not isinstance(changed, list) or not all(isinstance(name, str) for name in changed):
        wrong.append("changed_settings")
    if wrong:
        raise UserError(f"{path}: not what a run writes as {', '.join(wrong)}; put the file back")


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
