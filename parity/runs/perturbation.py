"""How a run answers a tiny change of its start: what rounding can and cannot be blamed for.

Train an experiment in float64, then again with every initial parameter multiplied by 1 + r n, n standard
normal. While the loss is smooth in the parameters the difference grows by a constant factor, whatever r.
Once it carries some sample's LeakyReLU input across 0 in one run and not in the other, the gradients part
by a finite amount: a kink turns rounding into a visible difference, in any precision and any framework.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from triptych.cifar10.batches import BatchOrder
from triptych.describe.init import initial_parameters
from triptych.describe.layers import LeakyReLU
from triptych.describe.protocol import Backend, Steps, TrainingData, create, plan_steps
from triptych.describe.spec import BackendName, Dtype, Experiment

MARKS = (1, 50, 100, 200, 400, 800, 1500)
CALL = 50


def losses(
    experiment: Experiment,
    data: TrainingData,
    backend: BackendName,
    relative: float,
    dtype: Dtype = "float64",
) -> np.ndarray:
    """Batch losses float64 (steps,) of a run whose start is changed by `relative`."""
    running, steps = _start(experiment, data, backend, relative, dtype), experiment.training.steps
    parts = []
    for first in range(0, steps, CALL):
        plan = _plan(experiment, data, first, min(CALL, steps - first))
        parts.append(running.train(plan).losses)
    return np.concatenate(parts)


@dataclass(frozen=True)
class Flip:
    """The first step in which a unit's input has one sign in one run and the other in the other."""

    step: int
    count: int
    inputs: int
    """How many of how many LeakyReLU inputs of the batch."""
    distance: float
    """The smallest magnitude among them."""
    before: float
    after: float
    """Largest difference of a parameter before and after that step."""


def first_flip(
    experiment: Experiment, data: TrainingData, backend: BackendName, relative: float
) -> Flip | None:
    """Run both starts side by side in float64 until a LeakyReLU input changes sign between them."""
    pair = [_start(experiment, data, backend, change, "float64") for change in (0.0, relative)]
    layers = experiment.layers()
    feeding = [
        f"activation/{before.name}" for before, layer in pairwise(layers) if isinstance(layer, LeakyReLU)
    ]
    for step in range(experiment.training.steps):
        plan = _plan(experiment, data, step, 1)
        left, right = (running.trace(plan) for running in pair)
        inputs = np.concatenate([left[key].ravel() for key in feeding])
        flipped = (inputs > 0) != (np.concatenate([right[key].ravel() for key in feeding]) > 0)
        before = _gap(pair)
        for running in pair:
            running.train(plan)
        if flipped.any():
            distance = float(np.abs(inputs[flipped]).min())
            return Flip(step + 1, int(flipped.sum()), inputs.size, distance, before, _gap(pair))
    return None


def _start(
    experiment: Experiment, data: TrainingData, backend: BackendName, relative: float, dtype: Dtype
) -> Backend:
    noise = np.random.Generator(np.random.PCG64(1))
    parameters = {
        name: array * (1.0 + relative * noise.standard_normal(array.shape))
        for name, array in initial_parameters(experiment).items()
    }
    experiment = replace(experiment, training=replace(experiment.training, dtype=dtype))
    running = create(backend, experiment, data, "cpu")
    running.start(parameters)
    return running


def _plan(experiment: Experiment, data: TrainingData, first: int, count: int) -> Steps:
    order = BatchOrder(len(data.labels["train"]), experiment.data.batch_size, experiment.training.seed)
    return plan_steps(experiment, order.table(first, count), first)


def _gap(pair: list[Backend]) -> float:
    left, right = (running.export_state().parameters for running in pair)
    return max(float(np.abs(left[key] - right[key]).max()) for key in left)


def table(
    experiment: Experiment, data: TrainingData, backend: BackendName, relatives: tuple[float, ...]
) -> str:
    """Largest difference of a batch's loss up to each mark, for each change and for float32."""
    truth = losses(experiment, data, backend, 0.0)
    marks = [mark for mark in MARKS if mark < len(truth)] + [len(truth)]
    lines = [f"{'start changed by':<18}" + "".join(f"{f'1-{mark}':>10}" for mark in marks)]
    rows: list[tuple[str, float, Dtype]] = [(f"{r:.0e}, float64", r, "float64") for r in relatives]
    for label, relative, dtype in [*rows, ("0, float32", 0.0, "float32")]:
        gap = np.abs(losses(experiment, data, backend, relative, dtype) - truth)
        lines.append(f"{label:<18}" + "".join(f"{gap[:mark].max():>10.1e}" for mark in marks))
    return "\n".join(lines)
