"""The same training written the way torch's tutorials write it: the yardstick for our backends.

nn.Sequential, torch.optim with its defaults, float32 images prepared beforehand, one eager step a batch.
Nothing of ours is in the loop.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from experiment.spec import Experiment
from torch_models import plain


def seconds_per_step(
    experiment: Experiment, images: np.ndarray, labels: np.ndarray, size: int, calls: int
) -> list[float]:
    """Mean seconds of a step in each of `calls` groups of `size` steps, after one group to warm up."""
    model = nn.Sequential(*plain.modules(experiment.layers()))
    o = experiment.optimization
    optimizer: torch.optim.Optimizer
    if o.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), o.learning_rate, weight_decay=o.weight_decay)
    inputs = torch.from_numpy((images - images.mean(axis=0)).astype(np.float32))
    targets = torch.from_numpy(labels).long()
    batches = torch.randperm(len(images)).split(experiment.data.batch_size)
    seconds = []
    for call in range(calls + 1):
        start = time.perf_counter()
        for step in range(call * size, (call + 1) * size):
            batch = batches[step % (len(batches) - 1)]
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs[batch]), targets[batch])
            loss.backward()
            optimizer.step()
        seconds.append((time.perf_counter() - start) / size)
    return seconds[1:]
