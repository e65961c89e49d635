"""Many MLPs trained at once in torch: vmap over torch.func's gradient, Adam written on stacked parameters."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from torch_models import plain
from triptych.describe.cost import steps_per_call
from triptych.describe.spec import Experiment
from triptych.train.lockstep import call_length

IMAGES = 50_000


def seconds_per_step(made: Sequence[Experiment], calls: int) -> float:
    """Median seconds of one run's step over calls; the runs share their batches."""
    models = [nn.Sequential(*plain.modules(run.layers())) for run in made]
    parameters, buffers = stack_module_state(models)
    theta = {key: value.detach() for key, value in parameters.items()}
    optimizer = torch.optim.Adam(list(theta.values()), 1e-3, fused=True)

    def loss(theta: dict[str, torch.Tensor], x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(models[0], (theta, buffers), (x,)), t)

    gradient = vmap(grad(loss), in_dims=(0, None, None))
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.standard_normal((IMAGES, 3072), dtype=np.float32) * 64)
    targets = torch.from_numpy(rng.integers(0, 10, IMAGES))
    batches = torch.randperm(IMAGES).split(made[0].data.batch_size)
    size = call_length(steps_per_call(made[0], "cpu"), len(made))
    seconds = []
    for call in range(calls + 1):
        start = time.perf_counter()
        for step in range(call * size, (call + 1) * size):
            batch = batches[step % len(batches)]
            for key, g in gradient(theta, inputs[batch].reshape(-1, 3, 32, 32), targets[batch]).items():
                theta[key].grad = g
            optimizer.step()
        seconds.append((time.perf_counter() - start) / size / len(made))
    return statistics.median(seconds[1:])
