"""The PyTorch backend: data on the device, an eager loop, one synchronisation a call."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_models import augment, loss, optim, precision
from torch_models.model import Network
from torch_models.precision import pinned
from triptych.describe.layers import Conv2d, initial_statistics, is_weight
from triptych.describe.protocol import (
    Evaluation,
    Statistics,
    StepResults,
    Steps,
    TrainingData,
    evaluation_batch,
    evaluation_slices,
)
from triptych.describe.spec import Device, Experiment
from triptych.describe.state import State
from triptych.errors import UserError


class Batch(NamedTuple):
    """One step's inputs, on the device."""

    indices: Tensor
    masks: dict[str, Tensor]
    shifts: Tensor | None
    flips: Tensor | None


def build(experiment: Experiment, data: TrainingData, device: Device) -> TorchBackend:
    """The backend for `experiment`; raises UserError when torch has no such device."""
    return TorchBackend(experiment, data, _find_device(device))


def make_deterministic() -> None:
    """See triptych.describe.protocol.make_deterministic."""
    precision.make_deterministic()


def _find_device(device: Device) -> torch.device:
    if device == "tpu":
        raise UserError("device: the torch backend knows cpu and gpu, got tpu; use --backend jax for a TPU")
    found = torch.cuda.is_available()
    if device == "gpu" and not found:
        raise UserError(
            "device: torch finds no gpu here; use --device auto, or install torch's CUDA (or ROCm) build"
        )
    return torch.device("cuda" if found and device != "cpu" else "cpu")


