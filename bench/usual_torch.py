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


def train(experiment: Experiment, images: np.ndarray, labels: np.ndarray, steps: int) -> float:
    """Steps per second of `steps` steps after 100 to warm up. Only plain MLPs."""
    model = network(experiment)
    o = experiment.optimization
    optimizer: torch.optim.Optimizer
    if o.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            model.parameters(), o.learning_rate, o.momentum, weight_decay=o.weight_decay
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), o.learning_rate, weight_decay=o.weight_decay)
    inputs = torch.from_numpy((images - images.mean(axis=0)).astype(np.float32).reshape(len(images), -1))
    targets = torch.from_numpy(labels).long()
    batches = torch.randperm(len(images)).split(experiment.data.batch_size)
    start = 0.0
    for step in range(100 + steps):
        if step == 100:
            start = time.perf_counter()
        batch = batches[step % (len(batches) - 1)]
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs[batch]), targets[batch])
        loss.backward()
        optimizer.step()
    return steps / (time.perf_counter() - start)


def network(experiment: Experiment) -> nn.Sequential:
    """Linear, LeakyReLU, ..., Linear."""
    layers: list[nn.Module] = []
    width = 3072
    for size in experiment.model.hidden:
        layers += [nn.Linear(width, size), nn.LeakyReLU(experiment.model.slope)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 10))
