"""What steps and evaluations come to as records, and how they read in a terminal."""

from __future__ import annotations

from triptych.describe.protocol import StepResults, Steps
from triptych.show.wrapping import SEPARATOR
from triptych.store.records import Record

SHARED_SECONDS = (
    "train_seconds and compile_seconds are equal parts of the time that the runs took together, and "
    "steps_per_second follows from that part"
)
"""What summary.json says of a sweep's times."""


def train_records(steps: Steps, results: StepResults) -> list[Record]:
    """One record for each step."""
    columns = (results.losses, results.accuracies, steps.learning_rates)
    return [
        {"kind": "train", "step": step, "loss": loss, "accuracy": accuracy, "learning_rate": rate}
        for step, loss, accuracy, rate in zip(
            range(steps.first + 1, steps.first + len(steps) + 1), *(c.tolist() for c in columns), strict=True
        )
    ]


def evaluation_line(record: Record) -> str:
    """An evaluation for a terminal."""
    line = (
        f"step {record['step']:>6}  train loss {record['train_loss']:.4f} acc {record['train_accuracy']:.4f}"
        f"{SEPARATOR}{_test(record)}"
    )
    if "validation_accuracy" in record:
        line += f"{SEPARATOR}validation acc {record['validation_accuracy']:.4f}"
    return line


def named_line(record: Record, name: str) -> str:
    """One of several runs' evaluation: what tells them apart."""
    return f"step {record['step']:>6}  {_test(record)}{SEPARATOR}{name}"


def _test(record: Record) -> str:
    return f"test loss {record['test_loss']:.4f} acc {record['test_accuracy']:.4f}"
