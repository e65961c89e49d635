"""How a run answers a tiny change of its start: what rounding can and cannot be blamed for.

Train an experiment in float64, then again with every initial parameter multiplied by 1 + r n, n standard
normal. While the loss is smooth in the parameters the difference grows by a constant factor, whatever r.
Once it carries some sample's LeakyReLU input across 0 in one run and not in the other, the gradients part
by a finite amount: a kink turns rounding into a visible difference, in any precision and any framework.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cifar10.batches import BatchOrder
from experiment.backend import TrainingData, create, plan_steps
from experiment.init import initial_parameters
from experiment.spec import BackendName, Experiment

MARKS = (1, 50, 100, 200, 400, 800, 1500)
CALL = 50


def losses(
    experiment: Experiment, data: TrainingData, backend: BackendName, relative: float, dtype: str = "float64"
) -> np.ndarray:
    """Batch losses float64 (steps,) of a run whose start is changed by `relative`."""
    training = replace(experiment.training, dtype=dtype)  # type: ignore[arg-type]
    experiment = replace(experiment, training=training)
    noise = np.random.Generator(np.random.PCG64(1))
    parameters = {
        name: array * (1.0 + relative * noise.standard_normal(array.shape))
        for name, array in initial_parameters(experiment).items()
    }
    running = create(backend, experiment, data, "cpu")
    running.start(parameters)
    order = BatchOrder(len(data.labels["train"]), experiment.data.batch_size, training.seed)
    parts = []
    for first in range(0, training.steps, CALL):
        count = min(CALL, training.steps - first)
        parts.append(running.train(plan_steps(experiment, order.table(first, count), first)).losses)
    return np.concatenate(parts)


def table(
    experiment: Experiment, data: TrainingData, backend: BackendName, relatives: tuple[float, ...]
) -> str:
    """Largest difference of a batch's loss up to each mark, for each change and for float32."""
    truth = losses(experiment, data, backend, 0.0)
    marks = [mark for mark in MARKS if mark < len(truth)] + [len(truth)]
    lines = [f"{'start changed by':<18}" + "".join(f"{f'1-{mark}':>10}" for mark in marks)]
    rows = [(f"{relative:.0e}, float64", relative, "float64") for relative in relatives]
    for label, relative, dtype in [*rows, ("0, float32", 0.0, "float32")]:
        gap = np.abs(losses(experiment, data, backend, relative, dtype) - truth)
        lines.append(f"{label:<18}" + "".join(f"{gap[:mark].max():>10.1e}" for mark in marks))
    return "\n".join(lines)
