"""Bugs of whole networks and their training step."""

from __future__ import annotations

from functools import partial

from parity.planted import Bug
from parity.planted.edits import alike, edit

# fmt: off
GROUP = "whole networks"
NUMPY, JAX, TORCH = (partial(edit, f"{package}.backend") for package in ("numpy_ref", "jax_models", "torch_models"))
MODEL = ("model",)
STALE = ('updated |= {f"{name}', 'updated | {f"{name}')

BUGS = (
    Bug("labels-one-row-late", "each image has the label of the one before", MODEL, ("loss ds",),
        numpy=NUMPY('labels = self.labels["train"][rows]', 'labels = self.labels["train"][rows - 1]'),
        jax=JAX('data.labels.at[row["indices"]]', 'data.labels.at[(row["indices"] - 1) % len(data.labels)]'),
        torch=TORCH('self.labels["train"][batch.indices]', 'self.labels["train"][batch.indices - 1]')),
    Bug("l2-on-biases", "the L2 penalty covers biases, gamma and beta", MODEL, ("db", "dgamma", "dbeta"),
        **alike("backend", " if is_weight(key)", "")),
    Bug("running-statistics-stale", "running statistics are never updated", MODEL, ("running_mean",),
        numpy=edit("numpy_ref.model", "self.statistics |= cache", "self.statistics | cache"),
        **alike("model", *STALE, of=("jax", "torch"))),
    Bug("evaluation-flag-forgotten", "evaluation runs in training mode", MODEL, ("predictions, running statistics",),
        numpy=NUMPY("self._prepare(images[rows]), batch)", "self._prepare(images[rows]), True)"),
        jax=JAX("network(x, statistics, batch_statistics=batch)", "network(x, statistics, batch_statistics=True)"),
        torch=TORCH("self.statistics, batch_statistics=batch)", "self.statistics, batch_statistics=True)")),
    Bug("resumed-count-lost", "a restored state has done no updates: Adam's corrections begin anew", MODEL, ("resumed",),
        **alike("backend", "self.updates = state.updates", "self.updates = 0")),
    Bug("gradients-accumulate", "zero_grad is forgotten: gradients of earlier batches are added", MODEL, ("updated",),
        torch=TORCH("                self.optimizer.zero_grad()\n", "")),
    Bug("upstream-of-another-layer", "a batch norm gets the upstream gradient of the layer behind it", MODEL, ("dx",),
        numpy=edit("numpy_ref.model", "                break\n            dy = dx", "                break\n            dy = dy if layer.name.startswith('dropout') else dx")),
)
