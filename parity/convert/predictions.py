"""A converted model on a run's whole test set, held to what the run itself predicted there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parity.bounds.bounded import Bounded
from parity.convert import plain, verify
from parity.convert.plan import Side
from parity.convert.source import Source
from parity.convert.units import Array, Arrays
from triptych import cifar10
from triptych.cifar10.preprocess import prepare
from triptych.describe.layers import initial_statistics
from triptych.describe.protocol import TrainingData
from triptych.describe.spec import Experiment
from triptych.errors import UserError
from triptych.store.run_dir import RunDirectory

CHUNK = 500


@dataclass(frozen=True)
class Outcome:
    """The two sets of predictions."""

    accuracy: float
    images: int
    differing: int = 0
    beyond: int = 0
    """How many of these differ by more than rounding can explain."""
    largest_lead: float = 0.0
    """Among the differing, the largest distance of the two classes' true logits."""
    limit: float = 0.0
    """How far rounding may move that distance, there."""

    @property
    def passed(self) -> bool:
        """Whether rounding explains every difference."""
        return self.beyond == 0

    def line(self, accuracy: float) -> str:
        """For a terminal; `accuracy` is the run's."""
        text = (
            f"test set: accuracy {self.accuracy:.4f}, the run's {accuracy:.4f}; {self.differing} of "
            f"{self.images} predictions differ"
        )
        if self.differing:
            text += (
                f", {self.beyond} by more than rounding allows (largest lead {self.largest_lead:.1e} in the "
                f"true logits, limit there {self.limit:.1e})"
            )
        return text


def of_run(
    found: Source, spec: Experiment | None, canonical: Arrays, side: Side | None, data_dir: Path | None
) -> tuple[Outcome, float]:
    """The plain model's predictions of a run's test images against the run's, and the run's accuracy.

    Raises UserError where the source is no finished run or the data is not its own.
    """
    if found.run is None or spec is None or side is None:
        raise UserError("test_set: expected a run folder as the source and a target that is not canonical")
    if initial_statistics(spec.layers()) and spec.model.norm_statistics == "batch":
        raise UserError(
            "test_set: the run's predictions are by the statistics of the test images, a converted model's "
            "by running ones; leave --test-set out"
        )
    folder = RunDirectory(found.run)
    summary = folder.read_summary()
    if found.step != summary["steps"]:
        raise UserError(f"{found.run}: no checkpoint of its last step {summary['steps']}; repeat its command")
    dataset = cifar10.load(spec.data.dataset, data_dir)
    if dataset.fingerprint != summary["data"]["fingerprint"]:
        raise UserError(
            f"test_set: the run's data is {summary['data']['fingerprint'][:23]}..., found "
            f"{dataset.fingerprint[:23]}... ({dataset.source}); name the run's --data-dir"
        )
    data = prepare(dataset, spec.data.preprocess, spec.data.validation)
    predictions = np.load(folder.predictions, allow_pickle=False)
    return compare(spec, canonical, side, data, predictions), summary["test_accuracy"]


def compare(
    spec: Experiment, canonical: Arrays, side: Side, data: TrainingData, predictions: Array
) -> Outcome:
    """Predictions of the plain model in the run's precision against uint8 `predictions` (N,)."""
    layers, convention = spec.layers(), side.plan.convention
    r = verify.fast("float64" if spec.training.dtype == "float64" else "float32")
    weights = plain.widened(side.plain_weights(layers), r.stored)
    parts = []
    for first in range(0, len(predictions), CHUNK):
        x = data.images["test"][first : first + CHUNK].astype(r.stored) - data.mean.astype(r.stored)
        x = x if data.scale is None else x * data.scale.astype(r.stored)
        logits = plain.outputs(convention, layers, weights, x, side.plan.flatten)[-1]
        parts.append(logits.argmax(axis=1))
    found = np.concatenate(parts)
    rows = np.flatnonzero(found != predictions)
    accuracy = float((found == data.labels["test"]).mean())
    if not rows.size:
        return Outcome(accuracy, len(found))
    images = Bounded.exact(data.images["test"][rows], r) - Bounded.constant(data.mean, r)
    if data.scale is not None:
        images = images * Bounded.constant(data.scale, r)
    truth = verify.true_logits(layers, canonical, images)
    at, one, other = np.arange(len(rows)), found[rows], predictions[rows]
    lead = np.abs(truth.value[at, one] - truth.value[at, other]).astype(np.float64)
    # Two right computations may each be off by the limit.
    limit = 2 * (truth.error[at, one] + truth.error[at, other])
    worst, beyond = int(np.argmax(lead)), int(np.count_nonzero(lead > limit))
    return Outcome(accuracy, len(found), len(rows), beyond, float(lead[worst]), float(limit[worst]))
