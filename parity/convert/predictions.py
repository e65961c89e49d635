"""A converted model on a run's whole test set, held to what the run itself predicted there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Rounding
from parity.convert import plain, verify
from parity.convert.plan import Order
from parity.convert.units import Array, Arrays, Convention
from triptych.describe.protocol import TrainingData
from triptych.describe.spec import Experiment

CHUNK = 500


@dataclass(frozen=True)
class Outcome:
    """The two sets of predictions."""

    accuracy: float
    images: int
    differing: int
    beyond: int
    """How many of these differ by more than rounding can explain."""
    largest_lead: float
    """Among the differing, the largest distance of the two classes' true logits."""
    limit: float
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


def compare(
    spec: Experiment,
    canonical: Arrays,
    weights: Arrays,
    convention: Convention,
    flatten: Order,
    data: TrainingData,
    predictions: Array,
) -> Outcome:
    """Predictions of the plain model in the run's precision against uint8 `predictions` (N,)."""
    run, layers = plain.runner(convention), spec.layers()
    r = verify.fast("float64" if spec.training.dtype == "float64" else "float32")
    own = {
        name: array if array.dtype.kind == "i" else array.astype(r.stored) for name, array in weights.items()
    }
    parts = []
    for first in range(0, len(predictions), CHUNK):
        x = prepared(data, slice(first, first + CHUNK), r)
        parts.append(run(layers, own, x, flatten)[-1].argmax(axis=1))
    found = np.concatenate(parts)
    rows = np.flatnonzero(found != predictions)
    accuracy = float((found == data.labels["test"]).mean())
    if not rows.size:
        return Outcome(accuracy, len(found), 0, 0, 0.0, 0.0)
    mean = Bounded.constant(data.mean, r)
    images = Bounded.exact(data.images["test"][rows], r) - mean
    if data.scale is not None:
        images = images * Bounded.constant(data.scale, r)
    truth = verify.true_logits(layers, canonical, images)
    at, one, other = np.arange(len(rows)), found[rows], predictions[rows]
    lead = np.abs(truth.value[at, one] - truth.value[at, other]).astype(np.float64)
    # Two right computations may each be off by the limit.
    limit = 2 * (truth.error[at, one] + truth.error[at, other])
    worst = int(np.argmax(lead))
    beyond = int(np.count_nonzero(lead > limit))
    return Outcome(accuracy, len(found), len(rows), beyond, float(lead[worst]), float(limit[worst]))


def prepared(data: TrainingData, rows: slice, r: Rounding) -> Array:
    """Test images as a backend prepares them in that format."""
    x = data.images["test"][rows].astype(r.stored) - data.mean.astype(r.stored)
    return x if data.scale is None else x * data.scale.astype(r.stored)
