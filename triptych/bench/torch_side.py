"""Training in plain torch, nothing of ours in the loop: the yardsticks.

`torch-usual` is what torch's tutorials write: nn.Sequential, a default optimizer, float32 images prepared
beforehand, one eager step a batch. The others change one thing after another: channels-last images and
weights, the fused optimizer and, on a GPU, a search for the fastest convolutions; torch.compile; the whole
step, gathering the batch included, captured as one CUDA graph and replayed. All start from the same
parameters as our backends and take the same batches. bfloat16 is torch.autocast's.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_models import plain
from torch_models.precision import pinned
from triptych.bench.cases import Case
from triptych.describe.init import initial_parameters
from triptych.describe.layers import BatchNorm, Conv2d
from triptych.describe.protocol import TrainingData
from triptych.describe.spec import Experiment
from triptych.errors import UserError


def find_device(name: str) -> torch.device:
    """cpu, or cuda for gpu; raises UserError where torch has none."""
    if name == "gpu" and not torch.cuda.is_available():
        raise UserError("device: torch finds no gpu here; use --device cpu, or install torch's CUDA build")
    return torch.device("cuda" if name == "gpu" else "cpu")


class PlainRunner:
    """Implements `triptych.bench.runners.Runner`."""

    def __init__(self, case: Case, data: TrainingData) -> None:
        self.case, self.experiment = case, case.experiment()
        self.on = find_device(case.device)
        self.graphed, self.tuned = case.variant.endswith("graphs"), case.variant != "torch-usual"
        layers = self.experiment.layers()
        convolves = any(isinstance(layer, Conv2d) for layer in layers)
        last = self.tuned and convolves
        self.format = torch.channels_last if last else torch.contiguous_format
        self.model = nn.Sequential(*plain.modules(layers)).to(self.on)
        if last:
            self.model = self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        labels = data.labels["train"]
        prepared = (data.images["train"] - data.mean).astype(np.float32)
        self.inputs = torch.from_numpy(prepared).to(self.on)
        self.targets = torch.from_numpy(labels).long().to(self.on)
        self.order = case.order(len(labels))
        self.optimizer = _optimizer(self.experiment, self.model, self.tuned, self.graphed)
        self.compiled = case.variant.startswith("torch-compile")
        self.loss: Any = torch.compile(self._loss) if self.compiled else self._loss
        self.graph: torch.cuda.CUDAGraph | None = None

    def start(self) -> None:
        """In place, so that a captured graph goes on with the same memory."""
        canonical = initial_parameters(self.experiment)
        with torch.no_grad():
            for layer, module in zip(self.experiment.layers(), self.model, strict=True):
                norm = isinstance(layer, BatchNorm)
                for name, theta in module.named_parameters():
                    ours = {"weight": "gamma", "bias": "beta"}[name] if norm else name
                    theta.copy_(torch.from_numpy(canonical[f"{layer.name}.{ours}"]))
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.reset_running_stats()
            for state in self.optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor):
                        value.zero_()

    def compile(self, size: int) -> None:
        """Compile and capture, where the variant does; leaves training at its start."""
        self.table = torch.zeros(size, self.experiment.data.batch_size, dtype=torch.long, device=self.on)
        self.row = torch.zeros(1, dtype=torch.long, device=self.on)
        self.losses = torch.zeros(size, device=self.on)
        if self.graphed:
            self._capture()
        elif self.compiled:
            with self._precision():  # what is compiled depends on it
                self._step(self.table[0])
        self.start()

    def plan(self, first: int, count: int) -> Tensor:
        return torch.from_numpy(self.order.table(first, count)).long()

    def train(self, plan: object) -> np.ndarray:
        assert isinstance(plan, Tensor)
        count = len(plan)
        if self.graph is not None:
            self.table[:count].copy_(plan)
            self.row.zero_()
            for _ in range(count):
                self.graph.replay()
        else:
            with self._precision():
                for i, rows in enumerate(plan.to(self.on)):
                    self.losses[i] = self._step(rows)
        return self.losses[:count].cpu().numpy().astype(np.float64)  # waits for the device

    def untrained(self, count: int) -> np.ndarray:
        self.start()
        with torch.no_grad(), self._precision():
            losses = [float(self._loss(rows.to(self.on))) for rows in self.plan(0, count)]
        self.start()
        return np.array(losses)

    def device(self) -> str:
        return f"gpu ({torch.cuda.get_device_name(self.on)})" if self.on.type == "cuda" else "cpu"

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__, "numpy": np.__version__}

    def _precision(self) -> AbstractContextManager[None]:
        return pinned(self.experiment.training.tf32, search=self.tuned)

    def _autocast(self) -> Any:
        if self.case.precision != "bfloat16":
            return nullcontext()
        # A graph's weights must be cast anew in each replay, not once for all.
        return torch.autocast(self.on.type, torch.bfloat16, cache_enabled=not self.graphed)

    def _loss(self, rows: Tensor) -> Tensor:
        x = self.inputs[rows].contiguous(memory_format=self.format)
        with self._autocast():
            logits = self.model(x)
        return functional.cross_entropy(logits.float(), self.targets[rows])

    def _step(self, rows: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(rows)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _capture(self) -> None:
        """One graph of a whole step: it reads its batch from the table's next row and counts on."""

        def step() -> None:
            loss = self._step(self.table.index_select(0, self.row)[0])
            self.losses.index_copy_(0, self.row, loss.reshape(1))
            self.row.add_(1)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with self._precision():
            with torch.cuda.stream(aside):
                for _ in range(3):
                    self.row.zero_()
                    step()
            torch.cuda.current_stream().wait_stream(aside)
            self.optimizer.zero_grad()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                step()


def _optimizer(
    experiment: Experiment, model: nn.Module, fused: bool, capturable: bool
) -> torch.optim.Optimizer:
    o, parameters = experiment.optimization, list(model.parameters())
    kind = {"fused": True} if fused else {}
    if o.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, o.learning_rate, o.momentum, weight_decay=o.weight_decay, nesterov=o.nesterov, **kind
        )
    if capturable:
        kind["capturable"] = True
    adam = torch.optim.Adam if o.optimizer == "adam" else torch.optim.AdamW
    return adam(
        parameters,
        o.learning_rate,
        (o.beta1, o.beta2),
        o.epsilon,
        weight_decay=o.weight_decay,
        amsgrad=o.amsgrad,
        **kind,
    )