class TorchBackend:
    """Implements `triptych.describe.protocol.Backend`."""

    name = "torch"

    def __init__(self, experiment: Experiment, data: TrainingData, device: torch.device) -> None:
        self.experiment = experiment
        self._device = device
        gpu = device.type == "cuda"
        self.device = f"gpu ({torch.cuda.get_device_name(device)})" if gpu else "cpu"
        compute = getattr(torch, experiment.training.dtype)
        # bfloat16 keeps float32 master weights, optimizer state and loss.
        self.dtype = torch.promote_types(compute, torch.float32)
        self.images = {name: self._put(images) for name, images in data.images.items()}
        self.labels = {name: self._put(labels).long() for name, labels in data.labels.items()}
        self.mean = self._put(data.mean).to(self.dtype)
        self.scale = None if data.scale is None else self._put(data.scale).to(self.dtype)
        # Behind convolutions everything follows the images' memory format; an MLP flattens them at once.
        convolves = any(isinstance(layer, Conv2d) for layer in experiment.layers())
        self.memory_format = torch.channels_last if convolves else torch.contiguous_format
        self.network = Network(experiment.layers(), compute, self.dtype).to(device)
        self.parameters = dict(self.network.named_parameters())
        self.updates = 0

    def start(self, parameters: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            for key, theta in self.parameters.items():
                theta.copy_(self._put(parameters[key]))
        self.optimizer = optim.create(self.experiment.optimization, list(self.parameters.values()))
        self._start_statistics(initial_statistics(self.experiment.layers()))
        self.updates = 0

    def _start_statistics(self, statistics: Mapping[str, np.ndarray]) -> None:
        self.statistics = {key: self._put(value).to(self.dtype) for key, value in statistics.items()}

    def compile(self, capacity: int) -> None:
        """Nothing to compile: the loop is eager."""

    def train(self, steps: Steps) -> StepResults:
        # One row a step, fetched once at the end: reading a step's loss would wait for the device.
        results = torch.empty((len(steps), 2), dtype=torch.float64, device=self._device)
        batches = self._batches(steps)
        with self._precision():
            for i, batch in enumerate(batches):
                optim.set_learning_rate(self.optimizer, float(steps.learning_rates[i]))
                self.optimizer.zero_grad()
                value, hits, self.statistics, _, _ = self._objective(batch)
                value.backward()
                self.optimizer.step()
                results[i, 0], results[i, 1] = value.detach(), hits
        self.updates += len(steps)
        losses, hits = results.cpu().numpy().T
        return StepResults(losses, hits / self.experiment.data.batch_size)

    @torch.no_grad()
    def evaluate(self, split: str, statistics: Statistics | None = None) -> Evaluation:
        logits, labels = self._logits(split, statistics), self.labels[split]
        with self._precision():
            losses = loss.per_sample(self.experiment.objective.loss, logits, labels)
        predicted = logits.argmax(dim=1)
        accuracy = float((predicted == labels).double().mean())
        return Evaluation(float(losses.double().mean()), accuracy, predicted.cpu().numpy().astype(np.uint8))

    def logits(self, split: str, statistics: Statistics | None = None) -> np.ndarray:
        return _numpy(self._logits(split, statistics))

    @torch.no_grad()
    def _logits(self, split: str, statistics: Statistics | None) -> Tensor:
        batch = (statistics or self.experiment.model.norm_statistics) == "batch"
        images, parts = self.images[split], []
        with self._precision():
            for rows in evaluation_slices(len(images), evaluation_batch(self.experiment)):
                x = self._prepare(images[rows])
                parts.append(self.network(x, self.statistics, batch_statistics=batch)[0])
        return torch.cat(parts)

    def trace(self, steps: Steps) -> dict[str, np.ndarray]:
        self.network.zero_grad()
        with self._precision():
            value, _, _, x, outputs = self._objective(self._batches(steps)[0])
            tracked = {name: array for name, array in outputs.items() if array.requires_grad}
            for array in tracked.values():
                array.retain_grad()
            value.backward()
        trace = {"input": x, "loss": value}
        trace |= {f"activation/{name}": array for name, array in outputs.items()}
        for name, array in {**tracked, **self.parameters}.items():
            assert array.grad is not None
            trace[f"gradient/{name}"] = array.grad
        # NumPy has no bfloat16 of its own: such values, exact in float32, leave as float32.
        return {
            key: _numpy(array.float() if array.dtype == torch.bfloat16 else array)
            for key, array in trace.items()
        }

    def export_state(self) -> State:
        names = self.experiment.optimization.slots
        slots: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
        for key, theta in self.parameters.items():
            for name, value in optim.get_slots(self.optimizer, theta, names).items():
                slots[name][key] = _numpy(value)
        parameters = {key: _numpy(theta) for key, theta in self.parameters.items()}
        statistics = {key: _numpy(value) for key, value in self.statistics.items()}
        return State(parameters, slots, statistics, self.updates)

    def import_state(self, state: State) -> None:
        self.start(state.parameters)
        self._start_statistics(state.statistics_of(self.experiment.layers()))
        saved = state.slots_of(self.experiment.optimization)
        if saved is not None:
            self.updates = state.updates
            for key, theta in self.parameters.items():
                slots = {slot: self._put(tree[key]).to(self.dtype) for slot, tree in saved.items()}
                optim.set_slots(self.optimizer, theta, slots, self.updates)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "numpy": np.__version__}

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(self._device)

    def _prepare(self, images: Tensor) -> Tensor:
        x = images.to(self.dtype, memory_format=self.memory_format).sub_(self.mean)
        return x if self.scale is None else x.mul_(self.scale)

    def _batches(self, steps: Steps) -> list[Batch]:
        """The steps' inputs on the device: one transfer for all of them."""
        indices = self._put(steps.indices).long()
        shifts, flips = (None if a is None else self._put(a) for a in (steps.shifts, steps.flips))
        masks = {name: self._put(mask) for name, mask in steps.masks.items()}
        return [
            Batch(
                indices[i],
                {name: mask[i] for name, mask in masks.items()},
                None if shifts is None else shifts[i],
                None if flips is None else flips[i],
            )
            for i in range(len(steps))
        ]

    def _objective(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """One batch's loss, number of right predictions, new running statistics, prepared input and
        every layer's output.
        """
        objective = self.experiment.objective
        labels = self.labels["train"][batch.indices]
        images = self.images["train"][batch.indices]
        border = self.experiment.data.random_crop
        x = self._prepare(augment.augment(images, batch.shifts, batch.flips, border))
        logits, outputs, statistics = self.network(x, self.statistics, batch.masks)
        value = loss.per_sample(objective.loss, logits, labels, objective.label_smoothing).mean()
        if objective.l2:
            weights = [theta for key, theta in self.parameters.items() if is_weight(key)]
            value = value + loss.l2_penalty(weights, objective.l2)
        hits = (logits.argmax(dim=1) == labels).sum()
        return value, hits, statistics, x, outputs

    def _precision(self) -> AbstractContextManager[None]:
        return pinned(self.experiment.training.tf32)


def _numpy(tensor: Tensor) -> np.ndarray:
    """A copy in C order, whatever the tensor's memory format."""
    return tensor.detach().cpu().numpy().copy()
