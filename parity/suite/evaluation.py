"""Evaluation of a whole network: predictions, accuracy and loss, by running and by batch statistics.

The truth is carried from the pixels to the logits, every layer's errors on top of those of its input. Where
the largest true logit of an image leads by more than both limits, it must be the one predicted. Worst cases
multiply from layer to layer: in bfloat16 behind more than one, and in float32 behind two batch norms by the
batch's own statistics, no image is sure, and nothing is said. In float64 nearly all are.
"""

from __future__ import annotations

import numpy as np

from parity.bounds.bounded import Bounded
from parity.bounds.rounding import Array, Rounding, rounding
from parity.suite import loss, network
from parity.suite.registry import in_network
from parity.verification.case import generator
from parity.verification.judge import Label, Result, judge
from triptych.describe.protocol import Backend, Evaluation, Statistics, TrainingData
from triptych.describe.spec import Experiment
from triptych.describe.state import Key, State

STATISTICS: tuple[Statistics, ...] = ("running", "batch")


def judge_evaluation(spec: Experiment, data: TrainingData, running: Backend, label: Label) -> list[Result]:
    """The test split under the backend's parameters, its running statistics moved away from their start.

    The split must fit one slice of `triptych.describe.protocol.evaluation_slices`. Judges cross-entropy only.
    """
    state = running.export_state().map(_moved)
    running.import_state(state)
    norms = any(in_network(layer).statistics for layer in spec.layers())
    results: list[Result] = []
    for statistics in STATISTICS if norms else STATISTICS[:1]:
        s = logits(spec, state, data, rounding(label.place.dtype, label.place.device), statistics == "batch")
        found = running.evaluate("test", statistics)
        results += _judge(s, data.labels["test"].astype(np.int64), found, statistics, label)
    return results


def logits(spec: Experiment, state: State, data: TrainingData, r: Rounding, by_batch: bool) -> Bounded:
    """Of the test images (N, 10), in at least float32."""
    with np.errstate(all="ignore"):
        x = Bounded.exact(data.images["test"], r.wide) - Bounded.constant(data.mean, r.wide)
        if data.scale is not None:
            x = x * Bounded.constant(data.scale, r.wide)
        x, held = x.to(r), {**state.parameters, **state.statistics}
        for layer in spec.layers():
            x = network.evaluated(layer, network.own(layer, held), x, by_batch)
        return x.to(r.wide)


def _judge(s: Bounded, labels: Array, found: Evaluation, statistics: str, label: Label) -> list[Result]:
    predicted, wide = found.predictions.astype(np.int64), s.r
    with np.errstate(all="ignore"):
        # Backends take the mean in float64, and report float64: rounded here to what is judged.
        value = loss.cross_entropies(s, labels, 0.0).mean()
        right = Bounded.exact(np.count_nonzero(predicted == labels), wide) / len(labels)
    wanted = {"accuracy": right} | ({"evaluation loss": value} if np.isfinite(value.error) else {})
    actual = {"accuracy": found.accuracy, "evaluation loss": found.loss}
    return _predictions(s, predicted, statistics, label) + judge(
        {f"{key}, {statistics} statistics": bound for key, bound in wanted.items()},
        {f"{key}, {statistics} statistics": wide.nearest(np.asarray(actual[key])) for key in wanted},
        label,
    )


def leads(s: Bounded) -> Array:
    """By how much each row's largest true logit leads beyond both limits; 0 or less where it is not sure."""
    rows, first = np.arange(len(s)), s.value.argmax(axis=1)
    rivals = s.value.astype(np.float64) + s.error
    rivals[rows, first] = -np.inf
    found: Array = (s.value - s.error)[rows, first].astype(np.float64) - rivals.max(axis=1)
    return found


def _predictions(s: Bounded, found: Array, statistics: str, label: Label) -> list[Result]:
    lead, differ = leads(s), s.value.argmax(axis=1) != found
    sure, wrong = int(np.count_nonzero(lead > 0)), int(np.count_nonzero((lead > 0) & differ))
    quantity = f"predictions, {statistics} statistics"
    if wrong:
        return [label.failure(quantity, f"{wrong} of {sure} sure ones are wrong")]
    return [label.result(quantity, True, 0.0, note=f"{sure} of {len(found)} sure, all right")] if sure else []


def _moved(key: Key, array: Array) -> Array:
    rng = generator("evaluation", str(key))
    if key.last == "running_mean":
        return array + 0.3 * rng.normal(size=array.shape)
    return array + rng.random(array.shape) if key.last == "running_var" else array
