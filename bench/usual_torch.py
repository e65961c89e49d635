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

from experiment.layers import BatchNorm, Conv2d, Dropout, Flatten, Layer, LeakyReLU, Linear, MaxPool2d
from experiment.spec import Experiment


def seconds_per_step(
    experiment: Experiment, images: np.ndarray, labels: np.ndarray, size: int, calls: int
) -> list[float]:
    """Mean seconds of a step in each of `calls` groups of `size` steps, after one group to warm up."""
    model = network(experiment)
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


def network(experiment: Experiment) -> nn.Sequential:
    """torch's own layers, one for each of the description's."""
    return nn.Sequential(*(_module(layer) for layer in experiment.layers()))


def _module(layer: Layer) -> nn.Module:
    match layer:
        case Conv2d(_, before, after, window, bias):
            return nn.Conv2d(before, after, window.kernel, window.stride, window.padding, bias=bias)
        case MaxPool2d(_, window):
            return nn.MaxPool2d(window.kernel, window.stride, window.padding)
        case Flatten():
            return nn.Flatten()
        case Linear(_, before, after):
            return nn.Linear(before, after)
        case LeakyReLU(_, slope):
            return nn.LeakyReLU(slope) if slope else nn.ReLU()
        case Dropout(_, _, rate):
            return nn.Dropout(rate)
        case BatchNorm(name, features, eps, momentum):
            kind = nn.BatchNorm2d if name.startswith("conv") else nn.BatchNorm1d
            return kind(features, eps, momentum)
