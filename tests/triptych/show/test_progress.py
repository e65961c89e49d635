"""Lines for terminals of 80 and 60 columns: no number is cut, no line is too long."""

import pytest

from triptych.show.reporting import evaluation_line, named_line
from triptych.show.wrapping import wrapped
from triptych.store.records import Record

RECORD: Record = {
    "kind": "eval",
    "step": 100_000,
    "train_loss": 15.2329,
    "train_accuracy": 0.2321,
    "test_loss": 12.1279,
    "test_accuracy": 0.3145,
}
VALIDATED: Record = RECORD | {"validation_accuracy": 0.3036}
TRAIN, TEST = "step 100000  train loss 15.2329 acc 0.2321", "test loss 12.1279 acc 0.3145"
NAME = "learning_rate=0.002,weight_decay=0.0001,seed=0"


@pytest.mark.parametrize(
    ("line", "width", "lines"),
    [
        (evaluation_line(RECORD), 80, [f"{TRAIN}  |  {TEST}"]),
        (evaluation_line(VALIDATED), 120, [f"{TRAIN}  |  {TEST}  |  validation acc 0.3036"]),
        (evaluation_line(VALIDATED), 80, [f"{TRAIN}  |  {TEST}", "  validation acc 0.3036"]),
        (evaluation_line(VALIDATED), 60, [TRAIN, f"  {TEST}  |  validation acc 0.3036"]),
        (named_line(RECORD, "seed=0"), 60, [f"step 100000  {TEST}  |  seed=0"]),
        (named_line(RECORD, NAME), 80, [f"step 100000  {TEST}", f"  {NAME}"]),
        ("one two three", 10, ["one two", "  three"]),
    ],
)
def test_a_line_is_broken_between_its_parts(line, width, lines):
    assert wrapped(line, width).split("\n") == lines
